"""Real engines answer rows through Ray Data; what they answer is compared with plain transformers.

`make soak` kills a driver half-way and starts the same stage again, and has an engine that cannot start.
"""

import functools
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from rich.console import Console

from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.prompt import PromptBuilder, expand_audio_placeholders
from ssr1_rl.data.read import read_questions
from ssr1_rl.errors import RunError
from ssr1_rl.inference.answers import Answers, answer_all
from ssr1_rl.inference.engines import VllmBackend
from ssr1_rl.inference.request import Request, Row
from ssr1_rl.rollout.text import ResponseText
from ssr1_rl.types import GREEDY, AudioRef, Clip, Distribution, Question

MAX_TOKENS = 16
BATCH = 8


@functools.cache
def builder(model: str) -> PromptBuilder:
    return PromptBuilder(model, DataConfig())


@dataclass(frozen=True)
class ToRequest:
    """Writes down which rows it was asked for, so that a restart can be seen to leave the others alone."""

    model: str
    asked: str

    def __call__(self, row: Row) -> Request:
        with open(self.asked, "a") as file:
            file.write(f"{row['key']}\n")
        waveform = load_waveform(AudioRef(str(row["path"])), max_audio_s=30.0)
        question = Question(str(row["key"]), str(row["text"]), "", tuple(row["choices"]), (AudioRef(str(row["path"])),))
        prepared = builder(self.model).prepare(question, [Clip("", waveform)], [len(waveform)])
        token_ids = prepared.token_ids * (100 if row["kind"] == "long" else 1)
        temperature = 1.0 if row["kind"] == "sampled" else 0.0
        return Request(
            token_ids,
            (waveform,),
            max_response_tokens=1 if row["kind"] == "restricted" else MAX_TOKENS,
            distribution=Distribution(temperature) if temperature else GREEDY,
            seed=int(row["seed"]),
            allowed_token_ids=tuple(row["allowed"]),
        )


def make_rows(world: Path) -> list[dict[str, object]]:
    """Greedy, sampled (two of three with one seed), restricted and unusable rows of eight questions."""
    spec = DatasetConfig(format="avqa", path=str(world / "world/test.json"), audio_dir=str(world / "world/audio"))
    rows: list[dict[str, object]] = []
    for number, question in enumerate(read_questions(spec, 0.0).questions[:8]):
        common = {
            "path": question.audio[0].path,
            "text": question.text,
            "choices": list(question.choices),
            "seed": 0,
            "allowed": [],
        }
        rows.append(common | {"key": f"{number}/greedy", "kind": "greedy"})
        for name, seed in (("a", 3), ("b", 4), ("c", 3)):
            rows.append(common | {"key": f"{number}/{name}", "kind": "sampled", "seed": seed + number})
        rows.append(common | {"key": f"{number}/restricted", "kind": "restricted", "allowed": [21, 35, 40 + number]})
    rows.insert(2, rows[0] | {"key": "missing", "path": str(world / "no_such.wav")})
    rows.insert(9, rows[0] | {"key": "long", "kind": "long"})
    return rows


def stage(world: Path, folder: Path, model: Path | None = None) -> Answers:
    path = str(model or world / "sft")
    backend = VllmBackend(
        path, "float32", "cpu", EnginesConfig(batch_size=BATCH, max_num_seqs=BATCH), max_model_len=512, max_clips=1
    )
    return answer_all(
        folder,
        make_rows(world),
        ToRequest(str(world / "sft"), str(folder / f"asked_by_{os.getpid()}.txt")),
        backend,
        title="test",
        max_failed_share=0.1,
        fingerprint={"model": path},
        console=Console(file=io.StringIO()),
    )


def killed_driver(world: Path, folder: Path) -> set[str]:
    """Runs the stage in a process that is killed at its first answers; returns the keys that it has stored."""
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.test_inference", str(world), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    limit_s = time.monotonic() + 300
    while not list(folder.glob("answers/*.parquet")) and process.poll() is None and time.monotonic() < limit_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    stored = stored_keys(folder)
    assert stored, output.decode()
    return stored


def stored_keys(folder: Path) -> set[str]:
    import pyarrow.parquet as pq

    parts = [pq.ParquetFile(path).read(columns=["key"])["key"].to_pylist() for path in folder.glob("answers/*.parquet")]
    return {key for part in parts for key in part}


@dataclass(frozen=True)
class Stage:
    world: Path
    folder: Path
    rows: dict[str, dict[str, Any]]
    answers: Answers


