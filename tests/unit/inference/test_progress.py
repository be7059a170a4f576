"""What a stage shows of its progress."""

import io
import threading

import pytest
from rich.console import Console

from ssr1_rl.inference import progress
from ssr1_rl.inference.progress import WINDOW_S, StageProgress
from ssr1_rl.inference.request import Answer


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def shown(file, **options):
    return StageProgress("teacher writes chains", 100, console=Console(file=file, width=200), **options)


def answers(number, num_tokens=30, error=""):
    return [Answer(str(i), num_tokens=num_tokens, error=error) for i in range(number)]


def test_counts_rates_and_the_time_left(clock):
    bar = shown(io.StringIO(), num_done=40, clock=clock)
    assert bar.describe() == "teacher writes chains  40/100  waiting for the first answers for 0:00:00"
    clock.now += 5
    bar.add(answers(20))
    bar.add(answers(2, 0, "broken"))
    # 22 rows and 600 tokens in 5 s, 38 rows are left.
    assert bar.describe() == "teacher writes chains  62/100 (2 failed)  4.4 rows/s  120 tokens/s  left 0:00:08"


def test_a_slow_stage_counts_by_the_minute(clock):
    bar = shown(io.StringIO(), clock=clock)
    clock.now += 40
    bar.add(answers(2))
    assert "3.0 rows/min" in bar.describe()
    assert "left 0:32:40" in bar.describe()


def test_rates_are_those_of_the_last_two_minutes(clock):
    bar = shown(io.StringIO(), clock=clock)
    clock.now += 10 * WINDOW_S  # engines start
    bar.add(answers(10))
    clock.now += WINDOW_S
    bar.add(answers(24))
    assert "12.0 rows/min" in bar.describe()


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    came = threading.Event()

    class Log(io.StringIO):
        def write(self, text):
            if "waiting for the first answers" in text:
                came.set()
            return super().write(text)

    log = Log()
    with shown(log, clock=clock) as bar:
        assert came.wait(20)
        clock.now += 1
        bar.add(answers(100))
    assert (
        log.getvalue().splitlines()[-1] == "teacher writes chains  100/100  100.0 rows/s  3,000 tokens/s  left 0:00:00"
    )


def test_a_terminal_gets_a_bar():
    file = io.StringIO()
    with StageProgress("chains", 4, console=Console(file=file, width=120, force_terminal=True)) as bar:
        bar.add(answers(4))
    assert "━━━" in file.getvalue()
    assert "4/4" in file.getvalue()


def test_text_of_a_model_cannot_control_the_terminal():
    file = io.StringIO()
    shown(file).note("\x1b[2J[bold]x")
    assert file.getvalue() == "\\x1b[2J[bold]x\n"
