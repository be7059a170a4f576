"""What a stage's output depends on, as a mapping of names to digests, so that a change can be named."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from ssr1_rl.config.environment import as_written
from ssr1_rl.config.kinds import dotted, flat
from ssr1_rl.config.schema import SECTIONS, Config
from ssr1_rl.config.sections.data import DatasetConfig

Fingerprint = dict[str, str]
"""Digest of each input of a stage, by a name that a user can read: a setting, a file, a model, the code."""

ENDS_BYTES = 2**16
"""Bytes at the start and at the end of a large file that its digest covers, beside its size."""

WITHOUT_EFFECT = re.compile(
    r"run\.(?!device|seed)|(checkpoint|telemetry|guard)\.|\w+\.engines\.(?!engine_args)|teacher\.endpoint\.(?!url|request_fields)"
    r"|(rollout|learner)\.(num_workers|num_cpus|num_threads|.*port|.*timeout_s|offload_.*|audio_cache_mib)"
    r"|learner\.(zero_stage|max_tokens_per_micro_batch|prefix_packing)|rollout\.(gpu_memory|kv_cache|max_num_seqs)"
    r"|data\.audio_cache_mib|sft\.max_failures|verifier\.custom\.(num_|batch_size)|rewards\[\d+\]\.(num_|timeout_s|max_retries|max_concurrency)"
)
"""Settings that say where and how fast a stage runs. They may change between two starts of a recipe."""


def of_settings(config: Config, command: str) -> Fingerprint:
    """The settings that a command reads, one entry each."""
    sections = {name: dataclasses.asdict(config)[name] for name in SECTIONS[command]}
    values = {dotted(key): value for key, value in flat(as_written(sections)).items()}
    return {
        name: json.dumps(value, ensure_ascii=False) for name, value in values.items() if not WITHOUT_EFFECT.match(name)
    }


def of_data(dataset: DatasetConfig, name: str) -> Fingerprint:
    """The file of questions of a split; its clips are taken to be those that it names."""
    return {f"file of {name}": of_path(Path(dataset.path))}


def of_model(path: str, name: str) -> Fingerprint:
    """A model: its folder's files, or its name on the hub."""
    folder = Path(path)
    return {f"model of {name}": of_path(folder) if folder.is_dir() else f"hub: {path}"}


def of_path(path: Path) -> str:
    """Digest of a file, or of every file in a folder with its name; "missing" if there is none.

    Times of change do not count, so a copy has the digest of its original.
    """
    if path.is_dir():
        parts = [f"{p.relative_to(path)} {_of_file(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return _digest("\n".join(parts).encode())
    return _of_file(path) if path.is_file() else "missing"


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, as a user reads it: "learner.learning_rate (0.001 before, 0.0005 now)"."""
    lines = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            values = f" ({before.get(name, 'not there')} before, {now.get(name, 'not there')} now)"
            lines.append(name + (values if "." in name and " " not in name else ""))
    return lines


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS_BYTES)
        file.seek(max(len(head), size - ENDS_BYTES))
        return _digest(f"{size}".encode() + head + file.read())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()
