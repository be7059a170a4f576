"""A vision teacher with real engines: its command is killed half-way, and the same stage is started again here."""

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
class Killed:
    """A stage that was killed."""

    launch: Path
    run_dir: Path
    stored: list[str]  # keys of the answers on disk
    num_prompt_tokens: int  # of every prompt, as transformers makes it

    def answers(self) -> list[dict[str, Any]]:
        """Those on disk now."""
        parts = sorted((self.run_dir / "generate/answers").glob("*.parquet"))
        return [row for part in parts for row in pq.read_table(part, columns=["key", "num_prompt_tokens"]).to_pylist()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """20 questions about four videos, some of whose chains a real engine has written."""
    folder = tmp_path_factory.mktemp("distill")
    pictures = [[grey(10 * index + frame, 64, 64) for frame in range(10)] for index in range(4)]
    videos = [write_video(folder / f"clip{index}.mp4", frames, rate=5) for index, frames in enumerate(pictures)]
    rows = [
        {"id": str(index), "question": QUESTION.text, "choices": list(QUESTION.choices), "answer": "a bark"}
        | {"audio": [], "video": videos[index % 4].name}
        for index in range(NUM_QUESTIONS)
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    num_prompt_tokens = make_teacher(folder / "teacher", videos)
    launch = folder / "distill.yaml"
    launch.write_text(
        f"run: {{name: distill, dir: {folder}/run, device: cpu}}\n"
        f"data: {{train: {{format: jsonl, path: {folder}/train.json, video_dir: {folder}}}}}\n"
        f"teacher:\n  model: {folder}/teacher\n  dtype: float32\n  num_chains: {NUM_CHAINS}\n  temperature: 1.0\n"
        f"  instruction: {INSTRUCTION}\n  max_frames: {NUM_FRAMES}\n  frame_size: {FRAME_SIZE}\n"
        "  max_response_tokens: 24\n  max_prompt_tokens: 256\n"
        # One request at a time, so that the kill finds some answered and others not.
        "  engines: {batch_size: 2, max_num_seqs: 1, num_threads: 1}\n"
    )
    stage = Killed(launch, folder / "run", [], num_prompt_tokens)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ssr1_rl.cli", "distill", "generate", str(launch)], stdout=log, stderr=log
        )
        while not stage.answers():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stored = [row["key"] for row in stage.answers()]
    assert 0 < len(stored) < NUM_ROWS
    return Killed(launch, folder / "run", stored, num_prompt_tokens)


def test_a_killed_teacher_goes_on_does_no_row_twice_and_its_chains_are_judged(
    killed: Killed, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(load_distill(killed.launch, ["teacher.engines.max_num_seqs=8", "teacher.engines.batch_size=16"]))
    assert f"{len(killed.stored)} of {NUM_ROWS} rows are answered already" in capsys.readouterr().out
    answers = killed.answers()
    assert [row["key"] for row in answers][: len(killed.stored)] == killed.stored
    assert Counter(row["key"] for row in answers) == {
        f"{q}/{c}": 1 for q in range(NUM_QUESTIONS) for c in range(NUM_CHAINS)
    }
    # vLLM expands the prompt's placeholders to what transformers makes of the frames.
    assert {row["num_prompt_tokens"] for row in answers} == {killed.num_prompt_tokens}
    chains = read_chains(killed.run_dir / "chains.parquet")
    assert len(chains) == NUM_ROWS
    assert sum(bool(chain.is_right) for chain in chains) > NUM_ROWS / 2, Counter(chain.reason for chain in chains)
    kept = {chain.text for chain in chains if chain.kept}
    assert "<think> a dog and then a bark </think> <answer> a bark </answer>" in kept
