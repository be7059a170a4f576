"""Runs a function on real learner ranks (one process each, DeepSpeed over gloo) and returns rank 0's result.

The processes are started once for each number of ranks and serve every test of the session, because a start takes
longer than most tests: torch, transformers and DeepSpeed are imported in each.

Below is what such functions share: a small learner, groups for it, its gradient. They import the package themselves,
in their own process.
"""

import gc
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.data.audio import as_clip
from ssr1_rl.types import SOFTMAX, Distribution, GroupId, TrainGroup
from tests.ports import free_ports


def run_ranks(work: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240.0) -> Any:
    """`work(rank, world_size, port, *args)` on every rank.

    `work` leaves its process as it found it: what it sets in a module, it sets back. After a failure the processes
    are ended, and the next call starts new ones.
    """
    if world_size not in _running:
        _running[world_size] = _Ranks(world_size)
    try:
        return _running[world_size].run(work, args, timeout_s)
    except BaseException:
        _running.pop(world_size).end()
        raise


def end_ranks() -> None:
    """Ends every process."""
    while _running:
        _running.popitem()[1].end()


class _Ranks:
    """The processes of one number of ranks, waiting for work."""

    def __init__(self, world_size: int) -> None:
        [port] = free_ports(1)
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, world_size, port), daemon=True)
            process.start()
            # Otherwise the end of the process would not close the pipe.
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, work: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Any:
        """Rank 0's result, once every rank is done; the first failure of any rank is raised at once."""
        for connection in self._connections:
            connection.send((work, args))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout_s
        while len(results) < len(self._connections):
            busy = [c for rank, c in enumerate(self._connections) if rank not in results]
            answered = wait(busy, max(0.0, deadline - time.monotonic()))
            assert answered, f"{work.__name__} took more than {timeout_s:g} s"
            for connection in answered:
                rank = self._connections.index(connection)
                try:
                    error, results[rank] = connection.recv()
                except EOFError:
                    error = "its process is gone"
                assert not error, f"rank {rank}: {error}"
        return results[0]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


_running: dict[int, _Ranks] = {}


def _serve(connection: Connection, rank: int, world_size: int, port: int) -> None:
    """A rank's process: runs what it is sent until the tests' process ends it, or is gone itself."""
    while True:
        try:
            work, args = connection.recv()
        except EOFError:
            return
        try:
            result = work(rank, world_size, port, *args)
        except BaseException:
            connection.send((traceback.format_exc(), None))
            raise
        connection.send(("", result if rank == 0 else None))
        del work, args, result
        # Learners have many reference cycles.
        gc.collect()


def make_learner(
    rank: int,
    world_size: int,
    port: int,
    model: str,
    *,
    of_model: dict[str, Any] | None = None,
    grpo: dict[str, Any] | None = None,
    distribution: Distribution = SOFTMAX,
    fetch_waveform: Callable[[Any], np.ndarray] = lambda clip: clip.waveform,
    **settings: Any,
) -> Any:
    """A learner in float32 on the CPU, one thread a rank; `settings` are those of section `learner`."""
    from ssr1_rl.config.sections.grpo import GrpoConfig
    from ssr1_rl.config.sections.learner import LearnerConfig
    from ssr1_rl.config.sections.model import ModelConfig
    from ssr1_rl.trainer.learner import Learner, RankSpec

    return Learner(
        RankSpec(rank, world_size, "127.0.0.1", port, "cpu"),
        ModelConfig(path=model, **{"dtype": "float32"} | (of_model or {})),
        GrpoConfig(**(grpo or {})),
        LearnerConfig(num_workers=world_size, num_threads=1, **{"learning_rate": 1e-3} | settings),
        distribution=distribution,
        seed=0,
        fetch_waveform=fetch_waveform,
    )


def groups_of(learner: Any) -> list[TrainGroup]:
    """Four random groups, the same on every rank."""
    config = learner.model.config
    return random_groups(4, range(10, config.text_config.vocab_size), config.audio_token_id)


def share_of(learner: Any, world_size: int) -> list[TrainGroup]:
    """This rank's share of the groups."""
    from ssr1_rl.trainer.batches.balance import share_groups

    return share_groups(groups_of(learner), world_size, num_tokens)[learner.rank]


def num_tokens(group: TrainGroup) -> int:
    """Cost of a group, by which groups are shared among ranks."""
    return group.num_prompt_tokens + sum(map(len, group.responses))


def whole_gradient(learner: Any, share: list[TrainGroup]) -> dict[str, np.ndarray]:
    """The gradient of every trained parameter under its published name, and the loss of all ranks as "loss"."""
    from deepspeed.utils import safe_get_full_grad

    from ssr1_rl.weights.parameters import trainable_parameters

    totals = learner.compute_gradient(learner.prepared(share)).over_ranks(learner.engine.device)
    grads = {name: safe_get_full_grad(p) for name, p in trainable_parameters(learner.model).items()}
    return {name: grad.detach().float().numpy().copy() for name, grad in grads.items()} | {
        "loss": np.array(totals.sums["loss"])
    }


def relative_difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Relative difference of two whole gradients, without "loss"."""
    assert found.keys() == expected.keys()
    names = expected.keys() - {"loss"}
    norm = np.sqrt(sum((expected[n].astype(np.float64) ** 2).sum() for n in names))
    assert norm > 1e-3, "a gradient of zero would equal anything"
    return float(np.sqrt(sum(((found[n].astype(np.float64) - expected[n]) ** 2).sum() for n in names)) / norm)


def random_groups(num_groups: int, vocabulary: range, placeholder_id: int, seed: int = 0) -> list[TrainGroup]:
    """Groups with clips of different lengths and responses of 1 to 9 random tokens."""
    rng = np.random.default_rng(seed)
    groups = []
    for index in range(num_groups):
        waveform = (0.1 * rng.standard_normal(int(16000 * (0.8 + 0.37 * index)))).astype(np.float32)
        lengths = rng.integers(1, 10, size=3)
        responses = tuple(tuple(int(t) for t in rng.choice(vocabulary, size=length)) for length in lengths)
        prompt = tuple(int(t) for t in rng.choice(vocabulary, size=6))
        groups.append(
            TrainGroup(
                id=GroupId(0, str(index)),
                prompt_token_ids=(*prompt[:3], placeholder_id, *prompt[3:]),
                waveforms=(as_clip(waveform),),
                responses=responses,
                rollout_logprobs=tuple(tuple(float(x) for x in -rng.uniform(1, 6, len(r))) for r in responses),
                advantages_G=(1.2, -0.4, -0.8),
                submitted_version=0,
                num_audio_tokens=(QWEN2_AUDIO.clip_tokens(len(waveform)),),
            )
        )
    return groups
