"""Shows how far a stage is: a bar with rates and the time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssr1_rl.inference.request import Answer
from ssr1_rl.telemetry.progress import default_console, duration, printable

LINE_EVERY_S = 30.0
"""Without a terminal, time between two lines."""
WINDOW_S = 120.0
"""The rates are those of this time."""
REFRESHES_PER_S = 4


class StageProgress:
    """Counts answers. Use it as a context manager.

    Args:
        title: what the stage does, such as "teacher writes chains".
        num_rows: rows of the stage.
        num_done: rows that an earlier start has answered.
    """

    def __init__(
        self,
        title: str,
        num_rows: int,
        num_done: int = 0,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._num_rows, self._num_done = title, num_rows, num_done
        self._num_failed = 0
        self._console, self._clock = console or default_console(), clock
        self._started_s = clock()
        self._newest: deque[tuple[float, int, int]] = deque([(self._started_s, 0, 0)])  # time, rows and tokens so far
        self._rows = self._tokens = 0  # of this start
        self._live: Live | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> StageProgress:
        if self._console.is_interactive:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=REFRESHES_PER_S)
            self._live.start()
        else:
            threading.Thread(target=self._print_lines, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif exception[0] is None and self._rows:
            self.note(self.describe())

    def add(self, answers: Sequence[Answer]) -> None:
        """Counts answers, those with an error as failed."""
        num_tokens = sum(answer.num_tokens for answer in answers)
        self.count(len(answers), sum(bool(answer.error) for answer in answers), num_tokens)

    def count(self, num_rows: int, num_failed: int, num_tokens: int = 0) -> None:
        """Counts rows that are done, the failed ones included."""
        now_s = self._clock()
        self._rows += num_rows
        self._tokens += num_tokens
        self._num_failed += num_failed
        self._num_done += num_rows - num_failed
        self._newest.append((now_s, self._rows, self._tokens))
        while len(self._newest) > 2 and self._newest[1][0] <= now_s - WINDOW_S:
            self._newest.popleft()

    def note(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        line = Text(printable(text, self._console))
        self._console.print(line, no_wrap=True, overflow="ignore", crop=False)

    def describe(self) -> str:
        """The title, the counts, the rates and the time left, in one line."""
        return "  ".join([self._title, self._count(), *self._figures()])

    def _print_lines(self) -> None:
        """Prints a line now and then, also while nothing comes."""
        while not self._is_over.wait(LINE_EVERY_S):
            self.note(self.describe())

    def _count(self) -> str:
        failed = f" ({self._num_failed:,} failed)" if self._num_failed else ""
        return f"{self._num_done + self._num_failed:,}/{self._num_rows:,}{failed}"

    def _figures(self) -> list[str]:
        if not self._rows:
            return [f"waiting for the first answers for {duration(self._clock() - self._started_s)}"]
        started_s, rows, tokens = self._newest[0]
        seconds = max(self._clock() - started_s, 1e-9)
        rows_per_s, tokens_per_s = (self._rows - rows) / seconds, (self._tokens - tokens) / seconds
        left = self._num_rows - self._num_done - self._num_failed
        left_s = duration(left / rows_per_s) if rows_per_s else "-:--:--"
        rate = f"{rows_per_s:,.1f} rows/s" if rows_per_s >= 1 else f"{rows_per_s * 60:,.1f} rows/min"
        return [rate, *([f"{tokens_per_s:,.0f} tokens/s"] if self._tokens else []), f"left {left_s}"]

    def _render(self) -> RenderableType:
        bar = Table.grid(padding=(0, 2), expand=True)
        cells = [self._title, None, self._count(), *self._figures()]
        for _ in cells:
            bar.add_column(no_wrap=True)
        bar.columns[1].ratio = 1
        bar.add_row(
            *(
                ProgressBar(max(self._num_rows, 1), self._num_done + self._num_failed)
                if cell is None
                else Text(printable(cell, self._console))
                for cell in cells
            )
        )
        return bar
