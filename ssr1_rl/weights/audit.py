"""Lets an engine say what weights it was handed, so that a sync can be proven tensor by tensor.

vLLM fuses, shards and (on CPUs) repacks tensors while it loads them, so what it
holds cannot be compared with the learner's tensors. What each of its workers hands
to the model's loader can: this extension digests that, whatever the backend and the
tensor-parallel size, and lists the parameters that the loader left as they were.
Whether the loaded model then computes the same is seen by the log-prob guard.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch


def digest(tensor: torch.Tensor) -> str:
    """A checksum of a tensor's bytes, 16 hexadecimal digits (BLAKE2b)."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().tobytes(), digest_size=8).hexdigest()


class WeightAudit:
    """Mixed into vLLM's workers by `worker_extension_cls`; `self` is the worker."""

    def start_weight_audit(self) -> None:
        """From now on, every tensor handed to the model's loader is digested."""
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        self._audit_digests: dict[str, str] = {}
        self._audit_untouched = {name for name, _ in model.named_parameters()}
        load_weights = model.load_weights

        def audited(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            pairs = list(weights)
            self._audit_digests.update((name, digest(tensor)) for name, tensor in pairs)
            loaded = load_weights(pairs)
            self._audit_untouched.difference_update(loaded or ())
            return loaded

        model.load_weights = audited

    def finish_weight_audit(self) -> dict[str, Any]:
        """The digests by checkpoint name, and the engine's parameters that no tensor reached."""
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        del model.load_weights
        return {"digests": self._audit_digests, "untouched": sorted(self._audit_untouched)}
