"""The learner ranks as the controller sees them: typed calls, fanned out to Ray actors."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ssr1_rl.algorithm.loss import keeps_all
from ssr1_rl.cluster import Placement
from ssr1_rl.config.schema import Config, GrpoConfig, LearnerConfig, ModelConfig
from ssr1_rl.trainer.batches.balance import (
    GroupCost,
    response_lengths,
    share_groups,
    share_minibatches,
    trained_lengths,
)
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.learner import Learner, RankSpec
from ssr1_rl.types import TrainGroup


class PortTaken(ValueError):
    """A port that the settings name is in use on the machine that needs it."""


class LearnerRank:
    """The Ray boundary of one `Learner`."""

    def find_port(self, port: int, setting: str) -> tuple[str, int]:
        """This node's address, and `port` (0: any free one) after a check that it is free."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise PortTaken(
                    f"{setting}={port} is taken on node {ray.util.get_node_ip_address()} ({error.strerror}); "
                    f"free the port, or set {setting}=0 for any free one"
                ) from None
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(
        self,
        spec: RankSpec,
        model: ModelConfig,
        grpo: GrpoConfig,
        learner: LearnerConfig,
        temperature: float,
        seed: int,
    ) -> tuple[str, PassCost]:
        """Loads the policy and joins the other ranks. Returns how it attends, and what its passes cost."""
        self._learner = Learner(spec, model, grpo, learner, temperature, seed, fetch_waveform=_fetch)
        self._busy_s = 0.0
        return str(self._learner.attention), self._learner.cost

    def connect_rollouts(self, backend: str, address: str, port: int, client: Any, timeout_s: float) -> None:
        """Joins the engines' weight-transfer group; a collective over ranks and engines."""
        from ssr1_rl.weights.source import start_transfer

        self._client = client
        self._transfer = start_transfer(self._learner, backend, address, port, client, timeout_s)

    def update(self, minibatches: list[list[TrainGroup]], kl_coefficient: float) -> dict[str, float]:
        """See `Learner.update`; adds the seconds it took."""
        started = time.monotonic()
        self._learner.kl_coefficient = kl_coefficient
        metrics = self._learner.update(minibatches)
        return metrics | {"update_s": time.monotonic() - started}

    def reference_kl(self, groups: list[TrainGroup]) -> list[tuple[tuple[float, ...], ...]]:
        """See `Learner.reference_kl`."""
        return self._learner.reference_kl(groups)

    def send_weights(self, policy_version: int) -> None:
        """Sends the current weights to every engine; a collective."""
        self._client.policy_version = policy_version
        self._transfer.send_weights()

    def weight_digests(self) -> dict[str, str]:
        """Checksum of every tensor as it is sent, by checkpoint name; a collective."""
        from ssr1_rl.weights.audit import digest
        from ssr1_rl.weights.source import ZeroWeightSource

        return {name: digest(tensor) for name, tensor in ZeroWeightSource(self._learner.model)}

    def save(self, folder: Path) -> None:
        """Writes the learner's state into `folder`; a collective, rank 0 writes."""
        from ssr1_rl.trainer.learner_state import save_learner

        save_learner(self._learner, folder)

    def load(self, folder: Path) -> int:
        """Takes the learner's state from `folder`; a collective. Returns the policy version."""
        from ssr1_rl.trainer.learner_state import load_learner

        load_learner(self._learner, folder)
        return self._learner.policy_version


def _fetch(handle: Any) -> np.ndarray:
    # Read in place from the object store: float32, and read-only, which the feature extractor does not mind.
    return ray.get(handle)


LearnerRankActor: Any = ray.remote(LearnerRank)


