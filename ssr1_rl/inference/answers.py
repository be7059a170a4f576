"""Asks a model about every row of a stage, and keeps the answers as they come."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ssr1_rl.errors import RunError, UserError, named_by_the_user
from ssr1_rl.files import lock
from ssr1_rl.inference.progress import StageProgress
from ssr1_rl.inference.request import Answer, Backend, Row, ToRequest
from ssr1_rl.inference.stopping import interruptible
from ssr1_rl.inference.store import Answers, AnswerStore

__all__ = ["Answers", "TooManyFailed", "answer_all"]

MIN_ROWS = 100
"""Failures are compared with this number of rows while fewer have come: one bad row at the start stops no stage."""


class TooManyFailed(RunError):
    """More rows of a stage failed than its `max_failed_share` allows."""


def answer_all(
    folder: Path,
    rows: Sequence[Row],
    to_request: ToRequest,
    backend: Backend,
    *,
    title: str,
    max_failed_share: float,
    fingerprint: Mapping[str, object],
    console: Console | None = None,
) -> Answers:
    """Answers every row that has no stored answer yet; returns the answers of all rows.

    A row that fails is listed in `folder`/failed.jsonl, and asked again by the next start. An answer is used again only
    if neither `fingerprint` nor its row has changed; answers of another fingerprint are moved to `folder`/set_aside.

    Args:
        folder: where answers are kept; one per stage. `ssr1_rl.inference.store` lists its files.
        rows: their keys must differ. Rows of one prompt should stand together: engines then compute the prompt once.
        title: what the progress shows, such as "teacher writes chains".
        max_failed_share: largest share of the rows that may fail. One row always may, unless the share is 0.
        fingerprint: what the answers depend on beside their rows, in values that JSON holds: the model, its prompt and
            sampling settings, the version of the code that makes the requests.

    Raises:
        TooManyFailed: with the commonest error; the stage stops as soon as it is certain.
        Interrupted: SIGINT or SIGTERM. The answers so far are kept.
        UserError: two rows have the same key, or another process answers in this folder.
    """
    with _held(folder), contextlib.ExitStack() as stack:
        notes: list[str] = []
        store = AnswerStore(folder, rows, fingerprint, notes.append)
        pending = store.pending()
        progress = stack.enter_context(StageProgress(title, len(rows), store.num_done, console=console))
        if store.num_done:
            notes.append(f"{store.num_done:,} of {len(rows):,} rows are answered already, in {folder}")
        for note in notes:
            progress.note(note)
        if pending:
            stack.enter_context(
                interruptible(f"the answers so far are kept in {folder}; the same command asks for the others only")
            )
            limit = _FailureLimit(title, folder, max_failed_share, len(rows))
            for answers in stack.enter_context(_ended(backend.answers(pending, to_request))):
                store.add(answers)
                progress.add(answers)
                limit.check(store)
            limit.check(store)
        left = len(rows) - store.num_done - len(store.failed)
        assert not left, f"the backend ended without an answer to {left} rows"
        return store.answers()


class _FailureLimit:
    """Stops a stage in which too many rows fail."""

    def __init__(self, title: str, folder: Path, max_share: float, num_rows: int) -> None:
        self._title, self._folder, self._max_share, self._num_rows = title, folder, max_share, num_rows

    def check(self, store: AnswerStore) -> None:
        num_failed = len(store.failed)
        num_finished = store.num_done + num_failed
        of = max(num_finished, min(MIN_ROWS, self._num_rows))
        if num_failed <= max(self._max_share * of, 1.0 if self._max_share else 0.0):
            return
        [(cause, count)] = Counter(store.failed.values()).most_common(1)
        raise TooManyFailed(
            f"{self._title}: {num_failed} of {num_finished} rows failed, more than max_failed_share="
            f"{self._max_share:g} allows. {count} of them with: {cause}\nAll are listed in "
            f"{self._folder / 'failed.jsonl'}. Fix what fails, or raise the share; the same command then asks for the "
            "rows that have no answer"
        )


@contextlib.contextmanager
def _ended(answers: Iterator[list[Answer]]) -> Iterator[Iterator[list[Answer]]]:
    """What makes the answers is ended with the context, whatever ends it: engines must not run on."""
    try:
        yield answers
    finally:
        if isinstance(answers, Generator):
            answers.close()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    with named_by_the_user("the folder of answers", folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise UserError(f"another process answers rows in {folder}; wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)
