"""Every setting of a run: its type, default, bounds and explanation.

A launch file is a YAML file of these sections; `ssr1_rl.checks.rules.load_config` reads and checks it. A component
receives its own section, not the whole. docs/settings_reference.py writes the same list to docs/settings.md.
"""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from ssr1_rl.config.setting import setting


class ConfigError(ValueError):
    """A setting that the user has to change; the message gives the field, its value and the fix."""


@dataclass
class RunConfig:
    """Where a run keeps its files and how it starts."""

    name: str = MISSING
    """Name of the run."""
    dir: str = "runs/${run.name}"
    """Folder of checkpoints, metrics and samples."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What engines and learners run on."""
    seed: int = setting(0, ge=0)
    """Seed of the order of questions, of sampling and of torch."""
    resume: str = "auto"
    """`auto`: resume from the newest whole checkpoint in `run.dir`, or start if there is none. `never`: refuse a folder
    that already holds a run. Anything else is the path of the checkpoint to resume from."""


@dataclass
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685): only they are trained, the policy itself is frozen."""

    rank: int = setting(0, ge=0)
    """Rank of the adapters. 0: no adapters, the policy itself is trained."""
    alpha: float = setting(32.0, gt=0)
    """An adapter's output is multiplied by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter, by the end of their names. Each name must match a layer."""


