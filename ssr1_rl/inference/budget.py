"""Counts what an endpoint is asked for, over all starts of a stage, and stops at the budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ssr1_rl.errors import RunError, UserError
from ssr1_rl.files import write_json

AHEAD = 10
"""Requests that are written down before they are sent, so that the file is not written for each of them. After a kill
up to as many that were never sent count as spent; none that was sent is forgotten."""


class BudgetSpent(RunError):
    """The stage may ask the endpoint for no more."""


class Budget:
    """Requests and tokens that were spent, and how many may be.

    A request is allowed only if its tokens fit too: until it is answered, it counts with its longest response and the
    longest prompt so far. So the budget of tokens is exceeded by no more than the prompts of the first requests.

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
                self._write(self.requests + AHEAD)
            return self.requests

    async def settle(self, number: int, num_prompt_tokens: int = 0, num_tokens: int = 0) -> None:
        """Counts what a request used, nothing if the server did not say."""
        async with self._changed:
            del self._reserved[number]
            self._longest_prompt = max(self._longest_prompt, num_prompt_tokens)
            self.tokens += num_prompt_tokens + num_tokens
            self._changed.notify_all()

    def save(self) -> None:
        """Writes the counts as they are."""
        self._write(self.requests)

    def _write(self, requests: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._max_requests:
            requests = min(requests, self._max_requests)
        counts = {"requests": requests, "tokens": self.tokens, "longest_prompt": self._longest_prompt}
        write_json(self._path, counts)
        self._written = requests

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
