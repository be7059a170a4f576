"""Every setting of a run: its name, default, unit and bound, each said once.

A launch file is a YAML of these sections; `ssr1_rl.config.load.load_config`
reads and checks it. A component receives its own section, never the whole.
Imports no torch and no Ray.
"""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


class ConfigError(ValueError):
    """A setting that a user has to mend; the message gives the field, its value and the mend."""


def setting(
    default: Any = NO_DEFAULT,
    help: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    choices: tuple[Any, ...] | None = None,
    factory: Any = NO_DEFAULT,
    why: str = "",
) -> Any:
    """A dataclass field with its explanation and bound. `why` is put behind a bound's error."""
    metadata = {"help": help, "ge": ge, "gt": gt, "le": le, "choices": choices, "why": why}
    if factory is not NO_DEFAULT:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    """Where a run lies and how it starts."""

    name: str = setting(MISSING, "name of the run, and of its folder unless run.dir is set")
    dir: str = setting("runs/${run.name}", "folder of checkpoints, metrics and samples")
    device: str = setting("cuda", "what engines and learners run on", choices=("cuda", "cpu"))
    seed: int = setting(0, "seed of the data order, of sampling and of torch", ge=0)
    resume: str = setting(
        "auto",
        "auto: go on from the newest whole checkpoint in run.dir, if there is one; "
        "never: refuse a folder that already holds a run; or the path of a checkpoint",
    )


