"""Evaluation of models on splits."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.config.setting import setting


@dataclass
class EvaluationConfig:
    """Answers every split of `data.validation` with several models, and compares them."""

    models: dict[str, str] = field(default_factory=dict)
    """Models by the names that the tables show: Hugging Face folders or hub names."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype in which the engines compute."""
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    """Engines that run each model in turn."""
    max_response_tokens: int = setting(512, ge=1)
    """Longest response in tokens."""
    num_samples: int = setting(0, ge=0)
    """Sampled responses per question, for pass@1 and majority@k, beside the greedy one. 0: only the greedy one."""
    temperature: float = setting(1.0, gt=0)
    """Temperature of the sampled responses."""
    top_p: float = setting(1.0, gt=0, le=1)
    """Sample only from the likeliest tokens whose probabilities add up to `top_p`. 1: from all."""
    require_tags: bool = True
    """Whether a response without an <answer> block is wrong by the accuracy reward's rule, as the reward's option of
    this name says in training. The benchmarks' official rules do not ask for tags."""
    group_by: list[str] = field(
        default_factory=lambda: ["category", "sub-category", "difficulty", "question_relation", "type"]
    )
    """Columns of the data sets by whose values scores are given too, beside the kind of question. A split without a
    column has no such scores."""
    num_resamples: int = setting(2000, ge=100)
    """Bootstrap resamples of the questions, for the intervals."""
    confidence: float = setting(0.95, gt=0, lt=1)
    """Coverage of the intervals."""
    max_failed_share: float = setting(0.05, ge=0, le=1)
    """Largest share of a model's requests that may fail before the evaluation stops. Those that fail count as wrong."""
