"""A real audio model judges claims through Ray Data, with the probabilities that plain transformers gives.

Then a verifier of the user's runs in actors. `make soak` kills the command half-way and starts it again.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import soundfile
import torch
from transformers import Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.distill.verification.claim_questions import ClaimQuestion, questions_about
from ssr1_rl.distill.verification.summary import Summary
from ssr1_rl.distill.verifier import read_chains_to_verify, verify
from ssr1_rl.inference.answers import TooManyFailed
from ssr1_rl.inference.request import Request
from tests.unit.distill.listening import make_run

THOUGHTS = [
    "I hear one then two then three.",
    "I hear a beep and a beep and a hum. So the answer is one.",
    "I hear a {} .",
    "Let me think.",
]
MINE = '''
import numpy as np

class Loudness:
    """Chains about loud clips are right."""
    def __init__(self, factor):
        self.factor = factor + 0.0

    def __call__(self, question, waveforms, chain):
        if "hum" in chain:
            raise RuntimeError("no hums")
        return min(1.0, self.factor * float(np.abs(waveforms[0]).mean()))
'''


SETTINGS = """\
  num_orders: 2
  threshold: 0.3
  max_failed_share: 0.25
  engines: {batch_size: 4, max_num_seqs: 4}
"""


def make_launch(folder: Path, model: Path) -> Path:
    """Twenty chains about five clips, one of which is no clip."""
    thoughts = [[thought.format(number) for thought in THOUGHTS] for number in range(5)]
    launch = make_run(folder, thoughts, model, SETTINGS)
    (folder / "4.wav").write_bytes(b"RIFF but no sound")
    return launch


def stored(folder: Path) -> list[str]:
    """The keys of the answers on disk, in the order in which they came."""
    parts = sorted((folder / "run/verify/answers").glob("*.parquet"))
    return [key for part in parts for key in pq.ParquetFile(part).read(columns=["key"])["key"].to_pylist()]


def kill_after_first_answers(launch: Path) -> list[str]:
    """Runs the command until answers are stored, and kills it; returns their keys."""
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "ssr1_rl.cli", "distill", "verify", str(launch)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    limit_s = time.monotonic() + 300
    while not stored(launch.parent) and process.poll() is None and time.monotonic() < limit_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert stored(launch.parent), output.decode()
    return stored(launch.parent)


@dataclass(frozen=True)
class Stage:
    launch: Path
    config: Config
    summary: Summary
    rows: list[dict[str, Any]]  # of verified.parquet


@pytest.fixture(scope="module")
def stage(random_audio_model: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    launch = make_launch(tmp_path_factory.mktemp("verifier"), random_audio_model)
    return judged(launch)


def judged(launch: Path) -> Stage:
    """Runs the stage to its end."""
    config = load_distill(launch, stage="verify")
    summary = verify(config)
    return Stage(launch, config, summary, pq.read_table(launch.parent / "run/verified.parquet").to_pylist())


@pytest.mark.soak
def test_a_killed_stage_judges_the_other_claims_and_none_twice(
    stage: Stage, random_audio_model: Path, ray_cluster: None, tmp_path: Path
) -> None:
    launch = make_launch(tmp_path, random_audio_model)
    first = kill_after_first_answers(launch)
    killed = judged(launch)
    keys = stored(tmp_path)
    assert 0 < len(first) < len(keys) == len(set(keys))
    assert keys[: len(first)] == first
    assert set(keys) == set(stored(stage.launch.parent))
    assert killed.summary.num_judged == stage.summary.num_judged
    assert [row["score"] for row in killed.rows] == pytest.approx([row["score"] for row in stage.rows], abs=1e-5)


def test_every_claim_is_judged_once_and_a_broken_clip_loses_only_its_own_chains(stage: Stage) -> None:
    keys = stored(stage.launch.parent)
    # Three claims in order, two of a list, one of its own: in two orders, about each of four clips.
    assert len(keys) == 4 * 6 * 2 == len(set(keys))
    assert stage.summary.num_asked == 5 * 6 * 2
    assert (stage.summary.num_judged, stage.summary.num_failed, stage.summary.num_unjudgeable) == (12, 3, 5)
    assert len(stage.rows) == 20 and {row["verdict"] for row in stage.rows[3::4]} == {"no claims"}
    lost = stage.rows[16]
    assert not lost["validated"] and lost["score"] is None and lost["verdict"].startswith("failed: ")
    assert ".wav" in lost["verdict"] and not lost["claims"]


def test_the_probabilities_are_those_of_a_plain_forward_pass(stage: Stage) -> None:
    """Of the three letters alone, as the mean of the log-probs of two orders of the choices."""
    model = PlainModel(Path(stage.config.verifier.model))
    ask = ClaimQuestion(stage.config)
    chains = read_chains_to_verify(stage.config).to_judge
    logprobs: dict[tuple[str, str], list[torch.Tensor]] = {}
    for row in questions_about(chains, stage.config.verifier).rows:
        if row["audio"] == [ref.path for ref in chains[-1].question.audio]:
            continue
        letters = model.logits(ask(row))[ask.letters()].log_softmax(-1)
        # In order 1 the letters A, B, C are the second, the third and the first verdict.
        of_outcomes = letters if row["order"] == 0 else letters[[2, 0, 1]]
        logprobs.setdefault((row["audio"][0], str(row["claim"])), []).append(of_outcomes)
    clips = {chain.key: chain.question.audio[0].path for chain in chains}
    compared = 0
    for row in stage.rows:
        for claim in row["claims"]:
            both = logprobs[clips[f"{row['question_id']}/{row['chain']}"], claim["text"]]
            expected = torch.stack(both).mean(0).softmax(-1).tolist()
            assert [claim["supported"], claim["contradicted"], claim["cannot_tell"]] == pytest.approx(
                expected, abs=1e-5
            )
            compared += 1
    assert compared == 24 and len({claim["supported"] for row in stage.rows for claim in row["claims"]}) == 24
    scores = [min(claim["supported"] for claim in row["claims"]) for row in stage.rows if row["claims"]]
    assert scores == [row["score"] for row in stage.rows if row["claims"]]
    assert [row["validated"] for row in stage.rows if row["claims"]] == [score >= 0.3 for score in scores]


class PlainModel:
    """The verifier's model as transformers runs it, clips padded to 30 s."""

    def __init__(self, path: Path) -> None:
        self._model: Any = Qwen2AudioForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
        self._extract = WhisperFeatureExtractor.from_pretrained(path)

    @torch.no_grad()
    def logits(self, request: Request) -> torch.Tensor:
        """Logits of the first token of the response [V]."""
        clip = self._extract(request.waveforms[0], sampling_rate=16000, return_attention_mask=True, return_tensors="pt")
        _, length = self._model.model.audio_tower._get_feat_extract_output_lengths(clip.attention_mask.sum(-1))
        ids = expand_audio_placeholders(request.token_ids, self._model.config.audio_token_id, [int(length)])
        return self._model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            input_features=clip.input_features,
            feature_attention_mask=clip.attention_mask,
        ).logits[0, -1]