@pytest.fixture(scope="module")
def done(soundworld: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    answers = stage(soundworld, folder)
    return Stage(soundworld, folder, {str(row["key"]): row for row in make_rows(soundworld)}, answers)


@pytest.fixture(scope="module")
def plain(soundworld: Path) -> "Plain":
    return Plain(soundworld / "sft")


class Plain:
    """Transformers alone."""

    def __init__(self, path: Path) -> None:
        from transformers import Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

        self._model: Any = Qwen2AudioForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
        self._extract = WhisperFeatureExtractor.from_pretrained(path)
        self._builder = builder(str(path))
        self.text = ResponseText(self._builder.tokenizer)

    def inputs(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        waveform = load_waveform(AudioRef(row["path"]), max_audio_s=30.0)
        question = Question(row["key"], row["text"], "", tuple(row["choices"]), (AudioRef(row["path"]),))
        prepared = self._builder.prepare(question, [Clip("", waveform)], [len(waveform)])
        ids = expand_audio_placeholders(
            prepared.token_ids, self._builder.audio_placeholder_id, prepared.num_audio_tokens
        )
        clip = self._extract(waveform, sampling_rate=16000, return_attention_mask=True, return_tensors="pt")
        tokens = torch.tensor([ids])
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "input_features": clip.input_features,
            "feature_attention_mask": clip.attention_mask,
        }

    @torch.no_grad()
    def greedy(self, row: dict[str, Any]) -> tuple[list[int], int]:
        """The response's tokens, and the length of the prompt."""
        inputs = self.inputs(row)
        tokens = self._model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False, repetition_penalty=1.0)
        length = inputs["input_ids"].shape[1]
        return tokens[0, length:].tolist(), length

    @torch.no_grad()
    def first_logprobs(self, row: dict[str, Any], allowed: list[int]) -> np.ndarray:
        logits = self._model(**self.inputs(row)).logits[0, -1, allowed]
        return logits.double().log_softmax(-1).numpy()


def of_kind(done: Stage, kind: str) -> list[str]:
    return [key for key, row in done.rows.items() if row["kind"] == kind and key in done.answers]


def test_greedy_answers_are_those_of_transformers(done: Stage, plain: Plain):
    keys = [key for key in of_kind(done, "greedy") if key != "missing"]
    assert len(keys) == 8
    for key in keys:
        tokens, length = plain.greedy(done.rows[key])
        answer = done.answers[key]
        reason = "stop" if len(tokens) < MAX_TOKENS else answer.finish_reason
        assert answer.text == plain.text.decode(tokens, reason)
        assert (answer.num_tokens, answer.num_prompt_tokens, answer.finish_reason) == (len(tokens), length, reason)


def test_the_probabilities_of_allowed_tokens(done: Stage, plain: Plain):
    for key in of_kind(done, "restricted"):
        row, answer = done.rows[key], done.answers[key]
        assert sorted(answer.first_logprobs) == sorted(row["allowed"])
        assert answer.num_tokens == 1
        found = [answer.first_logprobs[token] for token in row["allowed"]]
        np.testing.assert_allclose(np.exp(found), np.exp(plain.first_logprobs(row, row["allowed"])), atol=1e-5)


def test_a_seed_repeats_its_sample(done: Stage):
    texts = {key: done.answers[key].text for key in of_kind(done, "sampled")}
    assert len(texts) == 24
    assert all(texts[f"{number}/a"] == texts[f"{number}/c"] for number in range(8))
    assert sum(texts[f"{number}/a"] != texts[f"{number}/b"] for number in range(8)) >= 6


def test_bad_rows_are_told_and_lose_no_other(done: Stage):
    assert sorted(done.answers.failed) == ["long", "missing"]
    assert "no_such.wav" in done.answers["missing"].error
    assert "512" in done.answers["long"].error  # max_model_len
    assert list(done.answers) == list(done.rows)


@pytest.mark.soak
def test_after_a_kill_no_row_is_lost_and_none_asked_twice(done: Stage, tmp_path: Path):
    stored = killed_driver(done.world, tmp_path)
    answers = stage(done.world, tmp_path)
    asked = (tmp_path / f"asked_by_{os.getpid()}.txt").read_text().split()
    assert 0 < len(stored) < len(done.rows)
    assert sorted(asked) == sorted(done.rows.keys() - stored)
    assert stored_keys(tmp_path) == done.rows.keys() - {"long", "missing"}
    assert {key: answers[key].text for key in stored} == {key: done.answers[key].text for key in stored}


def test_no_engine_is_left(done: Stage):
    assert any("raylet" in child.name() for child in psutil.Process().children(recursive=True))
    until = time.monotonic() + 20
    while (left := engines()) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left


def engines() -> list[str]:
    """Processes of engines that this test's cluster has started, orphans among them; not those of other clusters."""
    raylets = {str(child.pid) for child in psutil.Process().children(recursive=True) if child.name() == "raylet"}
    found = []
    for process in psutil.process_iter():
        try:
            name, raylet = " ".join(process.cmdline()), process.environ().get("RAY_RAYLET_PID")
        except psutil.Error:
            continue
        if raylet in raylets and ("EngineCore" in name or "MapWorker(MapBatches(Engine" in name):
            found.append(name)
    return found


@pytest.mark.soak
def test_an_engine_that_cannot_start_tells_the_cause(done: Stage, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    for path in (done.world / "sft").iterdir():
        if path.suffix != ".safetensors":
            (model / path.name).symlink_to(path)
    with pytest.raises(RunError, match=r"an engine of .*model could not start: .*(safetensors|weights)"):
        stage(done.world, tmp_path / "answers", model)


if __name__ == "__main__":
    from tests.integration import test_inference  # Ray's workers know it by this name

    ray.init(log_to_driver=False, logging_level="error")
    test_inference.stage(Path(sys.argv[1]), Path(sys.argv[2]))
