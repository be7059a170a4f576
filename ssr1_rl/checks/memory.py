"""Estimates the memory of learners and engines from the settings and the model's shapes alone."""

from dataclasses import dataclass

import torch

from ssr1_rl.audio_families import AudioFamily
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.model.logprobs import chunk_bytes
from ssr1_rl.trainer.model.lora import add_adapters, find_targets
from ssr1_rl.trainer.model.policy import Policy, empty_policy
from ssr1_rl.types import SAMPLE_RATE
from ssr1_rl.weights.parameters import named_weights, trainable_parameters
from ssr1_rl.weights.transport import NCCL_BUFFER_BYTES

BYTES = {"bfloat16": 2, "float32": 4}
REDUCE_BUCKET = 500_000_000
"""DeepSpeed's default for `reduce_bucket_size`, in elements."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per process. Activations and what follows them are rough figures; see `estimate_memory`.

    Attributes:
        learner_buffers: DeepSpeed's buffers for the reduction of gradients, and a gathered weight under ZeRO-3.
        learner_head: gradient of the log-prob head during a backward pass.
        engine_sync: what an engine's process holds during a weight sync, outside `rollout.gpu_memory_utilization`.
    """

    num_parameters: int
    num_trained: int
    learner_weights: int
    learner_gradients: int
    learner_optimizer: int
    learner_reference: int
    learner_buffers: int
    learner_activations: int
    learner_head: int
    engine_weights: int
    engine_sync: int


def estimate_memory(config: Config) -> MemoryEstimate:
    """Static memory by ZeRO's own arithmetic (arXiv 1910.02054, section 3), and rough figures for the rest.

    ZeRO-1 shares the optimizer's 12 bytes per trained parameter (float32 copy and two moments)
    among ranks, ZeRO-2 the gradients too, ZeRO-3 the weights too. Gradients are summed in float32;
    in bfloat16 ZeRO-1 holds both the sum and a micro-batch's own. Float32 training needs no
    separate copy of the weights.
    """
    model, learner = config.model, config.learner
    policy = empty_policy(model.path, model.train_audio_tower, learner.prefix_packing)
    if model.lora.rank:
        with torch.device("meta"):
            targets = find_targets(policy.model, model.lora.target_modules)
            add_adapters(policy.model, model.lora.rank, model.lora.alpha, targets)
    sizes = [p.numel() for p in named_weights(policy.model).values()]
    trained_sizes = [p.numel() for p in trainable_parameters(policy.model).values()]
    num_parameters, num_trained = sum(sizes), sum(trained_sizes)
    width = BYTES[model.dtype]
    ranks = learner.num_workers
    share_optimizer = ranks if learner.zero_stage >= 1 else 1
    share_gradients = ranks if learner.zero_stage >= 2 else 1
    share_weights = ranks if learner.zero_stage >= 3 else 1
    # With LoRA the reference is the policy with its adapters switched off.
    has_reference = bool(config.grpo.kl_coefficient) and not model.lora.rank
    return MemoryEstimate(
        num_parameters=num_parameters,
        num_trained=num_trained,
        learner_weights=width * num_parameters // share_weights,
        learner_gradients=(6 if width == 2 and learner.zero_stage <= 1 else 4) * num_trained // share_gradients,
        learner_optimizer=(12 if model.dtype == "bfloat16" else 8) * num_trained // share_optimizer,
        learner_reference=width * num_parameters // share_weights if has_reference else 0,
        learner_buffers=_buffers(learner, width, max(trained_sizes))
        + (width * max(sizes) if learner.zero_stage >= 3 and ranks > 1 else 0),
        learner_activations=_activations(config, policy),
        learner_head=_head_gradient(config, policy, width),
        engine_weights=width * num_parameters // config.rollout.tensor_parallel_size,
        engine_sync=_engine_sync(width * max(sizes), config.rollout.tensor_parallel_size),
    )