@dataclass
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on a frozen policy: nothing but the adapters is trained."""

    rank: int = setting(0, "rank of the adapters; 0: no adapters, the policy itself is trained", ge=0)
    alpha: float = setting(32.0, "what an adapter adds is scaled by alpha / rank", gt=0)
    target_modules: list[str] = setting(
        factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        help="linear layers that get an adapter, by the end of their names; each must be found in the trained parts",
    )


@dataclass
class ModelConfig:
    """The policy."""

    path: str = setting(MISSING, "Hugging Face folder (or hub name) of the starting policy")
    dtype: str = setting("bfloat16", "dtype of computation and of the engines", choices=("bfloat16", "float32"))
    train_audio_tower: bool = setting(
        False,
        "train the audio tower as well as projector and language model; with lora: its target_modules get adapters too",
    )
    lora: LoraConfig = setting(factory=LoraConfig)
    attn_implementation: str = setting(
        "auto",
        "the learner's attention: flash (the package flash-attn, GPUs, bfloat16), flex (torch's FlexAttention, GPUs) "
        "or sdpa (everywhere); auto: the first of them that can run",
        choices=("auto", "flash", "flex", "sdpa"),
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass to save memory")


@dataclass
class DatasetConfig:
    """One split on disk."""

    format: str = setting("avqa", "file format of the questions", choices=("avqa", "jsonl"))
    path: str = setting(MISSING, "file of questions")
    audio_dir: str = setting("", "folder of the clips; empty: beside the file of questions")
    max_questions: int = setting(0, "read only the first so many questions; 0: all", ge=0)


@dataclass
class DataConfig:
    """What is trained on and what is validated on."""

    train: DatasetConfig = setting(factory=DatasetConfig)
    validation: dict[str, DatasetConfig] = setting(
        factory=dict, help="named validation splits; the first one decides which checkpoint is best"
    )
    system_prompt: str = setting("", "system message of every prompt; empty: none")
    instruction: str = setting(
        "Think about what you hear inside <think> </think>, then give the chosen option inside <answer> </answer>.",
        "sentence put behind every question; empty: none",
    )
    replace_video_by_audio: bool = setting(False, "say 'audio' where a question says 'video' (as R1-AQA does)")
    max_prompt_tokens: int = setting(4096, "longest prompt, in tokens, audio tokens included", ge=1)
    max_audio_s: float = setting(
        30.0, "longest clip that is kept, in seconds", gt=0, le=30, why="the audio towers see 30 s"
    )
    long_audio: str = setting(
        "crop",
        "what is done with a longer clip: keep its first max_audio_s, or leave the row out",
        choices=("crop", "skip"),
    )
    audio_cache_mib: int = setting(4096, "decoded clips kept in the object store, MiB", ge=1)
    max_skipped_share: float = setting(0.01, "share of rows that may be left out before the run stops", ge=0, le=1)


@dataclass
class RolloutConfig:
    """vLLM engines that generate responses."""

    num_workers: int = setting(1, "number of rollout workers (each one vLLM engine)", ge=1)
    tensor_parallel_size: int = setting(1, "GPUs per engine", ge=1)
    num_cpus: float = setting(1.0, "CPU cores reserved per worker", gt=0)
    num_threads: int = setting(0, "compute threads of a CPU engine; 0: one per reserved core", ge=0)
    temperature: float = setting(
        1.0, "sampling temperature in training", gt=0, why="a temperature of 0 gives groups without variance"
    )
    max_response_tokens: int = setting(512, "longest response, in tokens", ge=1)
    max_num_seqs: int = setting(256, "sequences an engine runs at once", ge=1)
    gpu_memory_utilization: float = setting(0.9, "share of a GPU's memory an engine may take", gt=0, le=1)
    kv_cache_gib: int = setting(1, "key-value cache of a CPU engine, GiB", ge=1)
    weight_transfer: str = setting(
        "auto", "backend of weight sync: nccl on GPUs, gloo on CPUs", choices=("auto", "nccl", "gloo")
    )
    weight_transfer_port: int = setting(0, "TCP port of the weight-sync rendezvous; 0: any free one", ge=0, le=65535)
    start_timeout_s: float = setting(600.0, "longest wait for the engines to start, seconds", gt=0)
    sync_timeout_s: float = setting(300.0, "longest wait for one weight sync, seconds", gt=0)
    generate_timeout_s: float = setting(1800.0, "longest wait for one group of responses, seconds", gt=0)
    engine_args: dict[str, Any] = setting(factory=dict, help="further vLLM engine arguments, passed through")


@dataclass
class RewardConfig:
    """One reward function and the actor group it runs as."""

    name: str = setting("", "accuracy, format, or a name for the user's own (then set path too)")
    path: str = setting("", "the user's own: 'file.py:function' or 'package.module:function'")
    weight: float = setting(1.0, "factor in the sum of rewards")
    options: dict[str, Any] = setting(factory=dict, help="keyword arguments of the reward function")
    num_actors: int = setting(1, "actors that run it", ge=1)
    num_cpus: float = setting(0.1, "CPU cores reserved per actor", ge=0)
    timeout_s: float = setting(60.0, "longest time for one group, seconds", gt=0)
    max_retries: int = setting(2, "further tries after a failure, before the group is set aside", ge=0)
    runtime_env: dict[str, Any] = setting(factory=dict, help="Ray runtime environment of its actors")


@dataclass
class GrpoConfig:
    """The GRPO loop and its loss."""

    num_steps: int = setting(1000, "training steps", ge=1)
    questions_per_step: int = setting(64, "questions (groups) trained on per step", ge=1)
    group_size: int = setting(
        8, "responses per question", ge=2, why="group-relative advantages compare the responses of a group"
    )
    max_staleness: int = setting(0, "policy versions that generation may run ahead of training; 0: on-policy", ge=0)
    num_epochs: int = setting(1, "passes over a step's groups", ge=1)
    num_minibatches: int = setting(1, "optimizer updates per pass", ge=1)
    preset: str = setting(
        "",
        "a paper's values of the settings below; empty: none (ssr1_rl/config/presets.py says what each one sets). "
        "Single values beside it win; on the command line it wins over the whole launch file",
        choices=("", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo", "reinforce_pp"),
    )
    baseline: str = setting(
        "group_mean",
        "what is taken off a reward: the mean of its group, of the group's other responses, of all the step's "
        "tokens, or nothing",
        choices=("group_mean", "leave_one_out", "batch_mean", "none"),
    )
    advantage_scale: str = setting(
        "group_std",
        "what advantages are divided by: the standard deviation of the group's rewards, or of the advantages of all "
        "the step's tokens, or nothing",
        choices=("group_std", "batch_std", "none"),
    )
    advantage_epsilon: float = setting(1e-4, "added to that standard deviation", gt=0)
    ratio: str = setting(
        "token",
        "the ratio of new to old policy: each token's own, the geometric mean over its response (GSPO), or each "
        "token's own as a clipped constant weight (CISPO)",
        choices=("token", "sequence", "cispo"),
    )
    clip_low: float = setting(0.2, "ratio clipped below 1 - clip_low", ge=0, le=1)
    clip_high: float = setting(0.2, "ratio clipped above 1 + clip_high", ge=0)
    dual_clip: float = setting(
        0.0, "a token of negative advantage A loses at most dual_clip x |A|; more than 1, or 0: no such bound", ge=0
    )
    denominator: str = setting(
        "batch_tokens",
        "what the sum over tokens is divided by: the tokens of the global batch; each response's tokens, then the "
        "responses; or a constant for each response",
        choices=("batch_tokens", "sequence", "constant"),
    )
    denominator_tokens: int = setting(
        0, "tokens per response that denominator=constant divides by; 0: rollout.max_response_tokens", ge=0
    )
    kl_coefficient: float = setting(
        0.0, "weight of the KL term to the frozen starting policy; 0: no reference model", ge=0
    )
    kl_estimator: str = setting("k3", "estimator of the KL per token (Schulman 2020)", choices=("k1", "k2", "k3"))
    kl_placement: str = setting(
        "loss",
        "where the KL term goes: into the loss; summed over a response, off its reward; or off each token's return, "
        "summed from that token on",
        choices=("loss", "reward", "reward_to_go"),
    )
    kl_target: float = setting(
        0.0, "KL per token that kl_coefficient is adapted towards after each step; 0: it stays as it is", ge=0
    )
    importance_correction: str = setting(
        "none",
        "weights for tokens that another engine or an older policy sampled, learner's probability over engine's: "
        "none (the ratio is taken to the engine's log-probs), cut at importance_cap, or 0 beyond it",
        choices=("none", "truncate", "mask"),
    )
    importance_level: str = setting(
        "token",
        "a weight for each token, or one for a response, the product of its tokens'",
        choices=("token", "sequence"),
    )
    importance_cap: float = setting(2.0, "largest importance weight; mask also drops what is below 1 / cap", ge=1)
    dynamic_sampling: bool = setting(False, "replace groups whose rewards are all the same by new ones (DAPO)")
    dynamic_sampling_limit: float = setting(
        3.0, "groups replaced in one step at most, as a multiple of questions_per_step", gt=0
    )
    overlong: str = setting(
        "keep",
        "responses cut at the token limit: kept, masked from the loss, or (any near the limit) penalised in the reward",
        choices=("keep", "mask", "penalty"),
    )
    overlong_buffer_share: float = setting(
        0.2, "share of rollout.max_response_tokens over which the penalty grows from 0 to 1", gt=0, le=1
    )
    entropy_bonus: float = setting(0.0, "weight of the tokens' entropy, taken off the loss", ge=0)
    max_failed_share: float = setting(
        0.1, "share of a step's groups that may be set aside before the run stops", ge=0, le=1
    )
    validate_every: int = setting(20, "steps between validations; 0: never", ge=0)
    validate_first: bool = setting(True, "validate before the first step as well")


@dataclass
class LearnerConfig:
    """DeepSpeed learners that update the policy."""

    num_workers: int = setting(1, "number of learner ranks", ge=1)
    zero_stage: int = setting(1, "ZeRO stage", choices=(0, 1, 2, 3))
    num_cpus: float = setting(1.0, "CPU cores reserved per rank", gt=0)
    num_threads: int = setting(0, "compute threads of a CPU rank; 0: one per reserved core", ge=0)
    learning_rate: float = setting(1e-6, "AdamW's learning rate", gt=0)
    lr_schedule: str = setting(
        "constant",
        "what the learning rate does after the warm-up: stay, or fall to 0 over grpo.num_steps",
        choices=("constant", "linear", "cosine"),
    )
    warmup_steps: int = setting(0, "updates over which the learning rate rises linearly", ge=0)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay; norms and biases do not decay", ge=0)
    adam_betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's betas")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon", gt=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this global norm", gt=0)
    offload_optimizer: str = setting(
        "none",
        "where AdamW's state and step are: on the device, or in host memory (ZeRO stage 1 to 3)",
        choices=("none", "cpu"),
    )
    offload_parameters: str = setting(
        "none",
        "where parameter shards wait until they are used: on the device, or in host memory (ZeRO stage 3)",
        choices=("none", "cpu"),
    )
    max_tokens_per_micro_batch: int = setting(
        16384, "tokens of one forward and backward pass, a group's prompt counted once (or padding included)", ge=1
    )
    audio_cache_mib: int = setting(
        1024, "host memory of a rank for a frozen audio tower's outputs, or else for log-mel features, MiB", ge=0
    )
    prefix_packing: bool = setting(
        True, "compute a group's prompt and audio once; false: a padded row per response, for models it cannot serve"
    )
    port: int = setting(0, "TCP port of the learners' rendezvous; 0: any free one", ge=0, le=65535)
    start_timeout_s: float = setting(900.0, "longest wait for the learners to start, seconds", gt=0)
    update_timeout_s: float = setting(3600.0, "longest wait for one update, seconds", gt=0)
    deepspeed: dict[str, Any] = setting(factory=dict, help="further DeepSpeed settings; none that the learner sets")


@dataclass
class CheckpointConfig:
    """What is kept of a run."""

    every: int = setting(50, "steps between checkpoints; the last step is always kept", ge=1)
    keep_last: int = setting(2, "newest checkpoints kept", ge=1)
    keep_best: bool = setting(True, "keep the checkpoint with the best validation accuracy as well")


@dataclass
class GuardConfig:
    """Numbers that stop a run before it is spoilt."""

    max_logprob_abs_diff_mean: float = setting(
        0.05, "largest mean |log-prob of engine - log-prob of learner| over a step's on-policy tokens", gt=0
    )
    max_logprob_abs_diff: float = setting(
        float("inf"), "largest single |log-prob of engine - log-prob of learner|", gt=0
    )
    check_weights: bool = setting(True, "compare checksums of every tensor on both sides after the first sync")


@dataclass
class TelemetryConfig:
    """Where metrics and samples go."""

    tensorboard: bool = setting(True, "write TensorBoard event files")
    samples: bool = setting(True, "write every step's samples as Parquet")
    stall_warning_s: float = setting(60.0, "say what is being waited for after so many seconds without progress", gt=0)


@dataclass
class Config:
    """A whole run."""

    run: RunConfig = setting(factory=RunConfig)
    model: ModelConfig = setting(factory=ModelConfig)
    data: DataConfig = setting(factory=DataConfig)
    rollout: RolloutConfig = setting(factory=RolloutConfig)
    rewards: list[RewardConfig] = setting(factory=lambda: [RewardConfig(name="accuracy")])
    grpo: GrpoConfig = setting(factory=GrpoConfig)
    learner: LearnerConfig = setting(factory=LearnerConfig)
    checkpoint: CheckpointConfig = setting(factory=CheckpointConfig)
    guard: GuardConfig = setting(factory=GuardConfig)
    telemetry: TelemetryConfig = setting(factory=TelemetryConfig)
