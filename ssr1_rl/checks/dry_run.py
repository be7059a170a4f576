"""What a run would do, without starting anything: settings, placement, and an estimate of memory."""

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.cluster import make_plan
from ssr1_rl.config.load import config_to_yaml
from ssr1_rl.config.presets import describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.trainer.attention.choice import choose_attention

GIB = 2**30
BYTES = {"bfloat16": 2, "float32": 4}
AUDIO_TOKENS_PER_S = 25
"""Of Qwen2-Audio and Qwen2.5-Omni alike."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per process. Activations are those of one micro-batch, roughly; see `estimate_memory`."""

    num_parameters: int
    num_trained: int
    learner_weights: int
    learner_gradients: int
    learner_optimizer: int
    learner_reference: int
    learner_activations: int
    engine_weights: int


def estimate_memory(config: Config) -> MemoryEstimate:
    """Static memory by ZeRO's own arithmetic (arXiv 1910.02054, section 3), plus a rough figure for activations.

    ZeRO-1 shares the optimizer's 12 bytes per trained parameter (float32 copy and two moments)
    among ranks, ZeRO-2 the gradients too, ZeRO-3 the weights too. Gradients are summed in float32;
    in bfloat16 ZeRO-1 holds both the sum and a micro-batch's own. Float32 training needs no
    separate copy of the weights. Activations: 34 bytes x tokens x hidden size x layers in bfloat16 without
    recomputation (arXiv 2205.05198, eq. 1 without attention scores), one layer's worth and each
    layer's input with it; those of a trained audio tower alike, which has two positions for each audio token;
    and the head's buffers for one chunk of response tokens.
    """
    from ssr1_rl.trainer.model.logprobs import chunk_bytes

    model, learner = config.model, config.learner
    hf_config, num_parameters, num_trained = _count_parameters(config)
    text = hf_config.get_text_config()
    width = BYTES[model.dtype]
    ranks = learner.num_workers
    share_optimizer = ranks if learner.zero_stage >= 1 else 1
    share_gradients = ranks if learner.zero_stage >= 2 else 1
    share_weights = ranks if learner.zero_stage >= 3 else 1
    tokens = learner.max_tokens_per_micro_batch
    group_responses = config.grpo.group_size * config.rollout.max_response_tokens
    response_tokens = tokens * group_responses // (config.data.max_prompt_tokens + group_responses)
    activations = _activations(config, tokens, text.hidden_size, text.num_hidden_layers)
    if model.train_audio_tower and (tower := getattr(hf_config, "audio_config", None)):
        positions = 2 * _audio_tokens(config, tokens - response_tokens)
        activations += _activations(config, positions, tower.d_model, tower.encoder_layers)
    logits = 4 * response_tokens * text.vocab_size
    return MemoryEstimate(
        num_parameters=num_parameters,
        num_trained=num_trained,
        learner_weights=width * num_parameters // share_weights,
        learner_gradients=(6 if width == 2 and learner.zero_stage <= 1 else 4) * num_trained // share_gradients,
        learner_optimizer=(12 if model.dtype == "bfloat16" else 8) * num_trained // share_optimizer,
        # With LoRA the reference is the policy with its adapters off.
        learner_reference=width * num_parameters // share_weights
        if config.grpo.kl_coefficient and not model.lora.rank
        else 0,
        learner_activations=activations + 3 * min(logits, chunk_bytes(config.run.device)),
        engine_weights=width * num_parameters // config.rollout.tensor_parallel_size,
    )


def _activations(config: Config, positions: int, hidden_size: int, num_layers: int) -> int:
    width = BYTES[config.model.dtype]
    per_layer = 17 * width * positions * hidden_size
    if config.model.gradient_checkpointing:
        return per_layer + width * positions * hidden_size * num_layers
    return per_layer * num_layers


def _audio_tokens(config: Config, prompt_tokens: int) -> int:
    """Of so many tokens of prompts, those of audio, if each prompt is the longest and has one clip of the longest."""
    per_prompt = min(config.data.max_prompt_tokens, math.ceil(AUDIO_TOKENS_PER_S * config.data.max_audio_s))
    return prompt_tokens * per_prompt // config.data.max_prompt_tokens


def _count_parameters(config: Config) -> tuple[Any, int, int]:
    """The model's configuration and its parameter counts, from shapes alone."""
    import torch

    from ssr1_rl.trainer.model.lora import add_adapters, find_targets
    from ssr1_rl.trainer.model.policy import empty_policy
    from ssr1_rl.weights.parameters import named_weights, trainable_parameters

    lora = config.model.lora
    model = empty_policy(config.model.path, config.model.train_audio_tower, config.learner.prefix_packing).model
    if lora.rank:
        with torch.device("meta"):
            add_adapters(model, lora.rank, lora.alpha, find_targets(model, lora.target_modules))
    return (
        model.config,
        sum(p.numel() for p in named_weights(model).values()),
        sum(p.numel() for p in trainable_parameters(model).values()),
    )


def _offloaded(config: Config) -> set[str]:
    """What of the learner waits in host memory, where it does not count."""
    offloaded = {"optimizer"} if config.learner.offload_optimizer != "none" else set()
    return offloaded | ({"weights", "reference model"} if config.learner.offload_parameters != "none" else set())


def _attention(config: Config) -> str:
    import torch

    wanted = config.model.attn_implementation
    if config.run.device == "cuda" and not torch.cuda.is_available():
        return f"{wanted}, to be settled where the learners run, since there is no GPU here"
    return str(choose_attention(wanted, config.run.device, config.model.dtype))


def print_dry_run(config: Config) -> None:
    """Prints resolved settings and placement, makes the checks of a real run, and prints the memory estimate.

    Raises:
        ValueError: what a real run would be refused for.
    """
    Console().print(config_to_yaml(config), markup=False, highlight=False)
    for line in describe_preset(config.grpo) + [f"note: {line}" for line in notes(config)]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    plan = make_plan(config)
    summary_table("placement", [{"who": who, "number": count, "each": each} for who, count, each in plan.rows()])
    preflight(config)
    estimate = estimate_memory(config)
    learner = [
        ("weights", estimate.learner_weights),
        ("gradients", estimate.learner_gradients),
        ("optimizer", estimate.learner_optimizer),
        ("reference model", estimate.learner_reference),
        ("activations and logits, roughly", estimate.learner_activations),
    ]
    offloaded = _offloaded(config)
    rows = [
        {"process": f"learner rank{', host' * (what in offloaded)}", "what": what, "GiB": f"{size / GIB:.2f}"}
        for what, size in learner
    ]
    on_device = sum(size for what, size in learner if what not in offloaded)
    rows.append({"process": "learner rank", "what": "together", "GiB": f"{on_device / GIB:.2f}"})
    rows.append({"process": "engine, each device", "what": "weights", "GiB": f"{estimate.engine_weights / GIB:.2f}"})
    print(f"attention of the learners: {_attention(config)}")
    title = f"memory estimate: {estimate.num_parameters:,} parameters, {estimate.num_trained:,} trained"
    summary_table(title, rows)
    print("nothing was started")
