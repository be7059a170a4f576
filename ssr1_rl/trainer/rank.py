"""The Ray edge of one learner rank."""

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray

from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.errors import UserError
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.learner import Learner, RankSpec
from ssr1_rl.trainer.learner_state import load_learner, save_learner
from ssr1_rl.types import Clip, Distribution, TokenValues, TrainGroup
from ssr1_rl.weights.audit import digest
from ssr1_rl.weights.transport import Rendezvous, join_as_learner

if TYPE_CHECKING:
    from ssr1_rl.weights.source import ZeroWeightSource


class PortTaken(UserError):
    """A port that the settings name is in use on the node that needs it."""


class LearnerRank:
    """One `Learner` in an actor. Every call but `find_port` and `update_info` is a collective over all ranks."""

    def __init__(self) -> None:
        self._held_ports: list[socket.socket] = []

    def find_port(self, port: int, setting: str) -> tuple[str, int]:
        """Returns this node's address, and `port` (0: any free port) after a check that it is free.

        The port stays bound until `start` or `join_engines` has opened it, so that no other process gets it meanwhile:
        with SO_REUSEADDR a second socket may listen on it.
        """
        probe = socket.socket()
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            probe.close()
            raise PortTaken(
                f"{setting}={port} is taken on node {ray.util.get_node_ip_address()} ({error.strerror}); "
                f"free the port, or set {setting}=0 for any free one"
            ) from None
        self._held_ports.append(probe)
        return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def _release_ports(self) -> None:
        while self._held_ports:
            self._held_ports.pop().close()

    def start(
        self,
        spec: RankSpec,
        model: ModelConfig,
        grpo: GrpoConfig,
        learner: LearnerConfig,
        distribution: Distribution,
        seed: int,
    ) -> tuple[str, PassCost]:
        """Loads the policy and joins the other ranks. Returns its attention in words and its `PassCost`."""
        self._learner = Learner(spec, model, grpo, learner, distribution, seed, fetch_waveform=_fetch)
        self._release_ports()
        return str(self._learner.attention), self._learner.cost

    def update_info(self) -> dict[str, list[object]]:
        """Names, dtypes and shapes of the tensors of a weight sync, in the form that vLLM's engines need."""
        return self._source().update_info()

    def join_engines(self, rendezvous: Rendezvous) -> None:
        """Joins the weight-transfer group; rank 0 blocks until the engines have joined."""
        self._transfer = join_as_learner(rendezvous, self._learner.rank, self._source())
        self._release_ports()

    def update(self, minibatches: list[list[TrainGroup]], kl_coefficient: float) -> dict[str, float]:
        """Trains on this rank's share of a step; returns the learner's metrics and `update_s`."""
        started = time.monotonic()
        self._learner.kl_coefficient = kl_coefficient
        metrics = self._learner.update(minibatches)
        return metrics | {"update_s": time.monotonic() - started}

    def reference_kl(self, groups: list[TrainGroup]) -> list[TokenValues]:
        return self._learner.reference_kl(groups)

    def logprobs(self, groups: list[TrainGroup]) -> list[TokenValues]:
        return self._learner.logprobs(groups)

    def send_weights(self) -> None:
        """Sends the current weights; rank 0 blocks until every engine has received them."""
        self._transfer.send_weights()

    def weight_digests(self) -> dict[str, str]:
        """Checksum of every tensor as it is sent, by checkpoint name; empty on ranks that do not send."""
        return {name: digest(tensor) for name, tensor in self._source()}

    def save(self, folder: Path) -> None:
        """Writes the learner's state into `folder`; rank 0 writes."""
        save_learner(self._learner, folder)

    def load(self, folder: Path) -> int:
        """Loads the learner's state from `folder` and returns the policy version."""
        load_learner(self._learner, folder)
        return self._learner.policy_version

    def _source(self) -> "ZeroWeightSource":
        from ssr1_rl.weights.source import ZeroWeightSource  # imports vLLM

        return ZeroWeightSource(self._learner.model, sends=self._learner.rank == 0)


def _fetch(clip: Clip) -> np.ndarray:
    # The object store gives a read-only array, which is enough for the feature extractor.
    return clip.waveform if isinstance(clip.waveform, np.ndarray) else ray.get(clip.waveform)
