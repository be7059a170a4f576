"""The audio-grounded check of chains of thought."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.config.setting import setting


@dataclass
class CustomVerifierConfig:
    """A verifier of your own, and the Ray actors that run it (`verifier.method=custom`)."""

    path: str = ""
    """Your function or class: `file.py:function` or `package.module:function`."""
    options: dict[str, object] = field(default_factory=dict)
    """Keyword arguments of the function, or of the class's constructor."""
    num_actors: int = setting(1, ge=1)
    """Actors that run it."""
    num_cpus: float = setting(1.0, ge=0)
    """CPU cores that Ray reserves per actor."""
    num_gpus: float = setting(0.0, ge=0)
    """GPUs that Ray reserves per actor; a fraction below 1 lets actors share one."""
    batch_size: int = setting(16, ge=1)
    """Chains that an actor judges between two writes of results."""
    runtime_env: dict[str, object] = field(default_factory=dict)
    """Ray runtime environment of the actors."""


@dataclass
class VerifierConfig:
    """The audio-language model that hears the clip and judges what a chain of thought claims."""

    method: Literal["claims", "chain", "custom", "none"] = "claims"
    """What is judged: each claim of a chain by itself, the whole chain in one question, either by a verifier of your
    own (`verifier.custom`), or nothing: every chain that the teacher's stage kept is kept."""
    chains: str = ""
    """Table of chains to judge. Empty: chains.parquet in `run.dir`."""
    model: str = ""
    """Hugging Face folder, or hub name, of the audio-language model."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype in which the engines compute."""
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    """Engines that run the verifier."""
    custom: CustomVerifierConfig = field(default_factory=CustomVerifierConfig)
    """Your own verifier."""

    claim_pattern: str = ""
    """Regular expression whose matches in a chain's thoughts (or the matches of its first group) are the claims. Empty:
    the rules of docs/distill.md."""
    max_claims: int = setting(64, ge=1)
    """Most claims of one chain; a chain with more is not validated."""

    system_prompt: str = ""
    """System message. Empty: none."""
    question: str = "Listen to the audio. Is this claim about it true: {claim}"
    """Question about one claim, or about the whole chain; `{claim}` stands for it."""
    verdicts: list[str] = field(default_factory=lambda: ["supported", "contradicted", "cannot tell"])
    """The choices of the question: the claim is supported, is contradicted, cannot be decided."""
    instruction: str = "Answer with the letter of one option."
    """Line after the choices. Empty: none."""
    chat_template_kwargs: dict[str, object] = field(default_factory=dict)
    """Variables of the model's chat template, such as {enable_thinking: false}."""
    num_orders: int = setting(1, ge=1, le=3)
    """How often a claim is asked, each time with the choices in another order. 3 puts every verdict at every letter
    once, so that a model's liking for a letter cancels."""

    rule: Literal["all", "mean", "none_contradicted"] = "all"
    """Score of a chain, from the probabilities of its claims' verdicts: the smallest probability of `supported`, their
    mean, or 1 minus the largest probability of `contradicted`."""
    threshold: float = setting(0.5, ge=0, le=1)
    """Smallest score with which a chain is validated. `ssr1-rl distill calibrate` finds one."""
    labels: str = ""
    """File of chains that people have labelled, which `ssr1-rl distill calibrate` reads (docs/distill.md)."""
    target_precision: float = setting(0.9, gt=0, le=1)
    """Share of the kept chains that should be grounded; `calibrate` finds the lowest threshold that reaches it."""
    max_failed_share: float = setting(0.05, ge=0, le=1)
    """Largest share of requests that may fail before the stage stops."""
