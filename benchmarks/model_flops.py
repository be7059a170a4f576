"""Counts the floating-point operations that a learner's pass needs, for model FLOPs utilisation (MFU).

As in PaLM (arXiv 2204.02311, appendix B), each token needs a multiplication and an addition for each weight of a
matrix: 2 N operations forward and 4 N backward (2 N for the gradient of the weights, 2 N for that of the input). In
each layer, attention needs 4 x head size x heads operations for each pair of tokens forward, and twice that backward.
In contrast to PaLM:

- attention counts only pairs that are attended to, not the square of the row;
- the head counts only response tokens, because no other log-probs are needed;
- frozen parts count forward only, and a trained projector after a frozen tower without the gradient of its input;
- a token counts as often as the pass computes it: a packed group's prompt and clip once.

Recomputation under gradient checkpointing, the optimizer and everything but matrices are not counted.
"""

from typing import Any

from ssr1_rl.trainer.batches.pass_cost import matrix_weights
from ssr1_rl.trainer.batches.rows import MicroBatch

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "B200": 2250,
    "L40S": 362,
}
"""Dense bfloat16 peak from NVIDIA's data sheets; the first key that is part of the GPU's name applies."""


def peak_tflops(gpu_name: str) -> float | None:
    """The GPU's peak; None if the table does not have it."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in gpu_name), None)


def flops_of_pass(model: Any, batch: MicroBatch, train_audio_tower: bool) -> float:
    """Operations of a Qwen2-Audio's forward and backward pass over `batch`."""
    text = model.config.text_config
    pairs = sum(group.num_attended_pairs for group in batch.layout.groups)
    backbone = 6 * matrix_weights(model.model.language_model) * batch.num_computed_tokens
    head = 6 * model.lm_head.weight.numel() * len(batch.targets_T)
    attention = 12 * text.hidden_size * text.num_hidden_layers * pairs
    projector = (6 if train_audio_tower else 4) * matrix_weights(model.model.multi_modal_projector)
    return (
        backbone
        + head
        + attention
        + projector * len(batch.feature_columns)
        + _of_tower(model, batch, train_audio_tower)
    )


def _of_tower(model: Any, batch: MicroBatch, trained: bool) -> float:
    audio = model.config.audio_config
    tower = model.model.audio_tower
    positions = [(frames - 1) // 2 + 1 for frames in batch.input_lengths]
    # The input of the first convolution is the clip, which has no gradient.
    first = (4 if trained else 2) * tower.conv1.weight.numel() * sum(batch.input_lengths)
    matrices = (tower.conv2.weight.numel() + matrix_weights(tower.layers)) * sum(positions)
    pairs = sum(n * n for n in positions) * audio.d_model * audio.encoder_layers
    return first + (6 if trained else 2) * matrices + (12 if trained else 4) * pairs
