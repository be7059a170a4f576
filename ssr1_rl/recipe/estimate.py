"""GPU-hours of each stage, reckoned from counts of tokens and the sizes of the models. Nothing here is measured.

A token costs 2 operations per parameter in a forward pass and 6 in training (arXiv 2001.08361, section 2.1), 4 with
LoRA, whose frozen weights need no gradient. A GPU does a share of its peak, which differs between the kinds of work.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.schema import Config

PEAK = 989e12
"""Dense bfloat16 operations per second of an H100 SXM, by NVIDIA's data sheet."""
SHARE_OF_PEAK = {"prefill": 0.4, "decode": 0.08, "train": 0.35}
"""Assumed shares of the peak: reading prompts, generating many responses at a time, and training."""
RESPONSE_SHARE = 0.5
"""Assumed mean length of a response, as a share of the longest one."""
TEXT_TOKENS = 120
"""Assumed tokens of a question with its choices and the instruction."""
PIXELS_PER_TOKEN = 28 * 28
"""Pixels of a frame that become one token in Qwen2.5-VL (14 x 14 patches, merged two by two)."""
CLAIMS_PER_CHAIN = 6
"""Assumed claims of a chain of thought."""
KEPT_SHARE = 0.6
"""Assumed share of chains that a stage keeps."""
AUDIO_TOKENS_PER_S = 25
"""Tokens of a second of audio in Qwen2-Audio and Qwen2.5-Omni."""


@dataclass(frozen=True)
class Work:
    """What one stage computes with one model, in tokens."""

    num_parameters: float
    prefill: float = 0.0
    decode: float = 0.0
    train: float = 0.0
    train_cost: float = 6.0  # operations per parameter and token

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        costs = {
            "prefill": 2.0 * self.prefill,
            "decode": 2.0 * self.decode,
            "train": self.train_cost * self.train,
        }
        seconds = sum(cost * self.num_parameters / (PEAK * SHARE_OF_PEAK[kind]) for kind, cost in costs.items())
        return seconds / 3600


def estimate(
    configs: Mapping[str, Config], student: str, num_train: int, num_validation: int
) -> dict[str, float | None]:
    """GPU-hours of each stage by its name; None where the size of a model is unknown, or a server answers.

    Args:
        configs: the settings of the stages that are needed.
        student: the model that the recipe starts from.
        num_train: questions to train on.
        num_validation: questions of all splits of `data.validation` together.
    """
    size = num_parameters(student)
    works = {
        "generate": lambda config: _generate(config, num_train),
        "verify": lambda config: _verify(config, num_train, configs["generate"].teacher.num_chains),
        "sft": lambda config: _sft(config, size, num_train, _chains_per_question(configs)),
        "grpo": lambda config: _grpo(config, size),
        "evaluate": lambda config: _evaluate(config, size, num_validation),
    }
    return {name: (work.gpu_hours if (work := works[name](config)) else None) for name, config in configs.items()}


def num_parameters(model: str) -> float | None:
    """Parameters of a model: from the weights in its folder, else from its name (7B); None if neither says it."""
    files = list(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    if files:
        from safetensors import safe_open

        total = 0
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                    size = 1
                    for length in file.get_slice(name).get_shape():
                        size *= length
                    total += size
        return float(total)
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![A-Za-z])", Path(model).name)
    return float(found[1]) * 1e9 if found else None


def _generate(config: Config, num_train: int) -> Work | None:
    teacher, size = config.teacher, num_parameters(config.teacher.model)
    if teacher.endpoint.url or size is None:
        return None
    frames = teacher.max_frames * teacher.frame_size**2 * 9 / 16 / PIXELS_PER_TOKEN
    response = RESPONSE_SHARE * teacher.max_response_tokens
    return Work(size, num_train * (frames + TEXT_TOKENS), num_train * teacher.num_chains * response)


def _verify(config: Config, num_train: int, num_chains: int) -> Work | None:
    size = num_parameters(config.verifier.model)
    if size is None or config.verifier.method in ("none", "custom"):
        return None
    claims = CLAIMS_PER_CHAIN if config.verifier.method == "claims" else 1
    # The clip is the common prefix of a question's claims.
    return Work(size, num_train * (_audio(config) + num_chains * KEPT_SHARE * claims * TEXT_TOKENS))


def _sft(config: Config, size: float | None, num_train: int, chains: float) -> Work | None:
    if size is None:
        return None
    response = RESPONSE_SHARE * config.evaluation.max_response_tokens if config.sft.responses != "labels" else 10
    tokens = _audio(config) + TEXT_TOKENS + chains * response
    num_questions = config.sft.num_epochs * num_train
    if config.sft.max_steps:
        num_questions = min(num_questions, config.sft.max_steps * config.sft.questions_per_step)
    return Work(size, train=num_questions * tokens, train_cost=4.0 if config.model.lora.rank else 6.0)


def _grpo(config: Config, size: float | None) -> Work | None:
    if size is None:
        return None
    grpo, num_groups = config.grpo, config.grpo.num_steps * config.grpo.questions_per_step
    responses = grpo.group_size * RESPONSE_SHARE * config.rollout.max_response_tokens
    prompt = _audio(config) + TEXT_TOKENS
    return Work(
        size,
        num_groups * prompt,
        num_groups * responses,
        num_groups * grpo.num_epochs * (prompt + responses),
        4.0 if config.model.lora.rank else 6.0,
    )


def _evaluate(config: Config, size: float | None, num_validation: int) -> Work | None:
    if size is None:
        return None
    evaluation = config.evaluation
    responses = (1 + evaluation.num_samples) * RESPONSE_SHARE * evaluation.max_response_tokens
    num_prompts = num_validation * len(evaluation.models)
    return Work(size, num_prompts * (_audio(config) + TEXT_TOKENS), num_prompts * responses)


def _chains_per_question(configs: Mapping[str, Config]) -> float:
    sft = configs["sft"].sft
    if sft.responses == "labels":
        return 1.0
    kept = configs["generate"].teacher.num_chains * KEPT_SHARE ** (2 if sft.responses == "validated" else 1)
    return min(kept, sft.max_chains_per_question) if sft.max_chains_per_question else kept


def _audio(config: Config) -> float:
    """Tokens of a clip of 10 s, AVQA's length, or of the longest one that is allowed."""
    return AUDIO_TOKENS_PER_S * min(10.0, config.data.max_audio_s)
