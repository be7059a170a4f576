"""Measure the overhead of the rollout pool: its tokens/s against those of bare `vllm.LLM.generate`.

Both sides get the same requests (prompts of 370 tokens for the text model of 6 M
parameters, 8 responses of 64 tokens each), the same engine arguments and the same
sampling parameters. The pool is the one that runs use: Ray actors around vLLM's AsyncLLM
that return text and log-probs of every response. The sides take turns (bare, pool,
bare, pool …), so that they do not disturb each other, and each round has new prompts,
so that no prefix is cached. The last line of stdout is one JSON object.
"""

import argparse
import asyncio
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from common import argument_parser, warn_if_busy, write_result
from plots import OURS, PEER, new_figure, save

TokenIds = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The work of one round."""

    model: str
    num_prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int


SMALL = Sizes("6m", 64, 8, 370, 64)
TINY = Sizes("tiny", 4, 2, 40, 8)


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of each engine (default: %(default)s)")
    args = parser.parse_args()
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def main() -> None:
    args = parse_args()
    if not args.tiny:
        warn_if_busy()
    sizes = TINY if args.tiny else SMALL
    # Before vLLM is imported: the same environment as rollout workers set for their engines.
    os.environ |= {
        "OMP_NUM_THREADS": str(args.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with tempfile.TemporaryDirectory(prefix="ssr1-rl-bench-") as folder:
        from text_task import make_text_task

        # One more round than is timed: the first one is a warm-up.
        num_prompts = (args.rounds + 1) * sizes.num_prompts
        task = make_text_task(Path(folder), sizes.model, num_prompts, sizes.prompt_tokens, args.seed)
        result = measure(args, sizes, task)
    write_result("rollout_overhead", result, args.results, plot)


def measure(args: argparse.Namespace, sizes: Sizes, task: Any) -> dict[str, Any]:
    """Starts both sides, runs them in turns, and compares their medians."""
    from ssr1_rl.config.sections.rollout import RolloutConfig
    from ssr1_rl.rollout.engine import EngineSpec, Sampling
    from ssr1_rl.types import PreparedQuestion

    spec = EngineSpec(
        model_path=str(task.model),
        dtype="float32",
        device="cpu",
        max_model_len=sizes.prompt_tokens + sizes.response_tokens,
        max_clips=0,
        seed=args.seed,
    )
    config = RolloutConfig(num_cpus=1.0, num_threads=args.threads, max_response_tokens=sizes.response_tokens)
    sampling = Sampling(sizes.group_size, sizes.response_tokens)
    prepared = [PreparedQuestion(question, token_ids) for question, token_ids in task.read()]
    rounds = [prepared[start : start + sizes.num_prompts] for start in range(0, len(prepared), sizes.num_prompts)]

    print("starting both engines", flush=True)
    speeds: dict[str, list[float]] = {"bare": [], "pool": []}
    with Bare(spec, config, sampling) as bare, Pool(spec, config, sampling) as pool:
        for index, questions in enumerate(rounds):
            for name, side in (("bare", bare), ("pool", pool)):
                started = time.perf_counter()
                lengths = side.generate(questions)
                seconds = time.perf_counter() - started
                assert len(lengths) == sizes.num_prompts * sizes.group_size, "responses are missing"
                assert set(lengths) == {sizes.response_tokens}, (
                    f"responses have {set(lengths)} tokens: the work is not equal"
                )
                print(f"{name}: {sum(lengths)} tokens in {seconds:.2f} s{'' if index else ' (warm-up)'}", flush=True)
                if index:
                    speeds[name].append(sum(lengths) / seconds)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "ratio_vs_bare": medians["pool"] / medians["bare"],
        "pool_tokens_per_s": medians["pool"],
        "bare_tokens_per_s": medians["bare"],
        "pool_tokens_per_s_by_round": speeds["pool"],
        "bare_tokens_per_s_by_round": speeds["bare"],
        "num_parameters": task.num_parameters,
        **dataclasses.asdict(sizes),
        "rounds": args.rounds,
        "threads": args.threads,
    }


class Bare:
    """vLLM's offline entry point, as a user without this package calls it."""

    def __init__(self, spec: Any, config: Any, sampling: Any) -> None:
        from vllm import LLM

        from ssr1_rl.rollout.engine import engine_args, sampling_params

        self._llm = LLM(**engine_args(spec, config))
        self._params = sampling_params(sampling)

    def __enter__(self) -> Self:
        return self

    def generate(self, questions: Iterable[Any]) -> list[int]:
        """Answers all questions; returns the length of every response."""
        prompts: Any = [{"prompt_token_ids": list(question.token_ids)} for question in questions]
        requests = self._llm.generate(prompts, self._params, use_tqdm=False)
        return [len(output.token_ids) for request in requests for output in request.outputs]

    def __exit__(self, *error: object) -> None:
        self._llm.llm_engine.engine_core.shutdown(timeout=5)


class Pool:
    """The system's side: a RolloutPool over RolloutWorker actors."""

    def __init__(self, spec: Any, config: Any, sampling: Any) -> None:
        import ray

        from ssr1_rl.actors.handle import Actor
        from ssr1_rl.actors.waits import Waits
        from ssr1_rl.connection import connect
        from ssr1_rl.rollout.pool import RolloutPool
        from ssr1_rl.rollout.worker import RolloutWorker

        connect()
        self._loop = asyncio.new_event_loop()
        self._worker = Actor.create(RolloutWorker, {"num_cpus": config.num_cpus})
        ray.get(self._worker.call(RolloutWorker.start, spec, config))
        self._pool = RolloutPool([self._worker], config.generate_timeout_s, Waits())
        self._sampling = sampling
        self._num_rounds = 0

    def __enter__(self) -> Self:
        return self

    def generate(self, questions: Sequence[Any]) -> list[int]:
        """Answers all questions; returns the length of every response."""
        return self._loop.run_until_complete(self._generate(questions))

    async def _generate(self, questions: Sequence[Any]) -> list[int]:
        from ssr1_rl.types import GroupId

        self._num_rounds += 1
        ids = [GroupId(self._num_rounds, prepared.question.id) for prepared in questions]
        calls = [self._pool.generate(i, prepared, self._sampling) for i, prepared in zip(ids, questions, strict=True)]
        return [len(c.token_ids) for group in await asyncio.gather(*calls) for c in group.completions]

    def __exit__(self, *error: object) -> None:
        import ray

        from ssr1_rl.rollout.worker import RolloutWorker

        ray.get(self._worker.call(RolloutWorker.shutdown))
        ray.shutdown()
        self._loop.close()


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws tokens/s of every round, and each side's median."""
    title = f"Rollouts through the pool: {result['ratio_vs_bare']:.2f} × the tokens/s of bare vllm.LLM.generate"
    figure, [axes] = new_figure(title, 6.5, 2)
    for y, (side, name, colour) in enumerate((("pool", "pool", OURS), ("bare", "bare vLLM", PEER))):
        by_round, median = result[f"{side}_tokens_per_s_by_round"], result[f"{side}_tokens_per_s"]
        axes.scatter(by_round, [y] * len(by_round), s=30, color=colour, alpha=0.6)
        axes.vlines(median, y - 0.3, y + 0.3, color=colour, linewidth=2)
        axes.annotate(f"{name}: median {median:,.0f}", (median, y - 0.35), ha="center", va="bottom", fontsize=9)
    axes.set_ylim(1.5, -0.9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.2 * max(result["pool_tokens_per_s"], result["bare_tokens_per_s"]))
    axes.set_xlabel("tokens/s; a dot for each round", fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
