"""What a terminal and a log show."""

import asyncio
import io
import re
import threading

import pytest
from rich.console import Console

from ssr1_rl.telemetry.progress import Progress, summary_table

METRICS = {
    "train/loss": 0.1,
    "reward/mean": 0.81,
    "reward/accuracy": 0.77,
    "rollout/tokens_per_s": 5120.4,
    "learner/tokens_per_s": 9000.0,
    "time/step_s": 1.93,
}
HOSTILE = "[red]boo[/nope] :smile: \x1b[31m\x9b2J\x07"


def terminal(**options):
    return Console(file=io.StringIO(), force_terminal=True, width=100, _environ={}, **options)


def shown(console):
    """What was written, without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def picture(progress):
    """The current content of the live area."""
    console = Console(file=io.StringIO(), width=100, _environ={})
    console.print(progress._render())
    return console.file.getvalue()


def test_a_log_gets_one_line_per_step_and_per_phase_outside_the_steps(capsys):
    with Progress(80) as progress:
        for done in range(3):
            progress.phase(f"starting engines {done}/2")
        for step in (1, 2):
            for phase in ("rollouts", "update", "weight sync"):
                progress.phase(phase)
            progress.step(step, METRICS if step == 1 else {"reward/mean": float("nan")})
            assert capsys.readouterr().out.splitlines()[-1].startswith(f"step {step}/80  ")  # flushed at once
        progress.phase("checkpoint")
        progress.phase("rollouts")
        progress.phase("checkpoint")
        progress.validation("test", "accuracy", 0.7712, 1400, 1400)
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint",
        "checkpoint",
        "validation test  accuracy 0.771 over 1,400 questions  step 2",
    ]


def test_log_lines_are_exact_and_never_folded(capsys):
    with Progress(80) as progress:
        progress.phase("starting engines 0/2")
        progress.phase("starting engines 1/2")
        progress.step(12, METRICS)
        progress.note("x" * 500)
    assert capsys.readouterr().out.splitlines() == [
        "starting engines 0/2",
        "step 12/80  reward 0.81  accuracy 0.77  rollout 5,120 tokens/s  learner 9,000 tokens/s  1.9 s",
        "x" * 500,
    ]


@pytest.mark.parametrize("make", [terminal, lambda: Console(file=io.StringIO(), width=100)])
def test_hostile_text_is_shown_and_does_nothing(make):
    console = make()

    async def run():
        with Progress(2, console=console) as progress:
            progress.describe_waiting = lambda: [HOSTILE]
            progress.note(HOSTILE)
            progress.phase(HOSTILE)
            await asyncio.sleep(0.6)

    asyncio.run(run())
    summary_table(HOSTILE, [{HOSTILE: HOSTILE}], console)
    raw = console.file.getvalue()
    assert "[red]boo[/nope] :smile: \\x1b[31m\\x9b2J\\x07" in shown(console)
    assert not re.search(r"\x1b\[31m|\x9b|\x07", raw)


def test_a_terminal_that_cannot_show_a_letter_gets_its_number():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(2, console=Console(file=file, width=100)) as progress:
        progress.note("Käfer \ud83d")
    file.seek(0)
    assert file.read() == "K\\xe4fer \\ud83d\n"


def test_the_live_area_shows_figures_phase_and_what_is_waited_for():
    now = [0.0]
    waits = [f"rollout worker {i}: 3 groups" for i in range(9)]

    async def run():
        progress = Progress(10, console=terminal(), clock=lambda: now[0])
        with progress:
            progress.describe_waiting = lambda: waits
            progress.resume_at(4)
            assert picture(progress).startswith("step 4/10")
            assert "left -:--:--" in picture(progress)
            for step, ends_s in ((5, 100.0), (6, 110.0), (7, 120.0)):
                now[0] = ends_s
                progress.step(step, METRICS)
            progress.validation("test", "accuracy", 0.7712, 1400, 1400)
            progress.phase("validating test 3/400")
            now[0] = 125.0
            progress.phase("validating test 4/400")
            during = picture(progress)
        return during, picture(progress)

    during, after = asyncio.run(run())
    bar, figures, phase, *waiting = during.splitlines()
    assert bar.startswith("step 7/10")
    assert "elapsed 0:02:05" in bar
    assert "left 0:00:25" in bar  # 3 steps of 10 s each, 5 s of them gone
    assert figures.startswith("reward 0.81  accuracy 0.77  rollout 5,120 tokens/s")
    assert figures.rstrip().endswith("  1.9 s  test 0.771")
    assert phase.strip() == "validating test 4/400 for 0:00:05"
    assert [line.strip() for line in waiting] == [*waits[:6], "and 3 more"]
    assert "waiting" not in after
    assert len(after.splitlines()) == 2


def test_waiting_is_asked_on_the_event_loop_again_and_again():
    threads = []

    def describe_waiting():
        threads.append(threading.current_thread())
        return []

    async def run(progress):
        progress.phase("rollouts")
        await asyncio.sleep(0.7)
        progress.__exit__()
        asked = len(threads)
        await asyncio.sleep(0.4)
        assert len(threads) == asked  # not after the end

    with Progress(10, console=terminal()) as progress:
        progress.phase("connecting to Ray")  # before any loop runs
        progress.describe_waiting = describe_waiting
        asyncio.run(run(progress))
    assert len(threads) >= 2
    assert set(threads) == {threading.main_thread()}


def test_summary_table_in_a_log_is_not_cut(capsys):
    summary_table("Results", [{"split": "test-mini", "questions": 1000, "accuracy": 0.77123}, {"split": "x" * 90}])
    out = capsys.readouterr().out
    for part in ("Results", "test-mini", "1,000", "0.7712", "x" * 90):
        assert part in out