def test_a_verifier_of_the_user_s_hears_the_clips_in_actors(stage: Stage) -> None:
    mine = stage.launch.parent / "mine.py"
    mine.write_text(MINE)
    overrides = ["verifier.method=custom", f"verifier.custom.path={mine}:Loudness", "verifier.custom.num_cpus=0.5"]
    overrides += ["verifier.custom.options={factor: 2.0}", "verifier.custom.batch_size=4", "verifier.threshold=0.01"]
    overrides += ["verifier.max_failed_share=0.5"]
    summary = verify(load_distill(stage.launch, overrides, "verify"))
    rows = pq.read_table(stage.launch.parent / "run/verified.parquet").to_pylist()
    assert (summary.num_judged, summary.num_failed) == (12, 8)
    assert rows[1]["verdict"] == f"failed: RuntimeError: no hums ({mine}, line 11, in __call__)"
    loudness = 2.0 * float(np.abs(soundfile.read(stage.launch.parent / "0.wav")[0]).mean())
    assert rows[0]["score"] == pytest.approx(loudness, rel=1e-4) and rows[0]["validated"] and not rows[0]["claims"]
    with pytest.raises(TooManyFailed, match=r"Loudness' cannot be built: TypeError"):
        verify(load_distill(stage.launch, [*overrides, "verifier.custom.options={factor: []}"], "verify"))