def _buffers(learner: LearnerConfig, width: int, largest: int) -> int:
    """Bytes that DeepSpeed holds to reduce gradients in float32.

    A buffer collects gradients: in float32, or under ZeRO-2 in the model's dtype, with a float32 copy of it during the
    reduction. A gradient larger than the buffer is copied to float32 by itself.
    """
    zero = learner.deepspeed.get("zero_optimization", {})
    given = zero.get("reduce_bucket_size") if isinstance(zero, dict) else None
    bucket = int(given) if isinstance(given, int | float) else REDUCE_BUCKET
    if learner.zero_stage == 0:
        return 4 * largest
    copied = max(bucket if learner.zero_stage == 2 else 0, largest if largest > bucket else 0)
    return bucket * (width if learner.zero_stage == 2 else 4) + (4 * copied if width < 4 else 0)


def _head_gradient(config: Config, policy: Policy, width: int) -> int:
    """Bytes of the log-prob head's gradient: its sum in float32 and one chunk's share, if there are several chunks."""
    weight = policy.head.get_parameter("weight")
    if not weight.requires_grad:
        return 0
    several = 4 * _response_tokens(config) * len(weight) > chunk_bytes(config.run.device)
    return weight.numel() * (4 + width if several and width < 4 else width)


def _engine_sync(largest_bytes: int, tensor_parallel_size: int) -> int:
    """Bytes of two broadcasts, one being received and one being loaded, and of the largest weight being built."""
    return 2 * (NCCL_BUFFER_BYTES + largest_bytes) + largest_bytes // tensor_parallel_size


def _response_tokens(config: Config) -> int:
    """Response tokens of a full micro-batch if all prompts and responses have their greatest length."""
    group_responses = config.grpo.group_size * config.rollout.max_response_tokens
    tokens = config.learner.max_tokens_per_micro_batch
    return tokens * group_responses // (config.data.max_prompt_tokens + group_responses)


def _activations(config: Config, policy: Policy) -> int:
    """Bytes of one micro-batch in the language model, in a trained audio tower, and in the log-prob head.

    The head holds buffers for one chunk of response tokens.
    """
    model, tokens = config.model, config.learner.max_tokens_per_micro_batch
    response_tokens = _response_tokens(config)
    text = policy.model.config.get_text_config()
    size = _of_layers(model, tokens, text.hidden_size, text.num_hidden_layers)
    if model.train_audio_tower and (tower := policy.tower):
        positions = tower.positions_per_token * _clip_tokens(config.data, policy, tokens - response_tokens)
        size += _of_layers(model, positions, tower.hidden_size, tower.num_layers)
    size += 3 * min(4 * response_tokens * text.vocab_size, chunk_bytes(config.run.device))
    if model.float32_head and model.dtype == "bfloat16":
        size += 4 * text.vocab_size * text.hidden_size  # the head's weight in float32
    return size


def _of_layers(model: ModelConfig, positions: int, hidden_size: int, num_layers: int) -> int:
    """34 bytes x positions x hidden size x layers in bfloat16 (arXiv 2205.05198, eq. 1 without attention scores).

    With gradient checkpointing: the activations of one layer, and the input of every layer.
    """
    width = BYTES[model.dtype]
    per_layer = 17 * width * positions * hidden_size
    if model.gradient_checkpointing:
        return per_layer + width * positions * hidden_size * num_layers
    return per_layer * num_layers


def _clip_tokens(data: DataConfig, policy: Policy, prompt_tokens: int) -> int:
    """Tokens of clips if every prompt and its one clip have the greatest length; of images all of the prompts."""
    if not isinstance(policy.family, AudioFamily):
        return prompt_tokens
    per_prompt = min(data.max_prompt_tokens, policy.family.clip_tokens(int(data.max_audio_s * SAMPLE_RATE)))
    return prompt_tokens * per_prompt // data.max_prompt_tokens
