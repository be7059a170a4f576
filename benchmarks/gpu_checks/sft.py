"""SFT on Ray Train's workers: full in bfloat16 with ZeRO-2, LoRA with ZeRO-3; the loss falls, the export loads."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpu_checks.registry import need_gpus, num_gpus
from gpu_checks.small import small_model

NUM_QUESTIONS = 16
STEPS = 12
WAYS: dict[str, dict[str, Any]] = {
    "ZeRO-2": {"learner.zero_stage": 2, "model.train_audio_tower": "true"},
    "LoRA with ZeRO-3": {"learner.zero_stage": 3, "model.lora.rank": 8, "learner.learning_rate": 1e-2},
}


def run(device: str) -> str:
    """Two ranks where the machine has two devices, else one."""
    if device == "cuda":
        need_gpus(1)
    ranks = 2 if device == "cpu" else min(2, num_gpus())
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder))
        for name, settings in WAYS.items():
            first, last = train(Path(folder), device, ranks, name, settings)
            assert last < 0.7 * first, f"{name}: the loss went from {first} to {last}"
            found.append(f"{name} {first:.2f} to {last:.2f}")
    return f"{ranks} rank(s), loss: {'; '.join(found)}"


def write_world(folder: Path) -> None:
    """A small model, clips of noise, and questions about them that all have one answer."""
    import soundfile

    small_model(folder)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(NUM_QUESTIONS):
        soundfile.write(folder / f"{index}.wav", 0.1 * rng.standard_normal(16000 + 1600 * index), 16000)
        rows.append({"id": str(index), "question": "How many beeps?", "answer": "three", "audio": f"{index}.wav"})
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def train(folder: Path, device: str, ranks: int, name: str, settings: dict[str, Any]) -> tuple[float, float]:
    """One run; the loss of its first and of its last step."""
    from transformers import Qwen2AudioForConditionalGeneration

    from ssr1_rl.checks.sft_rules import load_sft
    from ssr1_rl.distill.sft import run_sft

    run_dir = folder / name.replace(" ", "_")
    values: dict[str, Any] = {
        "run.name": "smoke",
        "run.dir": run_dir,
        "run.device": device,
        "model.path": folder / "model",
        "model.dtype": "bfloat16",
        "data.train.format": "jsonl",
        "data.train.path": folder / "train.jsonl",
        "sft.responses": "labels",
        "sft.num_epochs": STEPS,
        "sft.questions_per_step": NUM_QUESTIONS,
        "sft.validation_share": 0,
        "learner.num_workers": ranks,
        "learner.learning_rate": 1e-3,
    }
    summary = run_sft(load_sft(None, [f"{key}={value}" for key, value in (values | settings).items()]))
    _, info = Qwen2AudioForConditionalGeneration.from_pretrained(run_dir / "export", output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return summary["loss_first"], summary["loss_last"]
