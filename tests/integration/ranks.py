"""Runs a function on real learner ranks (one process each, DeepSpeed over gloo) and returns rank 0's result."""

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from ssr1_rl.data.prompt import num_audio_tokens, num_mel_frames
from ssr1_rl.types import GroupId, TrainGroup


def run_ranks(work: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240.0) -> Any:
    """`work(rank, world_size, port, *args)` on every rank, in fresh processes."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_run, args=(queue, work, rank, world_size, port, args)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        kind, result = queue.get(timeout=timeout_s)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert kind == "result", result
    return result


def _run(queue: Any, work: Callable[..., Any], rank: int, world_size: int, port: int, args: tuple[Any, ...]) -> None:
    import traceback

    try:
        result = work(rank, world_size, port, *args)
        if rank == 0:
            queue.put(("result", result))
    except BaseException:
        queue.put(("error", f"rank {rank}: {traceback.format_exc()}"))
        raise


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
                waveforms=(waveform,),
                responses=responses,
                rollout_logprobs=tuple(tuple(float(x) for x in -rng.uniform(1, 6, len(r))) for r in responses),
                advantages_G=(1.2, -0.4, -0.8),
                versions=(),
                submitted_version=0,
                num_audio_tokens=(num_audio_tokens(num_mel_frames(len(waveform))),),
            )
        )
    return groups
