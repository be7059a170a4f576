"""When the next request to an endpoint may be sent, and how long a failed one waits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Pace:
    """Spaces requests evenly, and holds all of them back while the server wants none.

    Args:
        requests_per_minute: 0 for no limit.
    """

    def __init__(self, requests_per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._next_s = self._held_until_s = 0.0

    async def turn(self) -> None:
        """Waits until a request may be sent."""
        while (wait_s := self._reserve()) > 0:
            await asyncio.sleep(wait_s)

    def _reserve(self) -> float:
        """Takes the next place if it is now; else returns the seconds to it."""
        now_s = self._clock()
        at_s = max(self._next_s, self._held_until_s)
        if at_s > now_s:
            return at_s - now_s
        self._next_s = now_s + self._gap_s
        return 0.0

    def hold(self, seconds: float) -> None:
        """Sends nothing for so long, because the server asks for it."""
        self._held_until_s = max(self._held_until_s, self._clock() + seconds)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for; None without a header that can be read.

    Args:
        header: a number of seconds, or a date as HTTP has them.
        now_s: seconds since the epoch.
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except (ValueError, TypeError):
        return None


def backoff_s(attempt: int) -> float:
    """A pause that doubles with every attempt, the first being 0, of which a random half is left out."""
    return min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
