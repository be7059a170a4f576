"""Runs of SFT on Ray Train. `make soak` has one killed, resumed, restarted, stopped, finished and answering."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.config.schema import Config
from ssr1_rl.data.skipped import TooManyUnusable
from ssr1_rl.distill.finetuning.alone import train_alone
from ssr1_rl.distill.finetuning.checks import check_run
from ssr1_rl.distill.finetuning.messages import Ended, Message
from ssr1_rl.distill.finetuning.rank import SftJob
from ssr1_rl.distill.sft import run_sft
from ssr1_rl.telemetry.metrics import read_metrics
from tests.e2e.commands import ROOT, SSR1_RL, environment

FILE = "launch/sft_local.yaml"
STEPS = 36
TARGETS = ["q_proj", "down_proj"]


def overrides(folder: Path) -> list[str]:
    """Two ranks, ZeRO-2, adapters on a frozen tower; two chains for each question."""
    return [
        f"run.dir={folder}",
        f"sft.max_steps={STEPS}",
        "sft.questions_per_step=6",
        "sft.num_epochs=9",
        "sft.validate_every=12",
        "checkpoint.every=6",
        "data.train.max_questions=40",
        "data.validation.test.max_questions=8",
        "model.train_audio_tower=false",
        "model.lora.rank=4",
        f"model.lora.target_modules=[{','.join(TARGETS)}]",
        "learner.num_cpus=0.5",
        "learner.zero_stage=2",
        "evaluation.engines.num_cpus=0.5",
        "evaluation.engines.num_threads=1",
    ]


def settings(soundworld: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Config:
    monkeypatch.setenv("SSR1_RL_SOUNDWORLD", str(soundworld))
    return load_sft(ROOT / FILE, [*overrides(folder), *more])


def losses(folder: Path) -> dict[int, float]:
    """The loss of every step; a step that is there twice is an error."""
    rows = [row for row in read_metrics(folder) if "train/loss" in row]
    assert len({row["step"] for row in rows}) == len(rows)
    return {int(row["step"]): row["train/loss"] for row in rows}


def authentication() -> dict[str, str]:
    """How the tests' cluster lets processes in."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}


class Command:
    """`ssr1-rl sft` in a process of its own, on the cluster of the tests."""

    def __init__(self, soundworld: Path, folder: Path, address: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [str(SSR1_RL), "sft", FILE, *overrides(folder)],
            cwd=ROOT,
            env=environment(soundworld, RAY_ADDRESS=address, **authentication()),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_step(self, step: int) -> None:
        """Waits until the metrics hold a step."""
        deadline = time.monotonic() + 200
        while not self._has(step):
            assert self._process.poll() is None, self._process.stdout and self._process.stdout.read()
            assert time.monotonic() < deadline, f"step {step} took too long"
            time.sleep(0.02)

    def _has(self, step: int) -> bool:
        path = self._folder / "metrics.jsonl"
        return path.exists() and f'"step": {step},' in path.read_text()

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Sends a signal, if given; the exit code and the output once it has ended."""
        if number:
            self._process.send_signal(number)
        output, _ = self._process.communicate(timeout=200)
        return self._process.returncode, output


def workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers."""
    return [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_survives_every_death_and_is_the_one_that_nothing_disturbed(
    soundworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    config = settings(soundworld, undisturbed, monkeypatch)
    examples = check_run(config).examples
    train_alone(SftJob(config, examples.train, examples.held_out), lambda message: None)
    address = ray.get_runtime_context().gcs_address

    command = Command(soundworld, disturbed, address)
    command.wait_for_step(8)
    command.end(signal.SIGKILL)

    command = Command(soundworld, disturbed, address)
    command.wait_for_step(14)
    victim = workers()[0]
    os.kill(victim.pid, signal.SIGKILL)
    command.wait_for_step(20)
    code, output = command.end(signal.SIGTERM)
    assert code == 130, output
    assert re.search(r"resuming from .*/step_000006", output)
    assert re.search(r"rank \d died without an error of its own", output)
    assert "the ranks have started again, 1 of at most 3 times" in output
    assert re.search(r"resuming from .*/step_000012", output)
    last = max(losses(disturbed))
    assert f"step {last} is saved in {disturbed}/checkpoints" in output
    assert last < STEPS

    summary = run_sft(settings(soundworld, disturbed, monkeypatch))
    told = capsys.readouterr().out
    assert f"resuming from {disturbed}/checkpoints/step_{last:06d}" in told
    expected = losses(undisturbed)
    assert list(losses(disturbed)) == list(expected) == list(range(1, STEPS + 1))
    for step, loss in losses(disturbed).items():
        assert loss == pytest.approx(expected[step], rel=2e-4), step
    check_validation(undisturbed, disturbed)
    check_export(soundworld / "sft", disturbed, summary)
    assert json.loads((disturbed / "summary.json").read_text()) == summary
    assert 0 <= summary["accuracy_test"] <= 1


@pytest.mark.usefixtures("ray_cluster")
def test_two_ranks_in_ray_learn_what_one_rank_in_this_process_learns(
    soundworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["sft.max_steps=4", "sft.validate_every=4", "checkpoint.every=4", "sft.generate=false"]
    alone, in_ray = (settings(soundworld, tmp_path / name, monkeypatch, *few) for name in ("alone", "ray"))
    examples = check_run(alone).examples
    train_alone(SftJob(alone, examples.train, examples.held_out), lambda message: None)
    summary = run_sft(in_ray)
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "alone"), rel=2e-4)
    assert summary["num_steps"] == 4
    exported, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "ray/export", soundworld / "sft")
    )
    assert {name.split(".")[-2] for name in before if not before[name].equal(exported[name])} == set(TARGETS)


