"""Gradient checkpointing (arXiv 1604.06174): the backward pass recomputes activations instead of storing them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def checkpoint_layers(model: "PreTrainedModel") -> None:
    """Enables gradient checkpointing for every layer of a transformers model.

    transformers checkpoints layers in training mode. Only the layers are set to it, not their modules, so that no
    dropout becomes active.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
