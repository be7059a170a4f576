"""The GRPO loop, its advantages and its loss."""

from dataclasses import dataclass
from typing import Literal

from ssr1_rl.config.setting import setting


@dataclass
class GrpoConfig:
    """The GRPO loop and its loss."""

    num_steps: int = setting(1000, ge=1)
    """Training steps."""
    questions_per_step: int = setting(64, ge=1)
    """Questions, and so groups of responses, that a step trains on."""
    group_size: int = setting(8, ge=2, why="group-relative advantages compare the responses of a group")
    """Responses per question."""
    max_staleness: int = setting(0, ge=0)
    """Policy versions that generation may run ahead of training. 0: on-policy."""
    num_epochs: int = setting(1, ge=1)
    """Passes over the groups of a step."""
    num_minibatches: int = setting(1, ge=1)
    """Optimizer updates per pass."""
    validate_every: int = setting(20, ge=0)
    """Steps between validations; the last step is always validated. 0: no validation after a step."""
    validate_first: bool = True
    """Validate before the first step too."""
    max_unscored_share: float = setting(0.05, ge=0, le=1)
    """Largest share of a validation split's questions that may have no score, because their clip cannot be used or
    their generation or reward failed, before the run stops. One may always, unless the share is 0."""
    max_failed_share: float = setting(0.1, ge=0, le=1)
    """Largest share of the newest groups (as many as in a step, at least 20) that may fail before the run stops."""

    preset: Literal[
        "",
        "grpo",
        "dapo",
        "dr_grpo",
        "gspo",
        "cispo",
        "rloo",
        "lite_ppo",
        "gdpo",
        "gmpo",
        "sapo",
        "icepop",
        "reinforce_pp_baseline",
        "reinforce_pp",
    ] = ""
    """Values of one paper for the settings below. A setting that is given explicitly wins. Empty: none."""
    baseline: Literal["group_mean", "leave_one_out", "batch_mean", "none"] = "group_mean"
    """Subtracted from a reward: the mean of its group, of the group's other responses, of the step's tokens, or 0."""
    advantage_scale: Literal["group_std", "batch_std", "batch_reward_std", "none"] = "group_std"
    """Divides advantages: the standard deviation of the group's rewards, of the batch's advantages, of the batch's
    rewards without a baseline, or 1."""
    normalize_each_reward: bool = False
    """Subtract the baseline from and scale each reward function's rewards by themselves, and add them up by
    `rewards[].weight` afterwards (GDPO), instead of adding up the rewards first."""
    whiten_advantages: bool = False
    """At last, subtract the batch's mean from the advantages and divide by the batch's standard deviation."""
    batch_statistics: Literal["tokens", "responses"] = "tokens"
    """What means and standard deviations of the batch are over: the step's tokens in the loss, or its responses."""
    advantage_epsilon: float = setting(1e-4, gt=0)
    """Added to the standard deviation that advantages are divided by."""

    ratio: Literal["token", "sequence", "geometric_mean", "cispo"] = "token"
    """Ratio of new to old policy: each token's own, the geometric mean over its response (GSPO), the geometric mean of
    the clipped ratios of its response (GMPO), or each token's own, clipped and used as a constant weight (CISPO)."""
    clip: Literal["hard", "soft"] = "hard"
    """How far a ratio may move: to the bounds below, or along a sigmoid that flattens away from 1 (SAPO)."""
    clip_low: float = setting(0.2, ge=0, le=1)
    """Ratios are clipped below 1 - clip_low."""
    clip_high: float = setting(0.2, ge=0)
    """Ratios are clipped above 1 + clip_high."""
    soft_clip_positive: float = setting(1.0, gt=0)
    """Temperature of the soft clip for tokens with a positive advantage; a higher one flattens sooner."""
    soft_clip_negative: float = setting(1.05, gt=0)
    """Temperature of the soft clip for the other tokens."""
    dual_clip: float = setting(0.0, ge=0)
    """Bounds the loss of a token with negative advantage A by dual_clip x |A|. Must be greater than 1 + clip_high.
    0: no bound."""
    off_policy_mask: float = setting(0.0, ge=0)
    """Largest mean KL, in nats per token, from the policy that sampled a response to the current one, beyond which a
    response with a negative advantage leaves the surrogate. 0: none does."""
    denominator: Literal["batch_tokens", "sequence", "constant"] = "batch_tokens"
    """What the sum over tokens is divided by: the tokens in the loss of the global batch; each response's own tokens,
    and then the number of responses; or `grpo.denominator_tokens` for each response. Responses that are masked count
    as responses."""
    denominator_tokens: int = setting(0, ge=0)
    """Tokens per response that `grpo.denominator=constant` divides by. 0: `rollout.max_response_tokens`."""
    entropy_bonus: float = setting(0.0, ge=0)
    """Weight of the tokens' entropy, which is subtracted from the loss."""

    kl_coefficient: float = setting(0.0, ge=0)
    """Weight of the KL term to the frozen starting policy. 0: no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL of a token (Schulman 2020)."""
    kl_importance_ratio: bool = False
    """Multiply the KL term of a token by its ratio of new to old policy, so that its gradient is that of the KL."""
    kl_placement: Literal["loss", "reward", "reward_to_go"] = "loss"
    """Where the KL term goes: it is added to the loss; its sum over a response is subtracted from the response's
    reward; or its sum from each token on is subtracted from that token's return."""
    kl_target: float = setting(0.0, ge=0)
    """KL in nats per token that `grpo.kl_coefficient` is adapted to after each step. 0: the coefficient is constant."""

    importance_correction: Literal["none", "truncate", "mask"] = "none"
    """Importance weight of a token: the learner's probability over the engine's, cut at the cap (`truncate`) or 0
    beyond it (`mask`). `none`: no weights, and the ratio compares with the engine's log-probs."""
    importance_level: Literal["token", "sequence"] = "token"
    """One weight per token, or one per response: the product over its tokens."""
    importance_cap: float = setting(2.0, ge=1)
    """Largest importance weight."""
    importance_floor: float = setting(0.0, ge=0, le=1)
    """Smallest importance weight: `truncate` raises smaller ones to it, `mask` drops them. 0: 1 / importance_cap with
    `mask`, none with `truncate`."""
    rejection_cap: float = setting(0.0, ge=0)
    """Drops a response if the geometric mean of its importance weights is above this. Must be greater than 1.
    0: no response is dropped."""
    rejection_floor: float = setting(0.0, ge=0, lt=1)
    """Drops a response if the geometric mean of its importance weights is below this. 0: 1 / rejection_cap."""

    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal by new ones (DAPO)."""
    dynamic_sampling_limit: float = setting(3.0, gt=0)
    """Most groups that are replaced in one step, as a multiple of `grpo.questions_per_step`."""
    overlong: Literal["keep", "mask", "penalty", "mask_and_penalty"] = "keep"
    """Responses that reach the token limit: kept, masked from the loss, penalised in reward, as those near it, or
    both."""
    overlong_penalty: float = setting(1.0, gt=0)
    """Largest penalty, which is subtracted from the reward of a response at the token limit."""
    overlong_buffer_share: float = setting(0.2, gt=0, le=1)
    """Last share of `rollout.max_response_tokens`, over which the penalty grows from 0 to `grpo.overlong_penalty`."""