def test_what_cannot_be_learned_is_listed_and_too_much_of_it_ends_the_run(
    soundworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((soundworld / "world/train.json").read_text())[:9]
    audio = tmp_path / "audio"
    audio.mkdir()
    for index, row in enumerate(rows):
        clip = audio / f"{row['video_name']}.wav"
        clip.write_bytes(b"RIFF" if index == 4 else (soundworld / f"world/audio/{clip.name}").read_bytes())
    (tmp_path / "train.json").write_text(json.dumps(rows))
    data = [f"data.train.path={tmp_path}/train.json", f"data.train.audio_dir={audio}", "data.max_skipped_share=0.2"]
    config = settings(soundworld, tmp_path / "run", monkeypatch, *data, "sft.num_epochs=2", "sft.validation_share=0")
    examples = check_run(config).examples
    told: list[Message] = []
    train_alone(SftJob(config, examples.train, []), told.append)
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["data/skipped_questions"] == 1
    [skipped] = map(json.loads, (tmp_path / "run/skipped.jsonl").read_text().splitlines())
    assert skipped["question_id"] == examples.train[4].question.id
    assert "train_000004.wav" in skipped["reason"]
    assert told[-1] == Ended(3, is_finished=True)

    config = settings(soundworld, tmp_path / "strict", monkeypatch, *data[:2], "sft.validation_share=0")
    with pytest.raises(TooManyUnusable, match=r"1 of the first \d questions cannot be used.*strict/skipped\.jsonl"):
        train_alone(SftJob(config, examples.train, []), told.append)


def check_validation(undisturbed: Path, disturbed: Path) -> None:
    """The loss on the held-out questions falls, and is the same on one rank and on two."""
    found = [
        {int(row["step"]): row["validation/loss"] for row in read_metrics(folder) if "validation/loss" in row}
        for folder in (undisturbed, disturbed)
    ]
    assert list(found[0]) == [0, 12, 24, 36]
    assert found[0][36] < found[0][0]
    assert found[1] == pytest.approx(found[0], rel=2e-4)


def check_export(base: Path, run: Path, summary: dict[str, Any]) -> None:
    """The export has the names of the published model, and differs from it in the adapters' layers alone."""
    from transformers import Qwen2AudioForConditionalGeneration

    before, after = (load_file(folder / "model.safetensors") for folder in (base, run / "export"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert {name.split(".")[-2] for name in moved} == set(TARGETS)
    assert json.loads((run / "export.json").read_text())["step"] == STEPS, "the lowest validation loss is the last one"
    _, info = Qwen2AudioForConditionalGeneration.from_pretrained(run / "export", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert summary["validation_loss_best"] == summary["validation_loss_last"] < summary["validation_loss_first"]
