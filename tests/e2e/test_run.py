"""A user's run: it trains, is stopped, goes on, and is exported; and leaves no process behind."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from ssr1_rl.store.checkpoints import open_checkpoint
from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment, grpo
from tests.metric_names import undocumented


@pytest.fixture(scope="module")
def finished(soundworld: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps with a user's own reward."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "my_rewards.py").write_text(
        "def brevity(question, completions, longest=24):\n"
        "    return [1 - len(c.token_ids) / longest for c in completions]\n"
    )
    rewards = (
        "rewards=[{name: accuracy}, {name: format, weight: 0.2, options: {partial_credit: true}},"
        f" {{path: '{folder}/my_rewards.py:brevity', weight: 0.1, num_cpus: 0.1, options: {{longest: 48}}}}]"
    )
    done = grpo(soundworld, f"run.dir={folder}/run", rewards, "rollout.num_cpus=0.8", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    return folder / "run"


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


def test_a_finished_run_resumes_when_asked_for_more_steps(soundworld: Path, finished: Path) -> None:
    family = ("grpo.preset=reinforce_pp", "grpo.kl_target=0.001", "grpo.dynamic_sampling=true")
    weights = ("grpo.importance_correction=truncate", "grpo.entropy_bonus=0.001")
    more = ("grpo.num_steps=3", "grpo.max_staleness=1", *family, *weights)
    done = grpo(soundworld, f"run.dir={finished}", *SMALL, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming from" in done.stdout
    assert "preset reinforce_pp (REINFORCE++, arXiv 2501.03262): " in done.stdout
    assert "changed setting: grpo.num_steps: 2 before, 3 now" in done.stdout
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "time/step_s" in row] == [1, 2, 3]
    [third] = [row for row in rows if row["step"] == 3 and "time/step_s" in row]
    assert third["train/kl_coefficient"] == 0.001
    assert third["train/kl_to_reference"] != 0, "two steps away from the reference"
    assert 0.5 < third["train/effective_sample_size"] <= 1.0
    kept = open_checkpoint(finished / "checkpoints" / "step_000003").controller_state()["kl_coefficient"]
    assert kept != 0.001, "adapted after the step"
    assert kept == pytest.approx(0.001, rel=0.021)
    epochs_and_questions = set()
    for step in (1, 2, 3):
        table = pyarrow.parquet.read_table(finished / "samples" / f"step_{step:06d}.parquet").to_pylist()
        asked = {(row["epoch"], row["question_id"]) for row in table}
        assert len(asked) == 4
        assert not asked & epochs_and_questions, "no question twice in an epoch"
        epochs_and_questions |= asked


def test_ctrl_c_stops_cleanly_and_the_run_resumes(soundworld: Path, tmp_path: Path) -> None:
    overrides = [f"run.dir={tmp_path}/run", *SMALL, "grpo.num_steps=500", "grpo.validate_every=0"]
    command = [str(SSR1_RL), "grpo", "launch/local.yaml", *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(soundworld), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: (tmp_path / "run/checkpoints/step_000002").exists(), 200, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ray" in p.name().lower() or "vllm" in p.name().lower() for p in family)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "run the same command again to resume from the newest checkpoint" in output
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive, f"left behind: {[p.cmdline() for p in alive]}"

    steps = sorted(p.name for p in (tmp_path / "run/checkpoints").glob("step_*"))
    last = int(steps[-1].removeprefix("step_"))
    done = grpo(soundworld, *overrides, f"grpo.num_steps={last + 1}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resuming from {tmp_path}/run/checkpoints/{steps[-1]}" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "time/step_s" in row] == list(range(1, last + 2))


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
    soundworld: Path, finished: Path, tmp_path: Path
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

    again = subprocess.run(export, env=environment(soundworld), capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
