"""The code around the loop: signals, what a failed start leaves alone, and the figures of a whole run."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from ssr1_rl import cli, run
from ssr1_rl.actors.roster import Roster
from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.data.splits import Split, Splits
from ssr1_rl.errors import Interrupted
from ssr1_rl.faults import signals
from ssr1_rl.faults.error_log import ErrorLog
from ssr1_rl.faults.signals import TimeIsUp
from ssr1_rl.faults.stop import StopRequest
from ssr1_rl.files import SetAside
from ssr1_rl.run import summarise
from ssr1_rl.store.folder import write_config
from ssr1_rl.store.resume import find_resume
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.types import Question

SPLITS = Splits(Split("data.train", DatasetConfig(), [Question("1", "?", "yes")], []), {})


@pytest.fixture
def config(tmp_path):
    config = Config(run=RunConfig(name="x", dir=str(tmp_path / "run"), device="cpu"))
    config.model.path, config.data.train.path = "m", "q.json"
    (tmp_path / "run").mkdir()
    return config


async def test_a_start_that_fails_leaves_the_settings_of_the_last_one(config, monkeypatch):
    write_config(config, SetAside(Path(config.run.dir), 0))
    before = {p: p.read_bytes() for p in Path(config.run.dir).rglob("*") if p.is_file()}

    @contextlib.asynccontextmanager
    async def no_system(*_):
        raise RuntimeError("no such model")
        yield

    monkeypatch.setattr(run, "running_system", no_system)
    config.model.path = "another"
    no_errors = ErrorLog(Path(config.run.dir), Roster(), str, str)
    with pytest.raises(RuntimeError, match="no such model"):
        await run._run(config, SPLITS, find_resume(config.run), StopRequest(), Progress(1), Waits(), no_errors)
    assert {p: p.read_bytes() for p in Path(config.run.dir).rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("lines", "told"), [(None, False), ("", False), ('{"step": 0}\n{"step": 400}\n', True), ("?\n{}\n", False)]
)
def test_metrics_without_a_checkpoint_are_named_at_the_start(config, capsys, lines, told):
    if lines is not None:
        Path(config.run.dir, "metrics.jsonl").write_text(lines)
    assert run._find_resume(config, SPLITS, Progress(1)).checkpoint is None
    assert ("metrics.jsonl holds step 400, but" in capsys.readouterr().out) == told


@pytest.mark.parametrize(("kept_step", "continues"), [(-1, False), (0, True), (5, True)])
async def test_trackers_continue_their_runs_only_if_the_folder_s_metrics_belong_to_this_run(
    config, monkeypatch, kept_step, continues
):
    """A checkpoint of another run that `run.resume` names leads to none of the folder's metrics."""
    given = []

    def tracking(config, continues, *_):
        given.append(continues)
        raise RuntimeError("no tracker")

    monkeypatch.setattr(run, "tracking", tracking)
    resume = SimpleNamespace(checkpoint=object(), kept_step=lambda run_dir: kept_step)
    no_errors = ErrorLog(Path(config.run.dir), Roster(), str, str)
    with pytest.raises(RuntimeError, match="no tracker"):
        await run._run(config, SPLITS, resume, StopRequest(), Progress(1), Waits(), no_errors)
    assert given == [continues]


class Loop:
    """A run whose loop takes `steps` turns of the event loop to finish its step after a stop was asked for."""

    def __init__(self, heeded, number=signal.SIGTERM):
        self.stop, self.heeded, self.number, self.finished = StopRequest(), heeded, number, False

    async def __call__(self):
        self.stop.heeded = self.heeded
        os.kill(os.getpid(), self.number)
        while not self.stop.by_signal:
            await asyncio.sleep(0)
        self.finished = True
        return {}


async def test_the_first_signal_lets_the_loop_finish_and_says_so(capsys):
    loop = Loop(heeded=True)
    assert await signals.until_signal(loop(), loop.stop, Progress(1).note) == {}
    assert loop.finished
    out = capsys.readouterr().out
    assert "SIGTERM: finishing this step, saving it, then stopping. A second signal stops at once" in out


