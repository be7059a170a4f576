"""What the learners' rank 0 says to the rollout workers during a weight sync.

Implements vLLM's four-method `VLLMWeightSyncClient`. Every engine pauses, receives,
loads and resumes within one call, so a sync costs one control message per engine,
however many parameters there are.
"""

from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle


class RolloutSyncClient:
    """Fans each sync out to all rollout workers.

    Attributes:
        policy_version: the version that the next sync brings; set before each one.
    """

    def __init__(self, workers: Sequence[ActorHandle], tensor_parallel_size: int, timeout_s: float) -> None:
        self._workers = list(workers)
        self._tensor_parallel_size = tensor_parallel_size
        self._timeout_s = timeout_s
        self.policy_version = 0

    @property
    def world_size(self) -> int:
        """Processes in the transfer group: the sender and every engine's workers."""
        return 1 + len(self._workers) * self._tensor_parallel_size

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Lets every engine join; each one's ranks follow those of the one before."""
        calls = [
            worker.init_weight_transfer.remote({**init_info, "rank_offset": 1 + index * self._tensor_parallel_size})
            for index, worker in enumerate(self._workers)
        ]
        ray.get(calls, timeout=self._timeout_s)

    def start_weight_update(self) -> None:
        """Part of `update_weights`."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """The one control message of a sync."""
        calls = [worker.apply_weights.remote(update_info, self.policy_version) for worker in self._workers]
        ray.get(calls, timeout=self._timeout_s)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Part of `update_weights`."""
