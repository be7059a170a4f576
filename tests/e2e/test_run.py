"""A user's run: it trains, is stopped, resumes, and is exported; it leaves no process behind."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from ssr1_rl.cli import main
from ssr1_rl.store.checkpoints import open_checkpoint
from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment, grpo
from tests.metric_names import undocumented


def test_a_run_leaves_its_figures(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["num_steps"] == 2
    for name in ("samples_per_s", "rollout_tokens_per_s", "learner_tokens_per_s", "wall_s"):
        assert summary[name] > 0
    assert 0 <= summary["accuracy_before_grpo"] <= 1
    assert summary["logprob_abs_diff_max"] < 1e-4
    assert summary["accuracy_after_grpo_unseen_scenes"] is not None
    assert list((finished / "tensorboard").glob("events*"))
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert undocumented({name for row in rows for name in row} - {"step", "time_s"}) == []


def test_samples_are_kept_with_their_rewards(finished: Path) -> None:
    table = pyarrow.parquet.read_table(finished / "samples" / "step_000001.parquet").to_pylist()
    assert len(table) == 4 * 4
    for row in table:
        total = row["reward/accuracy"] + 0.2 * row["reward/format"] + 0.1 * row["reward/brevity"]
        assert row["reward"] == pytest.approx(total)
        assert row["reward/brevity"] == pytest.approx(1 - row["num_tokens"] / 48)
        assert row["oldest_policy_version"] == row["newest_policy_version"] == 0


@dataclass(frozen=True)
class Stopped:
    """The run that was finished, asked for many more steps with other settings, and stopped by ctrl-c among them.

    `left_behind` are processes that outlived it.
    """

    folder: Path
    returncode: int
    output: str
    left_behind: list[str]

    def last_step(self) -> int:
        """The step of the newest checkpoint."""
        return max(int(p.name.removeprefix("step_")) for p in (self.folder / "checkpoints").glob("step_*"))


MORE = [
    *("grpo.preset=reinforce_pp", "grpo.kl_target=0.001", "grpo.dynamic_sampling=true", "grpo.max_staleness=1"),
    *("grpo.importance_correction=truncate", "grpo.entropy_bonus=0.001", "checkpoint.keep_last=100"),
    *("telemetry.stall_warning_s=5", "telemetry.trackers=[trackio]"),
]


@pytest.fixture(scope="module")
def stopped(soundworld: Path, finished: Path) -> Stopped:
    command = [str(SSR1_RL), "grpo", "launch/local.yaml", f"run.dir={finished}", *SMALL, *MORE, "grpo.num_steps=500"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(soundworld), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: (finished / "checkpoints/step_000004").exists(), 200, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ray" in p.name().lower() or "vllm" in p.name().lower() for p in family)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=5)
    return Stopped(finished, process.returncode, output, [str(p.cmdline()) for p in alive])


def test_a_finished_run_goes_on_when_asked_for_more_steps(stopped: Stopped) -> None:
    assert f"from {stopped.folder}/checkpoints/step_000002" in stopped.output
    assert "preset reinforce_pp (REINFORCE++, arXiv 2501.03262): " in stopped.output
    assert "grpo.num_steps: 2 before, 500 now" in stopped.output
    assert re.search(r"(?s)no progress for \d+ s .*  rollout \(1 engines\): starting for \d+ s", stopped.output)
    [third] = [row for row in rows_of_steps(stopped.folder) if row["step"] == 3]
    # With max_staleness=1 no token of this step is of the current policy: the probe after the sync compares.
    assert third["train/comparable_tokens"] > 0
    assert third["train/logprob_abs_diff_max"] < 1e-4
    assert third["train/kl_coefficient"] == 0.001
    assert third["train/kl_to_reference"] != 0, "two steps away from the reference"
    assert 0.5 < third["train/effective_sample_size"] <= 1.0
    kept = open_checkpoint(stopped.folder / "checkpoints" / "step_000003").controller_state()["kl_coefficient"]
    assert kept != 0.001, "adapted after the step"
    assert kept == pytest.approx(0.001, rel=0.021)


def test_ctrl_c_stops_cleanly(stopped: Stopped) -> None:
    assert stopped.returncode == 130
    assert "SIGINT: finishing this step, saving it, then stopping" in stopped.output
    assert f"step {stopped.last_step()} is saved in {stopped.folder}/checkpoints" in stopped.output
    assert [row["step"] for row in rows_of_steps(stopped.folder)][-1] == stopped.last_step(), "no step was lost"
    assert not (stopped.folder / "set_aside").exists(), "and nothing had to be set aside by the resume before"
    assert stopped.left_behind == []


def test_a_stopped_run_resumes(soundworld: Path, stopped: Stopped) -> None:
    last = stopped.last_step()
    overrides = [f"run.dir={stopped.folder}", *SMALL, *MORE, f"grpo.num_steps={last + 1}"]
    done = grpo(soundworld, *overrides, "grpo.validate_every=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"from {stopped.folder}/checkpoints/step_{last:06d}" in done.stdout
    assert [row["step"] for row in rows_of_steps(stopped.folder)] == list(range(1, last + 2))
    epochs_and_questions = set()
    for step in range(1, last + 2):
        table = pyarrow.parquet.read_table(stopped.folder / "samples" / f"step_{step:06d}.parquet").to_pylist()
        asked = {(row["epoch"], row["question_id"]) for row in table}
        assert len(asked) == 4
        assert not asked & epochs_and_questions, "no question twice in an epoch"
        epochs_and_questions |= asked
    database = sqlite3.connect(soundworld / "trackio" / "ssr1-rl.db")
    tracked = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert len({name for name, _, _ in tracked}) == 1, "the resumed run continues the tracker's"
    assert [step for _, step, row in tracked if "time/step_s" in json.loads(row)] == list(range(3, last + 2))


def rows_of_steps(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "time/step_s" in row]


def wait_for(condition, timeout_s: float, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


EXPORT_CHECK = """
import sys, json, torch, numpy as np, soundfile
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
from vllm import LLM, SamplingParams
folder, clip = sys.argv[1:]
model, info = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
processor = AutoProcessor.from_pretrained(folder)
waveform, rate = soundfile.read(clip, dtype="float32")
content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": "How many beeps are there?"}]
chat = [{"role": "user", "content": content}]
text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
engine = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, distributed_executor_backend="uni",
             generation_config="vllm", logprobs_mode="processed_logprobs")
