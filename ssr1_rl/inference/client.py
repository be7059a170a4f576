"""One request to an OpenAI-compatible server: sent, retried, paid for from the budget, and its errors told apart."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp

from ssr1_rl.config.sections.engines import EndpointConfig
from ssr1_rl.errors import RunError, UserError
from ssr1_rl.inference.budget import Budget
from ssr1_rl.inference.chat import Refused, Unreadable, to_answer, usage
from ssr1_rl.inference.pace import Pace, backoff_s, retry_after_s
from ssr1_rl.inference.request import Answer

CONNECT_S = 20.0
"""Longest wait for a connection."""
MAX_PAUSE_S = 3600.0
"""A server that asks for a longer pause ends the stage instead."""
MAX_ERROR_CHARS = 500
LEAST_SECRET_CHARS = 4


class EndpointRefuses(UserError):
    """The server refuses every request like this one: the key, the URL, the model or the account has to change."""


class _Retry(Exception):
    """The request may succeed later.

    Attributes:
        after_s: the pause that the server asks for.
        is_free: whether it has certainly cost no tokens.
    """

    def __init__(self, why: str, after_s: float | None = None, is_free: bool = False) -> None:
        super().__init__(why)
        self.after_s, self.is_free = after_s, is_free


class Client:
    """Asks one server. The key is in the session's headers and nowhere else; messages have it blotted out.

    Args:
        key: sent as a bearer token; empty to send none.
        max_response_tokens: of a request, for the budget.
    """

    def __init__(self, session: aiohttp.ClientSession, config: EndpointConfig, key: str, budget: Budget) -> None:
        self._session, self._config, self._key, self._budget = session, config, key, budget
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        self._host = urlsplit(config.url).netloc
        self._pace = Pace(config.requests_per_minute)

    async def ask(self, key: str, body: bytes, max_response_tokens: int) -> Answer:
        """The answer of a row; one with an error if the model or the server gives none.

        Args:
            key: of the row.
            body: the request's JSON.

        Raises:
            EndpointRefuses: no other request would succeed either.
            BudgetSpent: before anything was sent.
        """
        failure: _Retry | Unreadable | None = None
        for attempt in range(self._config.max_retries + 1):
            if failure is not None:
                await asyncio.sleep(self._pause_s(failure, attempt - 1))
            await self._pace.turn()
            number = await self._budget.take(max_response_tokens)
            spent: tuple[int, int] | None = None  # not known while there is no answer
            try:
                content = await self._send(body)
                spent = usage(content)
                answer = to_answer(key, content)
                self._refuse_uncounted(spent)
                return answer
            except Refused as refusal:
                spent = spent or (0, 0)
                return Answer(key, error=self._blotted(str(refusal)))
            except (_Retry, Unreadable) as error:
                failure = error
                if isinstance(error, _Retry) and error.is_free:
                    spent = (0, 0)
            finally:
                await self._budget.settle(number, spent)
        return Answer(key, error=self._blotted(f"{failure} ({self._config.max_retries + 1} tries)"))

    def _pause_s(self, failure: _Retry | Unreadable, attempt: int) -> float:
        after_s = failure.after_s if isinstance(failure, _Retry) else None
        if after_s is None:
            return backoff_s(attempt)
        if after_s > MAX_PAUSE_S:
            raise RunError(
                self._blotted(f"{self._host} asks for a pause of {after_s:,.0f} s, so try again then: {failure}")
            )
        self._pace.hold(after_s)  # the other requests would be refused too
        # A server that says 0 again and again must not use up all retries at once.
        return max(after_s, backoff_s(attempt))

    async def _send(self, body: bytes) -> Mapping[str, object]:
        """The JSON of a successful answer."""
        try:
            # A redirect would send the key to another server.
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                content = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ConnectionTimeoutError:
            raise _Retry(f"no connection to {self._host} within {CONNECT_S:g} s", is_free=True) from None
        except TimeoutError:
            raise _Retry(f"no answer within endpoint.timeout_s={self._config.timeout_s:g}") from None
        except (aiohttp.ClientError, OSError) as error:
            never_sent = isinstance(error, aiohttp.ClientConnectorError)
            why = f"the connection to {self._host} failed: {type(error).__name__}: {error}"
            raise _Retry(why, is_free=never_sent) from None
        if status != 200:
            self._refused(status, headers, content)
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise _Retry(f"the answer is not JSON: {error}") from None
        if not isinstance(answer, dict):
            raise _Retry("the answer is not a JSON object")
        return answer

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        """Raises what an answer that is not 200 means."""
        code, said = _error_in(content)
        told = f"{self._host} answered {status}" + (f": {said}" if said else "")
        if status in (408, 429) or status >= 500:
            if code == "insufficient_quota":
                raise EndpointRefuses(
                    self._blotted(f"{told}. The account has no credit left; add some, then start again")
                )
            raise _Retry(told, retry_after_s(headers.get("Retry-After"), time.time()), is_free=True)
        if status in (401, 403):
            # What the server says is left out: it may quote a part of the key.
            raise EndpointRefuses(
                self._blotted(f"{self._host} answered {status}{f' ({code})' if code else ''}: {self._about_key()}")
            )
        if status == 404 or code == "model_not_found":
            raise EndpointRefuses(
                self._blotted(f"{told}. Check that {self._url} is right, and that the server has the model")
            )
        if 300 <= status < 400:
            where = headers.get("Location", "another place")
            raise EndpointRefuses(
                self._blotted(f"{told}, a redirect to {where}; set endpoint.url to the right address")
            )
        if status == 402:
            raise EndpointRefuses(self._blotted(f"{told}. The account has no credit left; add some, then start again"))
        raise Refused(told)

    def _about_key(self) -> str:
        name = self._config.api_key_env
        if not name:
            return "it wants a key; set endpoint.api_key_env to the name of the environment variable that holds it"
        return f"it does not accept the key in the environment variable {name}; check the key and what it may do"

    def _refuse_uncounted(self, spent: tuple[int, int] | None) -> None:
        if spent is None and self._config.max_tokens:
            raise EndpointRefuses(
                f"{self._host} does not say how many tokens an answer took, so endpoint.max_tokens cannot be kept; "
                "set endpoint.max_requests instead"
            )

    def _blotted(self, text: str) -> str:
        """A message without the key, which servers quote."""
        text = text.replace(self._key, "***") if len(self._key) >= LEAST_SECRET_CHARS else text
        return " ".join(text.split())[:MAX_ERROR_CHARS]


def _error_in(content: bytes) -> tuple[str, str]:
    """The code and the message in a server's error, as OpenAI's format or common servers have them."""
    try:
        body = json.loads(content)
    except ValueError:
        return "", content.decode(errors="replace").strip()
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error)
    return str(error.get("code") or ""), str(error.get("message") or error.get("detail") or "")