class LearnerGroup:
    """All ranks. `create` makes their actors, `start` loads them.

    Attributes:
        attention: how they attend, once they are loaded.
    """

    def __init__(self, ranks: Sequence[Any], config: LearnerConfig, grpo: GrpoConfig) -> None:
        self._ranks = list(ranks)
        self._config, self._grpo = config, grpo
        self._waiting: tuple[str, float] | None = None
        self.attention = ""
        self._pass_cost: PassCost | None = None

    @classmethod
    def create(cls, config: Config, placement: Placement) -> "LearnerGroup":
        """Creates the ranks' actors."""
        num_ranks = config.learner.num_workers
        ranks = [LearnerRankActor.options(**placement.options("learner", i)).remote() for i in range(num_ranks)]
        return cls(ranks, config.learner, config.grpo)

    async def start(self, config: Config) -> None:
        """Lets every rank load the policy and join the others."""
        learner = config.learner
        address, port = await self._find_port(learner.port, "learner.port")
        calls = [
            rank.start.remote(
                RankSpec(index, len(self._ranks), address, port, config.run.device),
                config.model,
                config.grpo,
                learner,
                config.rollout.temperature,
                config.run.seed,
            )
            for index, rank in enumerate(self._ranks)
        ]
        self.attention, self._pass_cost = await self._call(
            "loading the policy", "learner.start_timeout_s", learner.start_timeout_s, calls, first=True
        )

    async def _find_port(self, port: int, setting: str) -> tuple[str, int]:
        calls = [self._ranks[0].find_port.remote(port, setting)]
        return await self._call(
            "finding a port", "learner.start_timeout_s", self._config.start_timeout_s, calls, first=True
        )

    async def connect_rollouts(self, backend: str, client: Any, port: int, timeout_s: float) -> None:
        """Forms the weight-transfer group with the rollout workers behind `client`."""
        address, port = await self._find_port(port, "rollout.weight_transfer_port")
        await self._call(
            "joining the weight-transfer group",
            "rollout.sync_timeout_s",
            timeout_s,
            [rank.connect_rollouts.remote(backend, address, port, client, timeout_s) for rank in self._ranks],
        )

    async def update(self, groups: Sequence[TrainGroup], kl_coefficient: float) -> dict[str, float]:
        """Trains on one step's groups; returns the metrics over all ranks.

        Mini-batches are cut in the order of admission, then each is shared among the ranks, so
        that what an update trains on does not depend on the number of ranks.
        """
        lengths = partial(trained_lengths, keep_all=keeps_all(self._grpo))
        shares = share_minibatches(groups, self._grpo.num_minibatches, len(self._ranks), self._cost_of(lengths))
        calls = [rank.update.remote(share, kl_coefficient) for rank, share in zip(self._ranks, shares, strict=True)]
        return await self._call(
            "updating the policy", "learner.update_timeout_s", self._config.update_timeout_s, calls, first=True
        )

    async def reference_kl(self, groups: Sequence[TrainGroup]) -> list[tuple[tuple[float, ...], ...]]:
        """For each group and response the KL estimate of every token to the reference; see `Learner.reference_kl`."""
        shares = share_groups(groups, len(self._ranks), self._cost_of(response_lengths))
        calls = [rank.reference_kl.remote(share) for rank, share in zip(self._ranks, shares, strict=True)]
        results = await self._call(
            "running the reference model", "learner.update_timeout_s", self._config.update_timeout_s, calls
        )
        pairs = [pair for share, found in zip(shares, results, strict=True) for pair in zip(share, found, strict=True)]
        kl = {group.id: kl_GT for group, kl_GT in pairs}
        return [kl[group.id] for group in groups]

    def _cost_of(self, lengths: Callable[[TrainGroup], tuple[int, ...]]) -> GroupCost:
        """What a group costs, of which the responses of `lengths` are run."""
        cost = self._pass_cost
        assert cost is not None, "the ranks are loaded"
        return lambda group: cost.of_group(group, lengths(group))

    async def send_weights(self, policy_version: int, timeout_s: float) -> None:
        """Brings every engine to `policy_version`."""
        calls = [rank.send_weights.remote(policy_version) for rank in self._ranks]
        await self._call("sending weights", "rollout.sync_timeout_s", timeout_s, calls)

    async def weight_digests(self) -> dict[str, str]:
        """Checksum of every tensor, by checkpoint name."""
        calls = [rank.weight_digests.remote() for rank in self._ranks]
        return await self._call(
            "checksumming weights", "learner.update_timeout_s", self._config.update_timeout_s, calls, first=True
        )

    async def save(self, folder: Path) -> None:
        """Writes policy and optimizer into `folder`."""
        await self._call(
            "writing a checkpoint",
            "learner.update_timeout_s",
            self._config.update_timeout_s,
            [r.save.remote(folder) for r in self._ranks],
        )

    async def load(self, folder: Path) -> int:
        """Takes policy and optimizer from `folder`; returns the policy version."""
        calls = [rank.load.remote(folder) for rank in self._ranks]
        return await self._call(
            "reading a checkpoint", "learner.update_timeout_s", self._config.update_timeout_s, calls, first=True
        )

    def describe_waiting(self) -> list[str]:
        """What the ranks are doing, and since when."""
        if self._waiting is None:
            return []
        what, since = self._waiting
        return [f"learner ({len(self._ranks)} ranks): {what} for {time.monotonic() - since:.0f} s"]

    async def _call(self, what: str, setting: str, timeout_s: float, calls: list[Any], first: bool = False) -> Any:
        """Waits for all calls; the first failure is raised at once, with the rank that failed."""
        self._waiting = (what, time.monotonic())
        try:
            results = await asyncio.wait_for(asyncio.gather(*calls), timeout_s)
        except TimeoutError:
            raise TimeoutError(
                f"the learners were {what} for more than {setting}={timeout_s:g} s; their logs may say why"
            ) from None
        finally:
            self._waiting = None
        return results[0] if first else results

    def kill(self) -> None:
        """Ends every rank at once."""
        for rank in self._ranks:
            ray.kill(rank)
