"""Records which weights an engine loads, so that a sync can be verified tensor by tensor.

vLLM fuses, shards and (on CPUs) repacks tensors while it loads them, so what it holds cannot be
compared with the learner's tensors. What each of its processes passes to the model's loader can:
this extension computes checksums of those tensors, for any backend and tensor-parallel size, and
lists the parameters that the loader did not fill. The log-prob guard checks what the loaded model computes.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, TypedDict

import torch


class AuditReport(TypedDict):
    """What one process of an engine received during an audit.

    `digests`: checksums by checkpoint name. `untouched`: the engine's parameters that no tensor was loaded into.
    """

    digests: dict[str, str]
    untouched: list[str]


def digest(tensor: torch.Tensor) -> str:
    """A checksum of a tensor's bytes, 16 hexadecimal digits (BLAKE2b)."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data, digest_size=8).hexdigest()


class WeightAudit:
    """Mixin that vLLM adds to its workers (`worker_extension_cls`); `self` is the worker."""

    def start_weight_audit(self) -> None:
        """Records the checksum of every tensor that the model's loader gets until `finish_weight_audit`."""
        model = self._model()
        self._audit_digests: dict[str, str] = {}
        self._audit_untouched = {name for name, _ in model.named_parameters()}
        load_weights = model.load_weights

        def audited(weights: Iterable[tuple[str, torch.Tensor]]) -> set[str] | None:
            pairs = list(weights)
            self._audit_digests.update((name, digest(tensor)) for name, tensor in pairs)
            loaded = load_weights(pairs)
            self._audit_untouched.difference_update(loaded or ())
            return loaded

        model.load_weights = audited

    def finish_weight_audit(self) -> AuditReport:
        """Ends the audit and returns its report."""
        del self._model().load_weights
        return {"digests": self._audit_digests, "untouched": sorted(self._audit_untouched)}

    def _model(self) -> Any:
        return self.model_runner.get_model()  # type: ignore[attr-defined]
