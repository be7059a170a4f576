"""Gradient checkpointing (arXiv 1604.06174): layers computed again in the backward pass instead of kept."""

from typing import Any


def checkpoint_layers(model: Any) -> None:
    """Turns it on for every layer of a transformers model, which does it in layers that are in training mode.

    Only the layers themselves are set to it: nothing below them, so that no dropout comes alive.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
