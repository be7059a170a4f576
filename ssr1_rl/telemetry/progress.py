"""Shows a run's progress: a live display in a terminal, plain lines elsewhere.

Text shown here may come from a model or a data file. It is never read as rich markup, and control characters are
escaped, so that no text can move the cursor or change colours.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

FIGURES: Mapping[str, str] = {
    "reward/mean": "reward {:.2f}",
    "reward/accuracy": "accuracy {:.2f}",
    "rollout/tokens_per_s": "rollout {:,.0f} tokens/s",
    "learner/tokens_per_s": "learner {:,.0f} tokens/s",
    "time/step_s": "{:.1f} s",
}
"""Metrics shown for each step of GRPO, in this order; those that a step lacks are left out."""

PHASES_OF_A_STEP = frozenset({"rollouts", "update", "weight sync"})
"""Phases of every step. Without a terminal they are not printed, only the step's own line is."""

REFRESHES_PER_S = 4
MAX_WAITING_LINES = 6
MAX_STEPS_OF_ETA = 50
"""Number of newest steps that the time left is estimated from."""
WIDTH_WITHOUT_TERMINAL = 160


class Progress:
    """Shows how far a run is, its newest figures, and what it waits for. Use it as a context manager.

    In a terminal a thread redraws a bar over the steps with figures below it. Elsewhere one line is printed per step,
    and one per phase outside the steps.

    Args:
        figures: metrics shown for each step, in this order, and how each is written.

    Attributes:
        describe_waiting: returns one sentence for each thing awaited now; the caller sets it. It is called on the event
            loop that `phase` is called from, never in the drawing thread, because that loop changes the data that the
            sentences are made from.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        figures: Mapping[str, str] = FIGURES,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps, self._shown = num_steps, figures
        self.describe_waiting: Callable[[], list[str]] = list
        self._console = console or default_console()
        self._clock = clock
        self._step = 0
        self._figures = self._validation = self._phase = ""
        self._started_s = self._phase_started_s = clock()
        self._step_ends_s: deque[float] = deque(maxlen=MAX_STEPS_OF_ETA)
        self._waiting: list[str] = []
        self._poll_timer: asyncio.TimerHandle | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._started_s = self._phase_started_s = self._clock()
        if self._console.is_interactive:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=REFRESHES_PER_S)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        if self._live is not None:
            # The last picture stays in the terminal, without a phase: at the end nothing is awaited.
            self._phase, self._waiting = "", []
            self._live.stop()
            self._live = None

    def phase(self, text: str) -> None:
        """Shows what the run does now: "starting engines", "validating test 120/400", "rollouts".

        A text that differs from the previous one only in its numbers continues the same phase.
        """
        is_new = _without_numbers(text) != _without_numbers(self._phase)
        self._phase = text
        if is_new:
            self._phase_started_s = self._clock()
            if self._live is None and text not in PHASES_OF_A_STEP:
                self.note(text)
        if self._live is not None and self._poll_timer is None:
            with suppress(RuntimeError):  # no event loop runs yet
                self._poll(asyncio.get_running_loop())

    def describe(self) -> str:
        """Where the run is: "12 of 72 steps done, weight sync"."""
        return f"{self._step} of {self._num_steps} steps done, {self._phase or 'starting'}"

    def resume_at(self, step: int) -> None:
        """Counts the steps up to `step` as done by an earlier process."""
        self._step = step

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Marks a step as done and shows its figures."""
        self._step = step
        self._step_ends_s.append(self._clock())
        self._figures = "  ".join(text.format(metrics[name]) for name, text in self._shown.items() if name in metrics)
        if self._live is None:
            self.note(f"step {step}/{self._num_steps}  {self._figures}".rstrip())

    def validation(self, name: str, measure: str, score: float, num_scored: int, num_questions: int) -> None:
        """Shows the result of validating the policy of the newest step; `measure` says what the score is."""
        self._validation = f"{name} {score:.3f}"
        of = f"{num_questions:,}" if num_scored == num_questions else f"{num_scored:,} of {num_questions:,}"
        self.note(f"validation {name}  {measure} {score:.3f} over {of} questions  step {self._step}")

    def note(self, text: str) -> None:
        """Prints lines of text, above the live area if there is one."""
        line = Text(printable(text, self._console))
        self._console.print(line, no_wrap=True, overflow="ignore", crop=False)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting = self.describe_waiting()
        self._poll_timer = loop.call_later(1 / REFRESHES_PER_S, self._poll, loop)

    def _render(self) -> RenderableType:
        """The live area; called by rich's drawing thread."""
        lines = []
        if self._phase:
            lines.append(self._line(f"{self._phase} for {duration(self._clock() - self._phase_started_s)}", "cyan"))
        lines += [self._line(f"  {sentence}", "dim") for sentence in self._waiting[:MAX_WAITING_LINES]]
        if len(self._waiting) > MAX_WAITING_LINES:
            lines.append(self._line(f"  and {len(self._waiting) - MAX_WAITING_LINES} more", "dim"))
        # Figures may wrap in a narrow terminal; all other lines are cut.
        figures = "  ".join(part for part in (self._figures, self._validation) if part)
        return Group(self._bar(), *([Text(printable(figures, self._console))] if figures else []), *lines)

    def _line(self, text: str, style: str) -> Text:
        """A line of the live area, cut at the terminal's width."""
        one_line = " ".join(text.splitlines())
        return Text(printable(one_line, self._console), style=style, no_wrap=True, overflow="ellipsis")

    def _bar(self) -> Table:
        bar = Table.grid(padding=(0, 2), expand=True)
        for _ in range(4):
            bar.add_column(no_wrap=True)
        bar.columns[1].ratio = 1
        elapsed_s, left_s = self._clock() - self._started_s, self._left_s()
        bar.add_row(
            Text(f"step {self._step}/{self._num_steps}", style="bold"),
            ProgressBar(self._num_steps, self._step),
            Text(f"elapsed {duration(elapsed_s)}"),
            Text("left " + ("-:--:--" if left_s is None else duration(left_s))),
        )
        return bar

    def _left_s(self) -> float | None:
        """Estimated seconds to the end, from the mean time between the newest steps' ends; None: not known yet."""
        if self._step >= self._num_steps:
            return 0.0
        if len(self._step_ends_s) < 2:
            return None
        ends_s = list(self._step_ends_s)
        mean_s = (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)
        return max(0.0, (self._num_steps - self._step) * mean_s - (self._clock() - ends_s[-1]))


def summary_table(title: str, rows: Sequence[Mapping[str, object]], console: Console | None = None) -> None:
    """Prints a table of `rows`, each a mapping from column to cell. Floats are shown with 4 significant digits."""
    console = console or default_console()
    table = Table(title=Text(printable(title, console)), title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        is_number = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(Text(printable(name, console)), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(_cell(row.get(name, "")), console)) for name in columns))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def default_console() -> Console:
    """The console of standard output."""
    console = Console()
    # Without a terminal rich assumes 80 columns and would wrap the lines of a log.
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def printable(text: str, console: Console) -> str:
    """The text with control characters and characters that the console cannot encode escaped."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)
