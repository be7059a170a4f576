"""Engines of the cluster answer rows, with Ray Data's own LLM batch inference (`ray.data.llm`).

    rows -> blocks of `batch_size` rows
         -> ToEngine    in `tasks_per_engine` Ray tasks for each engine: decodes audio and frames, builds the prompt
         -> vLLM        `num_engines` actors, each an engine that answers a block's rows side by side
         -> FromEngine  in Ray tasks: decodes the text
         -> the driver, block by block, as they are done

Ray Data starts no more tasks than its share of the object store holds, so memory does not grow with the number of rows.
The rows of a block go to one engine in their order, which computes a prompt that several of them share once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import ActorDiedError, RayError

from ssr1_rl.cluster import ClusterTooSmall
from ssr1_rl.config.environment import plain
from ssr1_rl.config.model_path import check_model_folder
from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.connection import quiet_ray_data
from ssr1_rl.errors import RunError
from ssr1_rl.inference.engine_rows import ERROR, FromEngine, ToEngine, explain, to_table
from ssr1_rl.inference.request import Answer, Row, ToRequest
from ssr1_rl.rollout.engine_settings import common_args, environment

MAX_RESTARTS = 2
"""Restarts of an engine whose process has died, and repetitions of a batch that was in it."""
TASK_CPUS = 0.5
"""CPUs that Ray reserves for a task that makes requests or decodes texts."""


@dataclass(frozen=True)
class VllmBackend:
    """vLLM engines of one model, which answer rows; they run while `answers` does. Ray must be connected.

    Args:
        model_path: Hugging Face folder or hub name.
        max_model_len: most tokens of a prompt and its response, those of clips and images included.
        max_clips: most audio clips of one prompt.
        max_images: most images of one prompt.
        seed: of the engines; each request has its own.
    """

    model_path: str
    dtype: str
    device: str
    config: EnginesConfig
    max_model_len: int
    max_clips: int = 0
    max_images: int = 0
    seed: int = 0

    def answers(self, rows: Sequence[Row], to_request: ToRequest) -> Iterator[list[Answer]]:
        """See `Backend.answers`.

        Raises:
            MissingFile: there is no such model.
            RunError: the engines do not fit into the cluster, could not start, or died again and again.
        """
        check_model_folder(self.model_path, "the model")
        self.check_fits()
        quiet_ray_data()
        size = self.config.batch_size
        blocks = [to_table(rows[start : start + size], start) for start in range(0, len(rows), size)]
        with _quiet():
            answered = self._processor(to_request, len(blocks))(ray.data.from_arrow(blocks))
        answered.context.enable_progress_bars = False
        batches = iter(answered.iter_batches(batch_size=None, batch_format="pyarrow"))
        try:
            for block in batches:
                yield [_to_answer(record, rows) for record in block.to_pylist()]
        except (RayError, ExecutionTimeoutError) as error:
            raise RunError(self._explain(error)) from error
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _explain(self, error: Exception) -> str:
        if found := re.search(r"\bEngineStart: (.+)", str(error)):
            return (
                f"an engine of {self.model_path} could not start: {found[1]}. Check the model and the stage's settings "
                "of engines; every engine argument of vLLM can be set in engine_args there"
            )
        if isinstance(error, ActorDiedError):
            return (
                f"an engine of {self.model_path} died {MAX_RESTARTS + 1} times, because of a row in it or for want "
                f"of memory: {explain(error)}. The answers so far are kept; the same command asks for the others"
            )
        return f"the engines of {self.model_path} failed: {explain(error)}"

    def check_fits(self) -> None:
        """Refuses what the cluster never has, because Ray would wait for it.

        Raises:
            ClusterTooSmall: with what is needed and what is there.
        """
        bundle, tasks = self.bundle(), TASK_CPUS
        count = self.config.num_engines * self.config.tensor_parallel_size
        needs = {name: amount * count + (tasks if name == "CPU" else 0.0) for name, amount in bundle.items()}
        there = ray.cluster_resources()
        lacking = {name: amount for name, amount in needs.items() if amount > there.get(name, 0.0) + 1e-9}
        if lacking:
            raise ClusterTooSmall(
                f"{self.config.num_engines} engines of {self.model_path} need "
                + " and ".join(f"{amount:g} {name}s" for name, amount in needs.items())
                + f" ({tasks:g} CPUs of it for the tasks that prepare rows), but the cluster has "
                + " and ".join(f"{there.get(name, 0.0):g} {name}s" for name in needs)
                + "; lower num_engines, num_cpus or tensor_parallel_size of the stage's engines"
            )

    def _processor(self, to_request: ToRequest, num_blocks: int) -> Any:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        from ssr1_rl.inference.engine_start import Engine

        num_batches = math.ceil(self.config.max_num_seqs / self.config.batch_size) + 1
        config = vLLMEngineProcessorConfig(
            model_source=self.model_path,
            engine_kwargs=self.engine_args(),
            runtime_env={"env_vars": environment(self.device, self.config)},
            placement_group_config={"bundle_per_worker": self.bundle()},
            concurrency=(self.config.num_engines, self.config.num_engines),
            batch_size=self.config.batch_size,
            max_concurrent_batches=num_batches,
            max_tasks_in_flight_per_actor=num_batches + 1,
            should_continue_on_error=True,
            log_engine_metrics=False,  # vLLM's Ray metrics need ray[serve]
            chat_template_stage=False,  # prompts are tokens already, and answers are decoded by FromEngine
            tokenize_stage=False,
            detokenize_stage=False,
            prepare_multimodal_stage=False,
        )
        # Ray warns of more tasks than blocks.
        num_tasks = min(self.config.num_engines * self.config.tasks_per_engine, num_blocks)
        tasks = {"num_cpus": TASK_CPUS, "compute": ray.data.TaskPoolStrategy(size=num_tasks)}
        processor = build_processor(
            config,
            preprocess=ToEngine(to_request),
            postprocess=FromEngine(self.model_path),
            preprocess_map_kwargs=tasks,
            postprocess_map_kwargs=tasks,
        )
        # Changed in place: an assignment would make the stage work out its resources again, from what it has taken out
        # of its arguments already.
        stage = vars(processor.get_stage_by_name("vLLMEngineStage"))
        stage["fn"] = Engine
        # Ray Data's default is to start an engine that a row kills again for ever.
        stage["map_batches_kwargs"].update(max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)
        return processor

    def engine_args(self) -> dict[str, Any]:
        """vLLM's engine arguments; those of `engine_args` in the settings override them."""
        args = common_args(self.dtype, self.device, self.max_model_len, self.seed, self.config)
        limits = {"audio": self.max_clips, "image": self.max_images}
        if any(limits.values()):
            args["limit_mm_per_prompt"] = limits
        return args | plain(self.config.engine_args)

    def bundle(self) -> dict[str, float]:
        """What each tensor-parallel process of an engine reserves."""
        bundle = {"CPU": self.config.num_cpus / self.config.tensor_parallel_size}
        return bundle if self.device == "cpu" else bundle | {"GPU": 1.0}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray's and vLLM's remarks while the pipeline is set up are not for the user of a stage."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _to_answer(record: dict[str, Any], rows: Sequence[Row]) -> Answer:
    key = str(rows[record["index"]]["key"])
    if record[ERROR]:
        return Answer(key, error=record[ERROR])
    answer: Answer = pickle.loads(record["answer"])
    return Answer(**{**vars(answer), "key": key})
