"""The learners and their optimizer."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.setting import setting


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
    """Compute threads of a rank on the CPU; on GPUs those of an offloaded AdamW. 0: one per reserved core."""

    learning_rate: float = setting(1e-6, gt=0)
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or falling to 0 at the end of the run (or after `decay_steps`)."""
    decay_steps: int = setting(0, ge=0)
    """Optimizer updates, the warm-up included, after which a falling learning rate is 0. 0: those of the whole run."""
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
    """Keep AdamW's state and step on the device, or in host memory (page-locked, ZeRO stage 1 to 3)."""
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
