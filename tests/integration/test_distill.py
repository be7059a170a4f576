"""A vision teacher with real engines writes chains of thought. `make soak` kills it half-way and starts it again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.distill.chains import read_chains
from ssr1_rl.distill.teacher import generate
from tests.integration.tiny_teacher import FRAME_SIZE, INSTRUCTION, NUM_FRAMES, QUESTION, make_teacher
from tests.unit.data.videos import grey, write_video

NUM_QUESTIONS, NUM_CHAINS = 20, 3
NUM_ROWS = NUM_QUESTIONS * NUM_CHAINS


@dataclass(frozen=True)
class Stage:
    """20 questions about four videos, and a teacher."""

    launch: Path
    run_dir: Path
    num_prompt_tokens: int  # of every prompt, as transformers makes it

    def answers(self) -> list[dict[str, Any]]:
        """Those on disk now."""
        parts = sorted((self.run_dir / "generate/answers").glob("*.parquet"))
        return [row for part in parts for row in pq.read_table(part, columns=["key", "num_prompt_tokens"]).to_pylist()]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    pictures = [[grey(10 * index + frame, 64, 64) for frame in range(10)] for index in range(4)]
    videos = [write_video(tmp_path / f"clip{index}.mp4", frames, rate=5) for index, frames in enumerate(pictures)]
    rows = [
        {"id": str(index), "question": QUESTION.text, "choices": list(QUESTION.choices), "answer": "a bark"}
        | {"audio": [], "video": videos[index % 4].name}
        for index in range(NUM_QUESTIONS)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    num_prompt_tokens = make_teacher(tmp_path / "teacher", videos)
    launch = tmp_path / "distill.yaml"
    launch.write_text(
        f"run: {{name: distill, dir: {tmp_path}/run, device: cpu}}\n"
        f"data: {{train: {{format: jsonl, path: {tmp_path}/train.json, video_dir: {tmp_path}}}}}\n"
        f"teacher:\n  model: {tmp_path}/teacher\n  dtype: float32\n  num_chains: {NUM_CHAINS}\n  temperature: 1.0\n"
        f"  instruction: {INSTRUCTION}\n  max_frames: {NUM_FRAMES}\n  frame_size: {FRAME_SIZE}\n"
        "  max_response_tokens: 24\n  max_prompt_tokens: 256\n"
        "  engines: {batch_size: 16, max_num_seqs: 8, num_threads: 1}\n"
    )
    return Stage(launch, tmp_path / "run", num_prompt_tokens)


def check_chains(stage: Stage) -> None:
    """Every chain was asked for once, with the prompt that transformers makes, and judged."""
    answers = stage.answers()
    assert Counter(row["key"] for row in answers) == {
        f"{q}/{c}": 1 for q in range(NUM_QUESTIONS) for c in range(NUM_CHAINS)
    }
    # vLLM expands the prompt's placeholders to what transformers makes of the frames.
    assert {row["num_prompt_tokens"] for row in answers} == {stage.num_prompt_tokens}
    chains = read_chains(stage.run_dir / "chains.parquet")
    assert len(chains) == NUM_ROWS
    assert sum(bool(chain.is_right) for chain in chains) > NUM_ROWS / 2, Counter(chain.reason for chain in chains)
    kept = {chain.text for chain in chains if chain.kept}
    assert "<think> a dog and then a bark </think> <answer> a bark </answer>" in kept


def test_a_teacher_writes_every_chain_once_and_they_are_judged(stage: Stage, ray_cluster: None) -> None:
    generate(load_distill(stage.launch))
    check_chains(stage)


@pytest.mark.soak
def test_a_killed_teacher_goes_on_and_does_no_row_twice(
    stage: Stage, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # One request at a time, so that the kill finds some answered and others not.
    slowly = ["teacher.engines.batch_size=2", "teacher.engines.max_num_seqs=1"]
    command = [sys.executable, "-m", "ssr1_rl.cli", "distill", "generate", str(stage.launch), *slowly]
    with (stage.run_dir.parent / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while not stage.answers():
            assert process.poll() is None, (stage.run_dir.parent / "log").read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stored = [row["key"] for row in stage.answers()]
    assert 0 < len(stored) < NUM_ROWS
    generate(load_distill(stage.launch))
    assert f"{len(stored)} of {NUM_ROWS} rows are answered already" in capsys.readouterr().out
    assert [row["key"] for row in stage.answers()][: len(stored)] == stored
    check_chains(stage)
