"""Writes every completion that a run trained on: one Parquet file per step, one row per completion.

`run_dir/samples/step_000012.parquet` is written under another name and then renamed, so it is never incomplete. Other
names in the folder are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.files import SetAside, replacing, step_of
from ssr1_rl.types import Completion, ScoredGroup

SAMPLES_FOLDER = "samples"
REWARD_PREFIX = "reward/"

# The columns of the reward functions, reward/<name>, follow "reward".
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("policy_version", pa.int64()),
        ("epoch", pa.int64()),
        ("question_id", pa.string()),
        ("attempt", pa.int64()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("ground_truth", pa.string()),
        ("audio", pa.list_(pa.string())),
        ("metadata", pa.string()),  # of the question, as JSON
        ("completion_index", pa.int64()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("oldest_policy_version", pa.int64()),
        ("newest_policy_version", pa.int64()),
    ]
)


class SampleWriter:
    """Writes the samples of the run in `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / SAMPLES_FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(
        self, step: int, policy_version: int, groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Writes the file of the step that trained on these groups; `policy_version` is the one before the step."""
        names = sorted({name for scored in groups for name in scored.breakdown})
        rows = [
            {"step": step, "policy_version": policy_version, **row}
            for scored, advantages_G in zip(groups, advantages, strict=True)
            for row in _group_rows(scored, advantages_G)
        ]
        path = self._folder / f"step_{step:06d}.parquet"
        with replacing(path) as file:
            pq.write_table(pa.Table.from_pylist(rows, _schema(names)), file, compression="zstd")

    def set_aside_after(self, kept_step: int, aside: SetAside) -> None:
        """Renames the files of steps after `kept_step`, which the run writes again; with -1 all files."""
        for path in sorted(self._folder.iterdir()):
            step = step_of(path, ".parquet")
            if step is not None and step > kept_step:
                aside.move(path)


def _schema(reward_names: Sequence[str]) -> pa.Schema:
    fields = list(SCHEMA)
    at = SCHEMA.get_field_index("reward") + 1
    fields[at:at] = [pa.field(REWARD_PREFIX + name, pa.float64()) for name in reward_names]
    return pa.schema(fields)


def _group_rows(scored: ScoredGroup, advantages_G: Sequence[float]) -> list[dict[str, object]]:
    """One row per completion, without `step` and `policy_version`."""
    group, question = scored.group, scored.group.question
    shared = {
        "epoch": group.id.epoch,
        "question_id": _utf8(group.id.question_id),
        "attempt": group.id.attempt,
        "kind": _utf8(question.kind),
        "question": _utf8(question.text),
        "choices": [_utf8(choice) for choice in question.choices],
        "ground_truth": _utf8(question.ground_truth),
        "audio": [_utf8(audio.path) for audio in question.audio],
        "metadata": json.dumps(dict(question.metadata), default=repr),
    }
    return [
        {
            **shared,
            "completion_index": index,
            **_completion_fields(completion, group.submitted_version),
            "reward": reward,
            **{REWARD_PREFIX + name: rewards_G[index] for name, rewards_G in scored.breakdown.items()},
            "advantage": advantage,
        }
        for index, (completion, reward, advantage) in enumerate(
            zip(group.completions, scored.rewards_G, advantages_G, strict=True)
        )
    ]


def _completion_fields(completion: Completion, submitted_version: int) -> dict[str, object]:
    # A completion without tokens has no spans: the version at its submission is used.
    versions = [span.policy_version for span in completion.versions] or [submitted_version]
    return {
        "completion": _utf8(completion.text),
        "token_ids": completion.token_ids,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "oldest_policy_version": min(versions),
        "newest_policy_version": max(versions),
    }


def _utf8(text: str) -> str:
    r"""The text with each lone surrogate, which JSON allows and Parquet does not, written as \udXXX."""
    return text.encode("utf-8", "backslashreplace").decode()