async def test_ctrl_c_during_the_start_stops_at_once():
    loop = Loop(heeded=False, number=signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await signals.until_signal(loop(), loop.stop, Progress(1).note)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_after_the_loop_lets_the_run_end_and_promises_no_step(number, capsys):
    loop = Loop(heeded=False, number=number)
    loop.stop.is_over = True
    assert await signals.until_signal(loop(), loop.stop, Progress(1).note) == {}
    assert loop.finished
    out = capsys.readouterr().out
    assert "the run is ending" in out
    assert "step" not in out


async def test_sigterm_during_the_start_lets_the_run_make_a_step(capsys):
    loop = Loop(heeded=False)
    assert await signals.until_signal(loop(), loop.stop, Progress(1).note) == {}
    assert loop.finished
    assert "SIGTERM: starting, making one step, saving it, then stopping" in capsys.readouterr().out


def test_sigterm_before_the_loop_asks_and_a_second_one_interrupts():
    stop, before = StopRequest(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), signals.sigterm_asks(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.by_signal
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_stops_at_once(number):
    stop = StopRequest()

    async def long_step():
        stop.heeded = True
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.by_signal:
            await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
        return {}

    with pytest.raises(asyncio.CancelledError):
        await signals.until_signal(long_step(), stop, Progress(1).note)


def test_what_stopped_the_run_is_told_with_its_exit_code(config):
    stop = StopRequest()
    stop.ask()
    told = signals.stopped(config.run, 7, stop)
    assert type(told) is Interrupted
    assert told.exit_code == 130
    assert "stopped by a signal; step 7 is saved in" in str(told)
    config.run.max_time_s = 3600
    told = signals.stopped(config.run, 7, StopRequest())
    assert isinstance(told, TimeIsUp)
    assert told.exit_code == 75
    assert "run.max_time_s=3600 is over; step 7 is saved" in str(told)


@pytest.mark.parametrize(("error", "code"), [(Interrupted("stopped"), 130), (TimeIsUp("time"), 75)])
def test_the_command_exits_with_the_code_of_what_stopped_it(monkeypatch, error, code):
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code


STEP = ("samples_per_s", "rollout/tokens_per_s", "learner/tokens_per_s", "train/logprob_abs_diff_mean")
STEP += ("train/logprob_abs_diff_max", "time/step_s", "time/rollout_wait_s", "time/update_s", "time/sync_s")


def write_rows(folder, *rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"time_s": 0.0, **row}) + "\n" for row in rows))


def step(number):
    return {"step": number, **dict.fromkeys(STEP, 1.0)}


def scored(number, score, split="test", **more):
    return {"step": number, f"validation/{split}/score": score, **more}


def test_before_is_step_0_and_after_is_the_last_step(tmp_path):
    accuracy = {"validation/test/accuracy": 1.0}
    write_rows(
        tmp_path, scored(0, 0.2, **accuracy), step(1), scored(1, 0.4, **accuracy), step(2), scored(2, 0.6, **accuracy)
    )
    summary = summarise(tmp_path, ["test"], 1.0)
    assert (summary["accuracy_before_grpo"], summary["accuracy_after_grpo"]) == (0.2, 0.6)
    assert (summary["accuracy_before_grpo_test"], summary["accuracy_after_grpo_test"]) == (0.2, 0.6)


def test_without_a_validation_at_step_0_there_is_no_before(tmp_path):
    write_rows(tmp_path, step(1), scored(1, 0.4, **{"validation/test/accuracy": 0.4}), step(2))
    summary = summarise(tmp_path, ["test"], 1.0)
    assert not [name for name in summary if "grpo" in name], "step 1 is neither before nor after"


def test_without_an_accuracy_reward_the_score_is_called_reward(tmp_path):
    write_rows(tmp_path, scored(0, 0.2), scored(0, 7.0, "other"), step(1), scored(1, 0.4), scored(1, 8.0, "other"))
    summary = summarise(tmp_path, ["test", "other"], 1.0)
    assert {name: value for name, value in summary.items() if "grpo" in name} == {
        "reward_before_grpo_test": 0.2,
        "reward_after_grpo_test": 0.4,
        "reward_before_grpo_other": 7.0,
        "reward_after_grpo_other": 8.0,
        "reward_before_grpo": 0.2,
        "reward_after_grpo": 0.4,
    }


def test_a_run_without_steps_has_no_after(tmp_path):
    write_rows(tmp_path, scored(0, 0.2))
    assert "reward_after_grpo" not in summarise(tmp_path, ["test"], 1.0)
