"""An OpenAI-compatible server answers rows.

Ray Data's `HttpRequestProcessorConfig` is not used: it ignores Retry-After, retries neither 500 nor malformed JSON, has
no budget, ends the job when one row fails and prints the whole request then, and takes the key as an argument of the
pipeline, which Ray stores. Requests are sent from this process, not from actors: rate, budget and pauses are those of
the whole stage, and one process can wait for as many answers as a server gives.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from ssr1_rl.config.environment import plain
from ssr1_rl.config.sections.engines import EndpointConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.inference.budget import Budget, BudgetSpent
from ssr1_rl.inference.chat import to_body
from ssr1_rl.inference.client import CONNECT_S, Client
from ssr1_rl.inference.engine_rows import explain
from ssr1_rl.inference.request import Answer, Row, ToRequest

SPENT = "spent.json"


@dataclass(frozen=True)
class EndpointBackend:
    """A server that answers rows. Ray is not needed: rows are prepared in threads of this process.

    Args:
        config: its `url` must be set.
        model: the name of the model that requests carry.
        folder: of the stage's answers; `spent.json` there counts requests and tokens over all starts.
    """

    config: EndpointConfig
    model: str
    folder: Path

    def answers(self, rows: Sequence[Row], to_request: ToRequest) -> Iterator[list[Answer]]:
        """See `Backend.answers`.

        Raises:
            ConfigError: the URL cannot be used, or the key is not in the environment.
            EndpointRefuses: the server accepts no request: the key, the URL, the model or the account is wrong.
            BudgetSpent: requests or tokens are used up; every answer that was paid for has been given before.
        """
        check_url(self.config)
        key = read_key(self.config)
        budget = Budget(self.folder / SPENT, self.config.max_requests, self.config.max_tokens)
        with asyncio.Runner() as runner:
            # The loop runs only while the next answers are awaited; it stands still while they are stored.
            asking = runner.run(self._start(rows, to_request, key, budget))
            try:
                while (batch := runner.run(asking.next_batch())) is not None:
                    budget.save()
                    yield batch
            finally:
                runner.run(asking.close())
                budget.save()

    async def _start(self, rows: Sequence[Row], to_request: ToRequest, key: str, budget: Budget) -> _Asking:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self.config.timeout_s, connect=min(CONNECT_S, self.config.timeout_s)),
            connector=aiohttp.TCPConnector(limit=0),  # max_concurrency is the limit
            # Not `trust_env`: it would take the credentials of ~/.netrc too, beside the key or instead of none.
            proxy=proxy_of(self.config.url),
        )
        return _Asking(self, session, Client(session, self.config, key, budget), rows, to_request)


class _Asking:
    """The requests in flight, and the rows that wait."""

    def __init__(
        self,
        backend: EndpointBackend,
        session: aiohttp.ClientSession,
        client: Client,
        rows: Sequence[Row],
        to_request: ToRequest,
    ) -> None:
        self._backend, self._session, self._client = backend, session, client
        self._waiting, self._to_request = iter(rows), to_request
        self._tasks = set[asyncio.Task[Answer]]()
        self._spent: BudgetSpent | None = None
        self._fatal: BaseException | None = None

    async def next_batch(self) -> list[Answer] | None:
        """The answers that came since the last call, at least one; None if there are no more."""
        while self._fatal is None:
            self._fill()
            if not self._tasks:
                break
            done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for error in (error for task in done if (error := task.exception())):
                if isinstance(error, BudgetSpent):
                    self._spent = error  # what is in flight is paid for, and awaited
                else:
                    self._fatal = error
            if answers := [task.result() for task in done if not task.exception()]:
                return answers
        stopped_by = self._fatal or self._spent
        if stopped_by is not None:
            raise stopped_by
        return None

    def _fill(self) -> None:
        while self._spent is None and len(self._tasks) < self._backend.config.max_concurrency:
            if (row := next(self._waiting, None)) is None:
                return
            self._tasks.add(asyncio.ensure_future(self._answer(row)))

    async def _answer(self, row: Row) -> Answer:
        key = str(row["key"])
        try:
            body, max_response_tokens = await asyncio.to_thread(self._body, row)
        except Exception as error:  # a stage's code on a user's data: the row fails, not the stage
            return Answer(key, error=explain(error))
        return await self._client.ask(key, body, max_response_tokens)

    def _body(self, row: Row) -> tuple[bytes, int]:
        request = self._to_request(row)
        body = to_body(request, self._backend.model, plain(self._backend.config.request_fields))
        return json.dumps(body).encode(), request.max_response_tokens

    async def close(self) -> None:
        """Cancels what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()


def check_url(config: EndpointConfig) -> None:
    """Refuses a URL that cannot be that of a server, or that holds a password.

    Raises:
        ConfigError: without the URL's password.
    """
    parts = urlsplit(config.url)
    if parts.username or parts.password:
        raise ConfigError("endpoint.url holds a user name or a password; give the key by endpoint.api_key_env instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"endpoint.url must be like https://host/v1, got {config.url!r}")


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address (`https_proxy`, `no_proxy`), as other programs take it."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def read_key(config: EndpointConfig) -> str:
    """The key, empty if none is wanted.

    Raises:
        ConfigError: the setting is no name, the variable is not set, or what it holds cannot be a key. The message
            does not hold it.
    """
    name = config.api_key_env
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ConfigError(
            "endpoint.api_key_env must be the name of an environment variable, and what it holds is none (it is not "
            "shown, because it may be the key itself); export the key, and give the variable's name"
        )
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"endpoint.api_key_env names the environment variable {name}, which is not set: export it")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {name} holds characters that no key has; export the key alone")
    return key
