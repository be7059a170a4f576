"""Writes the model of a finished SFT run into its folder: a Hugging Face folder that GRPO and vLLM load."""

from __future__ import annotations

import json
from pathlib import Path

from ssr1_rl.config.schema import Config
from ssr1_rl.files import SetAside, write_json
from ssr1_rl.store.export import choose_checkpoint, export_checkpoint

EXPORT = "export"
STAMP = "export.json"
"""Which checkpoint the export is of; written after it."""


def export(config: Config) -> Path:
    """Exports the checkpoint that `sft.export` names, LoRA adapters merged in; returns the folder.

    An export of the same checkpoint is kept, any other one is set aside.
    """
    run_dir = Path(config.run.dir)
    folder, stamp = run_dir / EXPORT, run_dir / STAMP
    checkpoint = choose_checkpoint(run_dir, config.sft.export)
    made = {"checkpoint": checkpoint.identity(), "step": checkpoint.step, "dtype": config.model.dtype}
    if (folder / "config.json").is_file() and _read(stamp) == made:
        return folder
    stamp.unlink(missing_ok=True)
    if folder.exists() and any(folder.iterdir()):
        SetAside(run_dir, checkpoint.step).move(folder)
    export_checkpoint(checkpoint, config.model.path, folder, config.model.dtype)
    write_json(stamp, made)
    return folder


def _read(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        return None
