"""The order in which questions are trained on: endless, and resumable from a cursor of two numbers.

The order of an epoch depends only on the seed, the epoch and the question ids, not on the order of rows in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

from ssr1_rl.errors import UserError
from ssr1_rl.types import GroupId, Question


class StreamState(TypedDict):
    """Where a stream is, and what it was made from. Can be written as JSON."""

    seed: int
    epoch: int
    position: int
    num_questions: int
    fingerprint: str


class QuestionStream:
    """Endless iterator over (GroupId, Question), reshuffled for each epoch. Every `GroupId` has attempt 0."""

    def __init__(self, questions: Sequence[Question], seed: int) -> None:
        self._questions = {question.id: question for question in questions}
        if not questions:
            raise UserError("a stream needs at least one question, got none; fix the path of the data set")
        if len(self._questions) < len(questions):
            raise UserError(f"question ids must differ, got {len(self._questions)} ids for {len(questions)} questions")
        self._seed = seed
        self._fingerprint = _fingerprint(questions)
        self._epoch = 0
        self._position = 0
        self._order = self._order_of(0)

    def __iter__(self) -> Iterator[tuple[GroupId, Question]]:
        return self

    def __next__(self) -> tuple[GroupId, Question]:
        if self._position == len(self._order):
            self._epoch += 1
            self._position = 0
            self._order = self._order_of(self._epoch)
        question_id = self._order[self._position]
        self._position += 1
        return GroupId(self._epoch, question_id), self._questions[question_id]

    def question(self, question_id: str) -> Question:
        """The question of a group that was issued before, to issue it again after a resume."""
        return self._questions[question_id]

    def state_dict(self) -> StreamState:
        """Everything that `load_state_dict` needs to continue exactly here."""
        return {
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
            "num_questions": len(self._questions),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: StreamState) -> None:
        """Continues from the point at which `state` was taken; `ValueError` if the data set or the seed differs."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                f"the training data changed since the checkpoint: {state['num_questions']} questions with fingerprint "
                f"{state['fingerprint']} then, {len(self._questions)} with {self._fingerprint} now; restore the old "
                "file, or start a new run from the checkpoint's weights"
            )
        if state["seed"] != self._seed:
            raise UserError(
                f"run.seed was {state['seed']} when the checkpoint was written and is {self._seed} now, which "
                "changes the order of questions; set it back, or start a new run from the checkpoint's weights"
            )
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._order = self._order_of(self._epoch)

    def _order_of(self, epoch: int) -> list[str]:
        return order_of_epoch(self._questions, self._seed, epoch)


def order_of_epoch(question_ids: Iterable[str], seed: int, epoch: int) -> list[str]:
    """Question ids sorted by a keyed hash: a shuffle that does not change with library versions."""
    key = f"{seed}/{epoch}".encode()
    return sorted(question_ids, key=lambda id: hashlib.blake2b(id.encode(), key=key, digest_size=8).digest())


def _fingerprint(questions: Sequence[Question]) -> str:
    """Digest of ids, texts, choices and answers; it depends neither on their order nor on where files are."""
    digests = sorted(
        hashlib.blake2b(repr((q.id, q.text, q.choices, q.ground_truth)).encode(), digest_size=16).digest()
        for q in questions
    )
    return hashlib.blake2b(b"".join(digests), digest_size=8).hexdigest()
