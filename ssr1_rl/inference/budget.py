"""Counts what an endpoint is asked for, over all starts of a stage, and stops at the budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ssr1_rl.errors import RunError, UserError
from ssr1_rl.files import write_json

AHEAD = 10
"""Requests that are written down, with the most tokens that they may take, before they are sent, so that the file is
not written for each of them. After a kill up to as many that were never sent count as spent; none that was sent is
forgotten."""


class BudgetSpent(RunError):
    """The stage may ask the endpoint for no more."""


class Budget:
    """Requests and tokens that were spent, and how many may be.

    A request is allowed only if its tokens fit too: until it is answered, it counts with its longest response and the
    longest prompt so far; for ever if no answer says what it took, because of a time-out or a kill for example. So the
    budget of tokens is exceeded by no more than the prompts of the first requests.

    Args:
        path: the file that keeps the counts.
        max_requests, max_tokens: 0 for no limit.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path, max_requests: int, max_tokens: int) -> None:
        self._path, self._max_requests, self._max_tokens = path, max_requests, max_tokens
        self.requests, self.tokens, self._longest_prompt = _read(path)
        self._written = self.requests  # requests in the file
        self._reserved: dict[int, int] = {}  # tokens by the request that is in flight
        self._changed = asyncio.Condition()

    async def take(self, max_response_tokens: int) -> int:
        """Allows one request, after those in flight if its tokens may not fit; returns its number.

        Raises:
            BudgetSpent: there is nothing left.
        """
        async with self._changed:
            while True:
                if self._max_requests and self.requests >= self._max_requests:
                    raise BudgetSpent(self._told("max_requests", self._max_requests))
                need = self._longest_prompt + max_response_tokens
                if not self._max_tokens or self.tokens + sum(self._reserved.values()) + need <= self._max_tokens:
                    break
                if not self._reserved:
                    raise BudgetSpent(self._told("max_tokens", self._max_tokens))
                await self._changed.wait()
            self.requests += 1
            self._reserved[self.requests] = need
            if self.requests > self._written:
                self._write(AHEAD, need)
            return self.requests

    async def settle(self, number: int, spent: tuple[int, int] | None) -> None:
        """Counts the tokens of a request's prompt and response; None, if they are not known: as many as it may take."""
        async with self._changed:
            reserved = self._reserved.pop(number)
            if spent is None:
                self.tokens += reserved
            else:
                self._longest_prompt = max(self._longest_prompt, spent[0])
                self.tokens += sum(spent)
            self._changed.notify_all()

    def save(self) -> None:
        """Writes the counts as they are."""
        self._write()

    def _write(self, num_ahead: int = 0, tokens_each: int = 0) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._max_requests:
            num_ahead = min(num_ahead, self._max_requests - self.requests)
        self._written = self.requests + num_ahead
        tokens = self.tokens + sum(self._reserved.values()) + num_ahead * tokens_each
        write_json(self._path, {"requests": self._written, "tokens": tokens, "longest_prompt": self._longest_prompt})

    def _told(self, limit: str, value: int) -> str:
        return (
            f"endpoint.{limit}={value:,} is spent: {self.requests:,} requests and {self.tokens:,} tokens so far, as "
            f"{self._path} counts them over all starts. The answers are kept; raise the limit, and the same command "
            "asks for the others"
        )


def _read(path: Path) -> tuple[int, int, int]:
    if not path.exists():
        return 0, 0, 0
    try:
        counts = json.loads(path.read_text())
        return int(counts["requests"]), int(counts["tokens"]), int(counts.get("longest_prompt", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read, so what the endpoint has cost so far is not known: {error}. Write "
            '{"requests": 0, "tokens": 0} into it, with the true counts'
        ) from error