@dataclass
class ModelConfig:
    """The policy."""

    path: str = MISSING
    """Hugging Face folder, or hub name, of the starting policy."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype in which learners and engines compute."""
    train_audio_tower: bool = False
    """Train the audio tower too, not only the projector and the language model. With LoRA: put adapters into it."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    attn_implementation: Literal["auto", "flash", "flex", "sdpa"] = "auto"
    """Attention of the learner: `flash` (the package flash-attn; GPUs, bfloat16), `flex` (torch's FlexAttention; GPUs)
    or `sdpa` (everywhere). `auto`: the first of these that can run."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""


@dataclass
class DatasetConfig:
    """One split on disk."""

    format: Literal["avqa", "jsonl"] = "avqa"
    """Format of the file of questions."""
    path: str = MISSING
    """File of questions."""
    audio_dir: str = ""
    """Folder of the clips. Empty: the folder of the file of questions."""
    max_questions: int = setting(0, ge=0)
    """Number of questions to read, from the start of the file. 0: all."""


@dataclass
class DataConfig:
    """Questions to train and to validate on, and how prompts are made of them."""

    train: DatasetConfig = field(default_factory=DatasetConfig)
    """Questions to train on."""
    validation: dict[str, DatasetConfig] = field(default_factory=dict)
    """Named validation splits. The score on the first one decides which checkpoint is best."""
    max_skipped_share: float = setting(0.01, ge=0, le=1)
    """Largest share of questions that may be unusable before the run stops."""

    system_prompt: str = ""
    """System message of every prompt. Empty: none."""
    instruction: str = (
        "Think about what you hear inside <think> </think>, then give the chosen option inside <answer> </answer>."
    )
    """Line after the question and its choices. Empty: none."""
    replace_video_by_audio: bool = False
    """Replace "video" by "audio" in questions, as R1-AQA does."""
    max_prompt_tokens: int = setting(4096, ge=1)
    """Longest prompt in tokens, audio tokens included. A question with a longer one is skipped."""
    max_audio_s: float = setting(30.0, gt=0, le=30, why="the audio towers read at most 30 s")
    """Longest clip in seconds."""
    long_audio: Literal["crop", "skip"] = "crop"
    """What happens to a longer clip: only its first `data.max_audio_s` seconds are used, or its question is skipped."""
    audio_cache_mib: int = setting(4096, ge=1)
    """Memory for decoded clips in Ray's object store, in MiB."""


@dataclass
class RolloutConfig:
    """The vLLM engines that generate responses."""

    num_workers: int = setting(1, ge=1)
    """Rollout workers; each runs one vLLM engine."""
    tensor_parallel_size: int = setting(1, ge=1)
    """GPUs per engine."""
    num_cpus: float = setting(1.0, gt=0)
    """CPU cores that Ray reserves per worker."""
    num_threads: int = setting(0, ge=0)
    """Compute threads of an engine on the CPU. 0: one per reserved core."""

    temperature: float = setting(1.0, gt=0, why="a temperature of 0 gives groups without variance")
    """Sampling temperature in training. Validation answers are greedy."""
    max_response_tokens: int = setting(512, ge=1)
    """Longest response in tokens."""
    max_num_seqs: int = setting(256, ge=1)
    """Most sequences that an engine generates at the same time."""
    gpu_memory_utilization: float = setting(0.9, gt=0, le=1)
    """Share of a GPU's memory that an engine may take."""
    kv_cache_gib: int = setting(1, ge=1)
    """Key-value cache of an engine on the CPU, in GiB."""
    engine_args: dict[str, object] = field(default_factory=dict)
    """Further vLLM engine arguments, passed to vLLM unchanged."""

    weight_transfer: Literal["auto", "nccl", "gloo"] = "auto"
    """Backend of the weight sync. `auto`: nccl on GPUs, gloo on CPUs."""
    weight_transfer_port: int = setting(0, ge=0, le=65535)
    """TCP port of the group of learners and engines for the weight sync. 0: any free port."""
    start_timeout_s: float = setting(600.0, gt=0)
    """Longest wait for the engines to start, in seconds."""
    sync_timeout_s: float = setting(300.0, gt=0)
    """Longest wait for one weight sync, in seconds."""
    generate_timeout_s: float = setting(1800.0, gt=0)
    """Longest wait for the responses of one group, in seconds, the engine's queue and pauses for syncs included."""


@dataclass
class RewardConfig:
    """One reward function and the actors that run it. A run has a list of them; the default is `accuracy` alone."""

    name: str = ""
    """`accuracy` or `format`, or with `path` a name of your choice."""
    path: str = ""
    """Your own function: `file.py:function` or `package.module:function`. Empty: the built-in function `name`."""
    weight: float = 1.0
    """Factor of this reward in the sum of rewards."""
    options: dict[str, object] = field(default_factory=dict)
    """Keyword arguments of the reward function."""
    num_actors: int = setting(1, ge=1)
    """Actors that run it."""
    num_cpus: float = setting(0.1, ge=0)
    """CPU cores that Ray reserves per actor."""
    timeout_s: float = setting(60.0, gt=0)
    """Longest time for one group, in seconds."""
    max_retries: int = setting(2, ge=0)
    """Retries after a failure; then the group is left out of training."""
    runtime_env: dict[str, object] = field(default_factory=dict)
    """Ray runtime environment of the actors."""


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
    max_failed_share: float = setting(0.1, ge=0, le=1)
    """Largest share of the newest groups (as many as in a step, at least 20) that may fail before the run stops."""

    preset: Literal["", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo", "reinforce_pp"] = ""
    """Values of one paper for the settings below. A setting that is given explicitly wins. Empty: none."""
    baseline: Literal["group_mean", "leave_one_out", "batch_mean", "none"] = "group_mean"
    """Subtracted from a reward: the mean of its group, of the group's other responses, of the step's tokens, or 0."""
    advantage_scale: Literal["group_std", "batch_std", "none"] = "group_std"
    """Divides advantages: the standard deviation of the group's rewards, of the step's token advantages, or 1."""
    advantage_epsilon: float = setting(1e-4, gt=0)
    """Added to the standard deviation that advantages are divided by."""

    ratio: Literal["token", "sequence", "cispo"] = "token"
    """Ratio of new to old policy: each token's own, the geometric mean over its response (GSPO), or each token's own,
    clipped and used as a constant weight (CISPO)."""
    clip_low: float = setting(0.2, ge=0, le=1)
    """Ratios are clipped below 1 - clip_low."""
    clip_high: float = setting(0.2, ge=0)
    """Ratios are clipped above 1 + clip_high."""
    dual_clip: float = setting(0.0, ge=0)
    """Bounds the loss of a token with negative advantage A by dual_clip x |A|. Must be greater than 1. 0: no bound."""
    denominator: Literal["batch_tokens", "sequence", "constant"] = "batch_tokens"
    """What the sum over tokens is divided by: the tokens of the global batch; each response's own tokens, and then the
    number of responses; or `grpo.denominator_tokens` for each response."""
    denominator_tokens: int = setting(0, ge=0)
    """Tokens per response that `grpo.denominator=constant` divides by. 0: `rollout.max_response_tokens`."""
    entropy_bonus: float = setting(0.0, ge=0)
    """Weight of the tokens' entropy, which is subtracted from the loss."""

    kl_coefficient: float = setting(0.0, ge=0)
    """Weight of the KL term to the frozen starting policy. 0: no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL of a token (Schulman 2020)."""
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
    """Largest importance weight. `mask` also drops weights below 1 / cap."""

    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal by new ones (DAPO)."""
    dynamic_sampling_limit: float = setting(3.0, gt=0)
    """Most groups that are replaced in one step, as a multiple of `grpo.questions_per_step`."""
    overlong: Literal["keep", "mask", "penalty"] = "keep"
    """Responses that reach the token limit: kept, masked from the loss, or penalised in reward, as those near it."""
    overlong_buffer_share: float = setting(0.2, gt=0, le=1)
    """Last share of `rollout.max_response_tokens`, over which the penalty grows from 0 to 1."""


@dataclass
class LearnerConfig:
    """The DeepSpeed learners that update the policy."""

    num_workers: int = setting(1, ge=1)
    """Learner ranks."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage. Sharded over the ranks: nothing (0), AdamW's state (1), also gradients (2), also parameters (3)."""
    num_cpus: float = setting(1.0, gt=0)
    """CPU cores that Ray reserves per rank."""
    num_threads: int = setting(0, ge=0)
    """Compute threads of a rank on the CPU. 0: one per reserved core."""

    learning_rate: float = setting(1e-6, gt=0)
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or falling to 0 over `grpo.num_steps`."""
    warmup_steps: int = setting(0, ge=0)
    """Optimizer updates over which the learning rate rises linearly."""
    weight_decay: float = setting(0.0, ge=0)
    """Decoupled weight decay of AdamW. Norms and biases do not decay."""
    adam_betas: tuple[float, float] = setting((0.9, 0.999), ge=0, lt=1)
    """Betas of AdamW."""
    adam_epsilon: float = setting(1e-8, gt=0)
    """Epsilon of AdamW."""
    max_grad_norm: float = setting(1.0, gt=0)
    """Gradients of a larger global norm are scaled down to it."""

    offload_optimizer: Literal["none", "cpu"] = "none"
    """Keep AdamW's state and step on the device, or in host memory (ZeRO stage 1 to 3)."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Keep shards of parameters that are not in use on the device, or in host memory (ZeRO stage 3)."""
    max_tokens_per_micro_batch: int = setting(16384, ge=1)
    """Most tokens of one forward and backward pass. A group's prompt counts once; without packing, padding counts."""
    audio_cache_mib: int = setting(1024, ge=0)
    """Host memory per rank, in MiB, for outputs of a frozen audio tower, or for log-mel features if it is trained."""
    prefix_packing: bool = True
    """Compute a group's prompt and audio once. `false`: one padded row per response, for models it does not support."""

    port: int = setting(0, ge=0, le=65535)
    """TCP port of the learner ranks' process group. 0: any free port."""
    start_timeout_s: float = setting(900.0, gt=0)
    """Longest wait for the learners to start, in seconds."""
    update_timeout_s: float = setting(3600.0, gt=0)
    """Longest wait for one update, one pass of the reference, or one checkpoint's writing or reading, in seconds."""
    deepspeed: dict[str, object] = field(default_factory=dict)
    """Further DeepSpeed settings, except those that the learner sets itself."""


@dataclass
class CheckpointConfig:
    """Which checkpoints are kept."""

    every: int = setting(50, ge=1)
    """Steps between checkpoints. The last step is always saved."""
    keep_last: int = setting(2, ge=1)
    """Newest checkpoints to keep."""
    keep_best: bool = True
    """Write a checkpoint of each new best validation score too, and keep it until a better one."""


@dataclass
class GuardConfig:
    """Checks that stop a run whose engines and learner disagree."""

    max_logprob_abs_diff_mean: float = setting(0.05, gt=0)
    """Largest mean difference, in nats, between the log-probs of engine and learner on a step's on-policy tokens."""
    max_logprob_abs_diff: float = setting(float("inf"), gt=0)
    """Largest difference, in nats, between the log-probs of engine and learner on a single such token."""
    check_weights: bool = True
    """After the first weight sync, compare checksums of every tensor on both sides."""


@dataclass
class TelemetryConfig:
    """Where metrics and samples go."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    samples: bool = True
    """Write the samples of every step as Parquet."""
    stall_warning_s: float = setting(60.0, gt=0)
    """Seconds without progress after which the run prints what it waits for."""


@dataclass
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: list[RewardConfig] = field(default_factory=lambda: [RewardConfig(name="accuracy")])
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
