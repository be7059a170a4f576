"""The learner's weights as a stream of whole tensors, in the form that vLLM's weight-transfer protocol needs."""

from collections.abc import Iterator
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource, layerwise_groups

from ssr1_rl.weights.adapters import adapter_parameters, adapters_by_weight, merged
from ssr1_rl.weights.parameters import gathered, is_partitioned, named_weights, whole_shape


class ZeroWeightSource(WeightSource):
    """Gathers ZeRO shards one layer group at a time, so that under ZeRO-3 no rank holds the whole model.

    Adapters are merged into the tensors that are sent, not into the parameters.
    Iteration is a collective under ZeRO-3: every rank must run it to its end.
    """

    def __init__(self, model: Any) -> None:
        weights = named_weights(model)
        self._weights = {name: weights[name] for group in layerwise_groups(list(weights)) for name in group}
        self._adapters = adapters_by_weight(model)

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and full shapes, without gathering."""
        return [ParamMeta(name, p.dtype, whole_shape(p)) for name, p in self._weights.items()]

    def update_info(self) -> dict[str, list[object]]:
        """The tensors of one sync, in order, in the form that vLLM's engines need."""
        metadata = self.metadata()
        return {
            "names": [m.name for m in metadata],
            "dtype_names": [str(m.dtype).removeprefix("torch.") for m in metadata],
            "shapes": [list(m.shape) for m in metadata],
        }

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for group in self.groups():
            parameters = [self._weights[name] for name in group]
            adapters = [p for name in group if name in self._adapters for p in adapter_parameters(self._adapters[name])]
            with gathered(parameters + adapters):
                tensors = [self._whole(name) for name in group]
            yield from zip(group, tensors, strict=True)

    def _whole(self, name: str) -> torch.Tensor:
        """The tensor that is sent for a gathered weight."""
        weight = self._weights[name]
        if name in self._adapters:
            return merged(weight, self._adapters[name])
        # A clone, because a receiver may keep a tensor after its shard has been freed.
        return weight.detach().clone() if is_partitioned(weight) else weight.detach()
