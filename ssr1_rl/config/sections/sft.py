"""Supervised fine-tuning (SFT)."""

from dataclasses import dataclass
from typing import Literal

from ssr1_rl.config.setting import setting


@dataclass
class SftConfig:
    """Supervised fine-tuning of the student, before GRPO. Model, optimizer and ranks are set in `model` and `learner`.

    With several chains a question the question's prompt and audio are computed once for all of them.
    """

    responses: Literal["validated", "kept", "labels"] = "validated"
    """What is learned: chains that the verifier validated, all chains that the teacher's stage kept, or the labels."""
    chains: str = ""
    """File of chains that `ssr1-rl distill generate` or `verify` wrote. Not needed for `labels`."""
    label_template: str = "<answer> {answer} </answer>"
    """The response that is learned with `sft.responses=labels`."""
    max_chains_per_question: int = setting(0, ge=0)
    """Most chains of one question that are learned, those of the lowest numbers. 0: all."""
    max_response_tokens: int = setting(1024, ge=1)
    """Longest response in tokens. A longer one is not learned."""
    num_epochs: int = setting(1, ge=1)
    """Passes over the questions."""
    max_steps: int = setting(0, ge=0)
    """Steps after which training ends even if epochs are left. 0: no limit."""
    questions_per_step: int = setting(32, ge=1)
    """Questions of a step; all their chains are learned in it."""
    validate_every: int = setting(100, ge=0)
    """Steps between validation losses; the last step is always validated. 0: no validation loss."""
    validation_share: float = setting(0.02, ge=0, lt=1)
    """Share of the training questions that are held out for the validation loss. 0: none."""
    export: Literal["best", "last"] = "best"
    """Which checkpoint becomes the model in `run.dir`/export: the one of the lowest validation loss, or the last one.
    Without a validation loss it is the last one."""
    generate: bool = True
    """After the last step, answer every split of `data.validation` greedily, and report the accuracy."""
    max_failures: int = setting(3, ge=0)
    """Deaths of workers that training survives; it continues from the newest checkpoint."""