[out] = engine.generate([{"prompt": text, "multi_modal_data": {"audio": (waveform, rate)}}],
                        SamplingParams(temperature=1.0, max_tokens=12, logprobs=0, ignore_eos=True))
tokens = list(out.outputs[0].token_ids)
theirs = [position[token].logprob for position, token in zip(out.outputs[0].logprobs, tokens)]
inputs = processor(text=text, audio=[waveform], sampling_rate=rate, return_tensors="pt")
ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
with torch.no_grad():
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=inputs["input_features"],
                   feature_attention_mask=inputs["feature_attention_mask"]).logits
start = inputs["input_ids"].shape[1] - 1
ours = torch.log_softmax(logits[0, start:-1], -1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
print(json.dumps({"tokens": len(tokens), "gap": float((ours - torch.tensor(theirs)).abs().max())}))
"""


def test_an_export_loads_in_transformers_and_vllm_with_equal_logprobs(
    soundworld: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export = [str(SSR1_RL), "export", str(finished), "--step", "last", "--output", str(tmp_path / "hf")]
    done = subprocess.run(export, env=environment(soundworld), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, after = (p / "model.safetensors" for p in (soundworld / "sft", tmp_path / "hf"))
    assert before.read_bytes() != after.read_bytes(), "the run has trained the model"
    clip = next((soundworld / "world/audio").glob("*.wav"))
    (tmp_path / "check.py").write_text(EXPORT_CHECK)
    settings = environment(
        soundworld, VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", OMP_NUM_THREADS="1"
    )
    check = subprocess.run(
        [SSR1_RL.parent / "python", tmp_path / "check.py", tmp_path / "hf", clip],
        env=settings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert check.returncode == 0, check.stderr[-3000:]
    figures = json.loads(check.stdout.splitlines()[-1])
    assert figures["tokens"] == 12
    assert figures["gap"] < 1e-4

    monkeypatch.setattr("sys.argv", export)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "is not empty" in capsys.readouterr().err
