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
    Iteration is a collective under ZeRO-3: every rank must run it to its end. Only the rank that `sends` gets
    tensors; on the others it takes part in gathering, copies nothing and yields nothing.

    On a GPU the consumer may read tensors on any CUDA stream (vLLM's packs them on streams of its own). So a group is
    yielded only after it has been written, and the next one, which may reuse its memory, is gathered only after it has
    been read.
    """

    def __init__(self, model: Any, sends: bool = True) -> None:
        self._sends = sends
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
        on_gpu = False
        for group in self.groups():
            parameters = [self._weights[name] for name in group]
            adapters = [p for name in group if name in self._adapters for p in adapter_parameters(self._adapters[name])]
            if on_gpu:
                torch.cuda.synchronize()
            with gathered(parameters + adapters):
                tensors = [self._whole(name) for name in group] if self._sends else []
            if not tensors:
                continue
            if on_gpu := _is_on_gpu(tensors[0]):
                torch.cuda.current_stream().synchronize()
            yield from zip(group, tensors, strict=True)
            # Otherwise this group would stay in memory until the next one is made.
            del tensors

    def _whole(self, name: str) -> torch.Tensor:
        """The tensor that is sent for a gathered weight."""
        weight = self._weights[name]
        if name in self._adapters:
            return merged(weight, self._adapters[name])
        # A clone, because a receiver may keep a tensor after its shard has been freed.
        return weight.detach().clone() if is_partitioned(weight) else weight.detach()


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda
