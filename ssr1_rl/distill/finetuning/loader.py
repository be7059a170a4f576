"""Decodes the clips and builds the prompts of one rank's examples, in a thread, ahead of the steps that learn them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from ssr1_rl.config.schema import Config
from ssr1_rl.data.frames import VideoError
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.response import ResponseEncoder
from ssr1_rl.data.skipped import UNUSABLE
from ssr1_rl.distill.finetuning.plan import Planned
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.types import GroupId, PreparedQuestion, Question, TrainGroup

NUM_AHEAD = 2
"""Steps whose examples are prepared before they are needed."""
NOT_SAMPLED = -1
"""`submitted_version` of groups that no engine has sampled: never the version of a policy."""


@dataclass(frozen=True)
class Unusable:
    """An example, or one of its responses, that is not learned."""

    question_id: str
    reason: str
    whole: bool  # whether nothing of the question is learned


@dataclass(frozen=True)
class Prepared:
    """What a rank learns in one step."""

    groups: list[TrainGroup]
    unusable: list[Unusable]


class QuestionPreparer(Protocol):
    """Makes the prompt of a question, and decodes its clips or frames."""

    async def prepare(self, question: Question) -> PreparedQuestion: ...


PreparerOf: TypeAlias = Callable[[Config, int], QuestionPreparer]
"""Makes the preparer of a rank, from the settings and the number of ranks. It is pickled on its way to the ranks."""


def hearing(config: Config, num_ranks: int) -> Preparer:
    """Prepares questions for a model that hears, as GRPO does. The ranks share the memory for decoded clips."""
    data = replace(config.data, audio_cache_mib=max(1, config.data.audio_cache_mib // num_ranks))
    return Preparer(PromptBuilder(config.model.path, data), data, keep=lambda waveform: waveform)


class ExamplePreparer:
    """Makes a `TrainGroup` of an example: prompt, clips and the token ids of its responses.

    Args:
        max_tokens: most tokens of a prompt with a response: the positions of the model.
    """

    def __init__(self, questions: QuestionPreparer, config: Config, max_tokens: int) -> None:
        self._questions = questions
        self._responses = ResponseEncoder(PromptBuilder(config.model.path, config.data), config.model.path)
        self._max_response_tokens, self._max_tokens = config.sft.max_response_tokens, max_tokens

    async def prepare(self, planned: Planned) -> tuple[TrainGroup | None, list[Unusable]]:
        """The group, None if nothing of the example can be learned, and what cannot."""
        question = planned.example.question
        try:
            prepared = await self._questions.prepare(question)
        except (*UNUSABLE, VideoError) as error:
            return None, [Unusable(question.id, str(error), whole=True)]
        group = TrainGroup(
            id=GroupId(planned.epoch, question.id),
            prompt_token_ids=prepared.token_ids,
            waveforms=prepared.waveforms,
            responses=(),
            rollout_logprobs=(),
            advantages_G=(),
            submitted_version=NOT_SAMPLED,
            num_audio_tokens=prepared.num_audio_tokens,
        )
        encoded = [self._responses.encode(text) for text in planned.example.responses]
        room = self._max_tokens - group.num_prompt_tokens
        limit = min(self._max_response_tokens, room)
        kept = tuple(response for response in encoded if len(response) <= limit)
        where = question.source or f"question {question.id}"
        why = (
            f"sft.max_response_tokens={self._max_response_tokens}"
            if limit == self._max_response_tokens
            else f"the {room} that the model's {self._max_tokens} positions leave after the prompt"
        )
        unusable = [
            Unusable(question.id, f"{where}: a response of {len(response)} tokens is longer than {why}", whole=not kept)
            for response in encoded
            if len(response) > limit
        ]
        if not kept:
            return None, unusable[:1]
        # Log-probs and advantages of an engine's samples, which the loss of SFT does not read.
        return replace(
            group,
            responses=kept,
            rollout_logprobs=tuple((0.0,) * len(response) for response in kept),
            advantages_G=(1.0,) * len(kept),
        ), unusable


class Loader:
    """Prepares this rank's share of every step, and of other batches. Use it as a context manager.

    Args:
        share_of: the rank's share of a step.
        last_step: no later step is prepared.
    """

    def __init__(self, preparer: ExamplePreparer, share_of: Callable[[int], Sequence[Planned]], last_step: int) -> None:
        self._preparer, self._share_of, self._last_step = preparer, share_of, last_step
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sft-loader", daemon=True)
        self._ahead: dict[int, Future[Prepared]] = {}

    def __enter__(self) -> Loader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def take(self, step: int) -> Prepared:
        """The groups of a step; the next ones are begun."""
        for number in range(step, min(step + NUM_AHEAD, self._last_step) + 1):
            if number not in self._ahead:
                self._ahead[number] = self._begin(self._share_of(number))
        return self._ahead.pop(step).result()

    def prepare(self, share: Sequence[Planned]) -> Prepared:
        """Groups of other examples, at once."""
        return self._begin(share).result()

    def _begin(self, share: Sequence[Planned]) -> Future[Prepared]:
        return asyncio.run_coroutine_threadsafe(self._prepare(share), self._loop)

    async def _prepare(self, share: Sequence[Planned]) -> Prepared:
        found = await asyncio.gather(*(self._preparer.prepare(planned) for planned in share))
        return Prepared(
            [group for group, _ in found if group is not None],
            [unusable for _, of_example in found for unusable in of_example],
        )


async def _cancel_others() -> None:
    """Ends every other task of the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
