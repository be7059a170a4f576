"""The export of a run: of the best or the last checkpoint; kept if it is of the same one, else set aside."""

import asyncio
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.distill.finetuning.export import export
from ssr1_rl.store.checkpoints import CheckpointStore


@pytest.fixture
def config(random_text_model, tmp_path):
    overrides = [f"model.path={random_text_model}", f"run.dir={tmp_path}", "run.name=x", "data.train.path=q.json"]
    return load_sft(None, [*overrides, "sft.responses=labels", "model.dtype=float32"])


def save(config, tmp_path, step, score):
    """A checkpoint whose weights are all `step`."""
    weights = load_file(f"{config.model.path}/model.safetensors")

    async def write(folder):
        save_file({n: torch.full_like(w, step) for n, w in weights.items()}, folder / "weights-00000.safetensors")
        (folder / "learner.json").write_text(json.dumps({"lora": None}))

    asyncio.run(CheckpointStore(tmp_path, CheckpointConfig()).save(step, {"step": step}, score, write))


def exported(folder):
    return {float(weight.flatten()[0]) for weight in load_file(folder / "model.safetensors").values()}


def test_the_checkpoint_of_the_lowest_validation_loss_or_the_last_one_is_exported(config, tmp_path):
    for step, loss in ((1, 2.5), (2, 1.5), (3, 1.75)):
        save(config, tmp_path, step, -loss)
    folder = export(config)
    assert exported(folder) == {2.0}
    config.sft.export = "last"
    assert exported(export(config)) == {3.0}
    [aside] = (tmp_path / "set_aside").iterdir()
    assert exported(aside / "export") == {2.0}


def test_without_a_validation_loss_the_last_one_is_exported_and_kept(config, tmp_path):
    save(config, tmp_path, 1, None)
    save(config, tmp_path, 2, None)
    folder = export(config)
    assert exported(folder) == {2.0}
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert export(config) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "set_aside").exists()


def test_an_export_that_was_killed_is_made_again(config, tmp_path):
    save(config, tmp_path, 1, None)
    folder = export(config)
    (tmp_path / "export.json").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert exported(export(config)) == {1.0}
