"""Samples: everything about a completion comes back from its Parquet file."""

import dataclasses
import os

import pyarrow.parquet as pq
import pytest

from ssr1_rl.files import SetAside
from ssr1_rl.telemetry.samples import SampleWriter
from ssr1_rl.types import AudioRef, Completion, GroupId, Question, RolloutGroup, ScoredGroup, VersionSpan

METADATA = {"level": 3, "tags": ["x", None], "half": "\ud83d"}


def scored_group(question_id="q1", text="What barks?", completion="[red]dog[/nope]\n"):
    clips = (AudioRef("a.wav"), AudioRef("b.wav"))
    question = Question(question_id, text, "dog", ("dog", "cat"), clips, kind="sound", metadata=METADATA)
    first = Completion((5, 6, 7), (-0.1,) * 3, completion, "stop", (VersionSpan(3, 0, 2), VersionSpan(4, 2, 3)))
    empty = Completion((), (), "", "stop")
    group = RolloutGroup(GroupId(2, question_id, 1), question, (first, empty), submitted_version=3)
    return ScoredGroup(group, (1.5, 0.0), {"format": (1.0, 0.0), "accuracy": (1.0, float("nan"))})


def read_samples(run_dir, step):
    return pq.ParquetFile(run_dir / "samples" / f"step_{step:06d}.parquet").read()


def test_round_trip(tmp_path):
    SampleWriter(tmp_path).write(12, 4, [scored_group(), scored_group("q2")], [(1.0, -1.0), (0.5, -0.5)])
    path = tmp_path / "samples" / "step_000012.parquet"
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    table = read_samples(tmp_path, 12)
    first, second, third, _ = table.to_pylist()
    assert first == {
        "step": 12,
        "policy_version": 4,
        "epoch": 2,
        "question_id": "q1",
        "attempt": 1,
        "kind": "sound",
        "question": "What barks?",
        "choices": ["dog", "cat"],
        "ground_truth": "dog",
        "audio": ["a.wav", "b.wav"],
        "metadata": '{"level": 3, "tags": ["x", null], "half": "\\ud83d"}',
        "completion_index": 0,
        "completion": "[red]dog[/nope]\n",
        "token_ids": [5, 6, 7],
        "num_tokens": 3,
        "finish_reason": "stop",
        "reward": 1.5,
        "reward/accuracy": 1.0,
        "reward/format": 1.0,
        "advantage": 1.0,
        "oldest_policy_version": 3,
        "newest_policy_version": 4,
    }
    assert (second["completion_index"], second["token_ids"], second["reward/accuracy"] != 0.0) == (1, [], True)
    assert (second["oldest_policy_version"], second["newest_policy_version"]) == (3, 3)
    assert (third["question_id"], third["advantage"]) == ("q2", 0.5)
    assert str(table.schema.field("token_ids").type.value_type) == "int32"


def test_a_reward_that_does_not_apply_is_null(tmp_path):
    scored = dataclasses.replace(scored_group(), breakdown={"judge": (None, 0.5)})
    SampleWriter(tmp_path).write(1, 0, [scored], [(0.0, 0.0)])
    assert [row["reward/judge"] for row in read_samples(tmp_path, 1).to_pylist()] == [None, 0.5]


def test_half_a_surrogate_pair_does_not_stop_the_run(tmp_path):
    SampleWriter(tmp_path).write(1, 0, [scored_group(text="bark \ud83d", completion="\ud83d")], [(0.0, 0.0)])
    row = read_samples(tmp_path, 1).to_pylist()[0]
    assert (row["question"], row["completion"]) == ("bark \\ud83d", "\\ud83d")


def test_advantages_must_fit(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        SampleWriter(tmp_path).write(1, 0, [scored_group()], [(1.0,)])
    assert os.listdir(tmp_path / "samples") == []


def test_a_killed_write_leaves_no_file_under_the_steps_name(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            SampleWriter(tmp_path).write(1, 0, [scored_group()], [(1.0, -1.0)])
    with pytest.raises(FileNotFoundError):
        read_samples(tmp_path, 1)
    assert os.listdir(tmp_path / "samples") == []


def test_files_of_later_steps_are_set_aside_and_strangers_stay(tmp_path):
    writer = SampleWriter(tmp_path)
    for step in (9, 10, 11, 1_000_000):
        writer.write(step, 0, [scored_group()], [(1.0, -1.0)])
    strangers = ["step_notes.txt", "step_000012.parquet.bak", "step_12.parquet", "step_000012_mine.parquet"]
    for name in strangers:
        (tmp_path / "samples" / name).write_text("mine")
    aside = SetAside(tmp_path, 10)
    writer.set_aside_after(10, aside)
    assert set(os.listdir(tmp_path / "samples")) == {"step_000009.parquet", "step_000010.parquet", *strangers}
    moved = sorted(path.name for path in (aside.folder / "samples").iterdir())
    assert moved == ["step_000011.parquet", "step_1000000.parquet"]
