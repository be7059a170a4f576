"""Gradients by parameter name, and what it means for two of them to be equal."""

import torch


def gradients(model, loss):
    """The gradient of every parameter that `loss` reaches."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(found, expected):
    """Checks that gradients are equal to 1e-5 of each parameter's gradient."""
    assert found.keys() == expected.keys()
    total = float(torch.cat([gradient.flatten() for gradient in expected.values()]).norm())
    for name, gradient in expected.items():
        # Some gradients are 0 but for float error: softmax does not depend on a key's bias, nor on a single key.
        scale = max(float(gradient.norm()), 1e-3 * total)
        assert float((found[name] - gradient).norm()) <= 1e-5 * scale, name
