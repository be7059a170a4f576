"""The controller's handle of all learner ranks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ray import ObjectRef

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.waits import Waits
from ssr1_rl.algorithm.loss import keeps_all
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.batches.balance import (
    GroupCost,
    response_lengths,
    share_groups,
    share_minibatches,
    trained_lengths,
)
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.learner import RankSpec
from ssr1_rl.trainer.rank import LearnerRank
from ssr1_rl.types import Distribution, GroupId, TokenValues, TrainGroup
from ssr1_rl.weights.transport import Rendezvous

R = TypeVar("R")


def by_role(calls: Sequence[R]) -> dict[str, R]:
    """What belongs to each rank, in their order, by the rank's role in errors."""
    return {f"learner rank {index}": call for index, call in enumerate(calls)}


class LearnerGroup:
    """Calls every rank and waits for all of them; the first failure is raised at once.

    Attributes:
        attention: the ranks' attention backend, and why it was chosen; set by `start`.
    """

    def __init__(
        self, ranks: Sequence[Actor[LearnerRank]], config: LearnerConfig, grpo: GrpoConfig, waits: Waits
    ) -> None:
        self._ranks = list(ranks)
        self._config, self._grpo, self._waits = config, grpo, waits
        self._pass_cost: PassCost | None = None
        self.attention = ""

    @property
    def num_ranks(self) -> int:
        """Number of learner ranks."""
        return len(self._ranks)

    async def start(self, model: ModelConfig, device: str, distribution: Distribution, seed: int) -> None:
        """Loads the policy in every rank; the ranks join each other. Responses are sampled from `distribution`."""
        address, port = await self.find_port(self._config.port, "learner.port")
        specs = [RankSpec(index, len(self._ranks), address, port, device) for index in range(len(self._ranks))]
        calls = [
            rank.call(LearnerRank.start, spec, model, self._grpo, self._config, distribution, seed)
            for rank, spec in zip(self._ranks, specs, strict=True)
        ]
        self.attention, self._pass_cost = (await self._start(calls, "loading the policy"))[0]

    async def find_port(self, port: int, setting: str) -> tuple[str, int]:
        """The address of rank 0's node and a free port there; see `LearnerRank.find_port`."""
        return (await self._start([self._ranks[0].call(LearnerRank.find_port, port, setting)], "finding a port"))[0]

    async def update_info(self) -> dict[str, list[object]]:
        """Names, dtypes and shapes of the tensors of a weight sync, in the form that vLLM's engines need."""
        return (await self._start([self._ranks[0].call(LearnerRank.update_info)], "listing the weights"))[0]

    async def update(self, groups: Sequence[TrainGroup], kl_coefficient: float) -> dict[str, float]:
        """Trains on one step's groups; returns the metrics over all ranks.

        Mini-batches are cut in the order of admission; see `share_minibatches`.
        """
        lengths = partial(trained_lengths, keep_all=keeps_all(self._grpo))
        shares = share_minibatches(groups, self._grpo.num_minibatches, len(self._ranks), self._cost_of(lengths))
        calls = [
            rank.call(LearnerRank.update, share, kl_coefficient)
            for rank, share in zip(self._ranks, shares, strict=True)
        ]
        return (await self._work(calls, "updating the policy"))[0]

    async def reference_kl(self, groups: Sequence[TrainGroup]) -> list[TokenValues]:
        """The KL estimate to the reference, for each group, response and token; see `Learner.reference_kl`."""
        return await self._per_token(LearnerRank.reference_kl, groups, "running the reference model")

    async def logprobs(self, groups: Sequence[TrainGroup]) -> list[TokenValues]:
        """The policy's log-probs, for each group, response and token. There are at least as many groups as ranks."""
        return await self._per_token(LearnerRank.logprobs, groups, "computing log-probs")

    async def _per_token(
        self,
        method: Callable[[LearnerRank, list[TrainGroup]], list[TokenValues]],
        groups: Sequence[TrainGroup],
        what: str,
    ) -> list[TokenValues]:
        """Calls every rank with its share of the groups; the values are in the order of the groups."""
        shares = share_groups(groups, len(self._ranks), self._cost_of(response_lengths))
        calls = [rank.call(method, share) for rank, share in zip(self._ranks, shares, strict=True)]
        found: dict[GroupId, TokenValues] = {}
        for share, values in zip(shares, await self._work(calls, what), strict=True):
            found |= zip((group.id for group in share), values, strict=True)
        return [found[group.id] for group in groups]

    def _cost_of(self, lengths: Callable[[TrainGroup], tuple[int, ...]]) -> GroupCost:
        """The cost of a group if the responses of these `lengths` are computed."""
        cost = self._pass_cost
        assert cost is not None, "start has returned"
        return lambda group: cost.of_group(group, lengths(group))

    def join_engines(self, rendezvous: Rendezvous) -> Mapping[str, ObjectRef[None]]:
        """Calls every rank to join the weight-transfer group, which the engines join at the same time."""
        return by_role([rank.call(LearnerRank.join_engines, rendezvous) for rank in self._ranks])

    def send_weights(self) -> Mapping[str, ObjectRef[None]]:
        """Calls every rank to send the current weights, which the engines receive at the same time."""
        return by_role([rank.call(LearnerRank.send_weights) for rank in self._ranks])

    async def weight_digests(self) -> dict[str, str]:
        """Checksum of every tensor, by checkpoint name."""
        calls = [rank.call(LearnerRank.weight_digests) for rank in self._ranks]
        return (await self._work(calls, "checksumming weights"))[0]

    async def save(self, folder: Path) -> None:
        """Writes policy and optimizer into `folder`."""
        await self._work([rank.call(LearnerRank.save, folder) for rank in self._ranks], "writing a checkpoint")

    async def load(self, folder: Path) -> int:
        """Loads policy and optimizer from `folder`; returns the policy version."""
        calls = [rank.call(LearnerRank.load, folder) for rank in self._ranks]
        return (await self._work(calls, "reading a checkpoint"))[0]

    async def _start(self, calls: list[ObjectRef[R]], what: str) -> list[R]:
        return await self._results(calls, what, self._config.start_timeout_s, "learner.start_timeout_s")

    async def _work(self, calls: list[ObjectRef[R]], what: str) -> list[R]:
        return await self._results(calls, what, self._config.update_timeout_s, "learner.update_timeout_s")

    async def _results(self, calls: list[ObjectRef[R]], what: str, timeout_s: float, setting: str) -> list[R]:
        who = f"learner ({len(self._ranks)} ranks)"
        return await self._waits.answers(who, what, by_role(calls), timeout_s, setting)

    def kill(self) -> None:
        """Ends every rank at once."""
        for rank in self._ranks:
            rank.kill()
