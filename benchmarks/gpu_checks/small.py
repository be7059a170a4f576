"""The small audio model, groups and learner that several checks use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.data.audio import sample_digest
from ssr1_rl.types import SAMPLE_RATE, SOFTMAX, Clip, Distribution, GroupId, PreparedQuestion, Question, TrainGroup

TEXTS = ["How many beeps are there? <think> one beep and two </think> <answer> three </answer>"]
NUM_SPECIAL = 10
"""Token ids below it are special ones or audio placeholders."""


def small_model(folder: Path) -> Path:
    """Writes a Qwen2-Audio of random weights, of sizes that every kernel and tensor parallelism by 2 can split."""
    from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio

    return build_tiny_qwen2_audio(folder / "model", TEXTS, hidden_size=256, num_layers=3, tower_size=64)


def questions(model: Path, number: int, seed: int = 0) -> list[PreparedQuestion]:
    """Prompts of random tokens, each with one clip of noise."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    rng = np.random.default_rng(seed)
    found = []
    for index in range(number):
        clip = (0.1 * rng.standard_normal(int(SAMPLE_RATE * (0.8 + 0.4 * index)))).astype(np.float32)
        tokens = rng.integers(NUM_SPECIAL, config.text_config.vocab_size, size=8).tolist()
        prompt = (*tokens[:4], QWEN2_AUDIO.placeholder_id(config), *tokens[4:])
        question = Question(str(index), "", "")
        clips = (Clip(sample_digest(clip), clip),)
        found.append(PreparedQuestion(question, prompt, clips, (QWEN2_AUDIO.clip_tokens(len(clip)),)))
    return found


def train_group(
    question: PreparedQuestion, responses: Any, logprobs: Any, submitted_version: int, advantages: Any
) -> TrainGroup:
    """A group as the learner gets it."""
    return TrainGroup(
        id=GroupId(0, question.question.id),
        prompt_token_ids=question.token_ids,
        waveforms=question.waveforms,
        responses=tuple(map(tuple, responses)),
        rollout_logprobs=tuple(map(tuple, logprobs)),
        advantages_G=tuple(advantages),
        submitted_version=submitted_version,
        num_audio_tokens=question.num_audio_tokens,
    )


def random_groups(model: Path, number: int) -> list[TrainGroup]:
    """Groups of three responses of random tokens, the same in every process."""
    rng = np.random.default_rng(1)
    groups = []
    for question in questions(model, number):
        lengths = rng.integers(5, 40, size=3)
        # Ids of letters, which every such vocabulary has.
        responses = [rng.integers(NUM_SPECIAL, 200, size=length).tolist() for length in lengths]
        logprobs = [(-rng.uniform(4, 7, size=length)).tolist() for length in lengths]
        groups.append(train_group(question, responses, logprobs, 0, (1.0, -0.5, -0.5)))
    return groups


def learner_settings(
    model: Path, of_model: Mapping[str, Any], of_learner: Mapping[str, Any]
) -> tuple[Any, Any, Any, Distribution, int]:
    """What a learner is started with, after its `RankSpec`: settings, distribution and seed."""
    from ssr1_rl.config.sections.grpo import GrpoConfig
    from ssr1_rl.config.sections.learner import LearnerConfig
    from ssr1_rl.config.sections.model import ModelConfig

    settings = LearnerConfig(**{"num_cpus": 4.0, "max_tokens_per_micro_batch": 400} | dict(of_learner))
    return ModelConfig(path=str(model), **of_model), GrpoConfig(), settings, SOFTMAX, 0
