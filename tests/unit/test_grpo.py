"""The loop's promises about a user's work, with doubles of engines, rewards and learners."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from ssr1_rl.actors.roster import ActorLost
from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.errors import Unanswered
from ssr1_rl.evaluation.validation import TooManyUnscored
from ssr1_rl.faults.budget import RewardFailure
from ssr1_rl.faults.stop import StopRequest
from ssr1_rl.grpo import Grpo
from ssr1_rl.rollout.feed import GroupFeed
from ssr1_rl.store.checkpoints import list_checkpoints
from ssr1_rl.store.resume import find_resume
from ssr1_rl.telemetry.metrics import read_metrics
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.types import VALIDATION
from tests.unit.rollout.test_feed import World, questions

UPDATE = ("loss", "grad_norm", "kl_to_rollout", "comparable_tokens", "row_tokens", "computed_tokens", "trained_tokens")


class Learners:
    """Learners whose weights are the number of their updates."""

    num_ranks = 1

    def __init__(self):
        self.version, self.on_update, self.on_load = 0, lambda: None, lambda: None

    async def update(self, batch, kl_coefficient):
        self.version += 1
        self.on_update()
        return dict.fromkeys(UPDATE, 0.0) | {"update_s": 1.0}

    async def logprobs(self, groups):
        return [group.rollout_logprobs for group in groups]

    async def reference_kl(self, groups):
        return [tuple(tuple(0.0 for _ in tokens) for tokens in group.responses) for group in groups]

    async def save(self, folder):
        (folder / "weights").write_text(str(self.version))

    async def load(self, folder):
        self.on_load()
        self.version = int((folder / "weights").read_text())
        return self.version


class System(World):
    """The whole system; validation questions that are in `failing` have no score."""

    num_workers = 1
    weights: ClassVar = {"accuracy": 1.0}

    def __init__(self, **world):
        super().__init__(**world)
        self.pool = self.rewards = self
        self.learners, self.validated, self.on_validation = Learners(), [], lambda: None
        self.on_generation = lambda: None
        self.lost, self.waits, self.log = asyncio.Event(), Waits(), []

    async def engine_lost(self):
        await self.lost.wait()
        raise ActorLost("rollout worker 1 died")

    def shutdown(self):
        self.log.append("rewards")

    def busy_s(self):
        return [0.0]

    async def sync_weights(self, version, audit):
        self.version = version

    async def generate(self, group_id, prepared, sampling, worker=None):
        if group_id.epoch == VALIDATION:
            self.validated.append(self.version)
            self.on_validation()
            await asyncio.sleep(0)
        self.on_generation()
        return await super().generate(group_id, prepared, sampling)


@pytest.fixture
def config(tmp_path):
    config = Config(run=RunConfig(name="x", dir=str(tmp_path / "run"), device="cpu"))
    config.grpo.questions_per_step, config.grpo.num_steps, config.grpo.validate_every = 2, 6, 2
    config.grpo.group_size = 2
    config.checkpoint.every, config.checkpoint.keep_last = 2, 9
    config.telemetry.tensorboard = False
    return config


@pytest.fixture
def life(config, monkeypatch):
    """One process's life: from the start to the end of the loop."""

    async def live(system=None, stop=None):
        system = system or System()
        monkeypatch.setattr("ssr1_rl.grpo.PromptBuilder", lambda *_: None)
        monkeypatch.setattr("ssr1_rl.grpo.Preparer", lambda *_: system)
        splits = {"test": questions(3)}
        progress = Progress(config.grpo.num_steps)
        resume = find_resume(config.run)
        grpo = Grpo(
            config, system, questions(40), splits, progress, resume, stop or StopRequest(), on_progress=lambda: None
        )
        try:
            await grpo.start()
            return await grpo.run()
        finally:
            grpo.close()

    return live


def checkpoints(config):
    return {c.step: c.score for c in list_checkpoints(Path(config.run.dir))}


def rows_of(config, name):
    return [row["step"] for row in read_metrics(Path(config.run.dir)) if name in row]


def trained_questions(config):
    import pyarrow.parquet as pq

    files = sorted(Path(config.run.dir, "samples").glob("*.parquet"))
    return [row["question_id"] for f in files for row in pq.ParquetFile(f).read().to_pylist()[::2]]


async def test_a_run_saves_validates_and_finishes(config, life):
    assert await life()
    assert checkpoints(config) == {2: 1.0, 4: 1.0, 6: 1.0}
    assert rows_of(config, "validation/test/score") == [0, 2, 4, 6]
    assert len(set(trained_questions(config))) == 12


async def test_a_validation_that_fails_loses_no_step_and_is_made_again(config, life):
    system = System()
    system.learners.on_update = lambda: system.failing.update("012" if system.learners.version == 2 else ())
    with pytest.raises(TooManyUnscored):
        await life(system)
    assert checkpoints(config) == {2: None}, "saved before it was validated"
    assert await life()
    assert checkpoints(config)[2] == 1.0
    assert rows_of(config, "validation/test/score") == [0, 2, 4, 6]
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("where", ["a validation", "rewards", "an engine"])
async def test_the_newest_step_is_saved_before_an_error_ends_the_run(config, life, where):
    config.checkpoint.every, config.grpo.max_failed_share = 100, 0.0
    system = System()

    def fail():
        if system.learners.version == 2:
            if where == "an engine":
                system.on_generation = died
            else:
                config.grpo.validate_every = 2 if where == "a validation" else 0
                system.failing.update(map(str, range(40)))

    def died():
        raise ConnectionError("worker died")

    config.grpo.validate_every = 0
    system.learners.on_update = fail
    with pytest.raises({"a validation": TooManyUnscored, "rewards": RewardFailure}.get(where, ConnectionError)):
        await life(system)
    assert checkpoints(config) == {2: None}
    assert await life()
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]
    assert len(trained_questions(config)) == len(set(trained_questions(config))) == 12


async def test_a_save_that_fails_too_does_not_hide_the_first_error(config, life, capsys):
    config.checkpoint.every, config.grpo.max_failed_share, config.grpo.validate_every = 100, 0.0, 0
    system = System()

    async def full(folder):
        raise OSError("disk full")

    system.learners.save = full
    system.learners.on_update = lambda: system.failing.update(map(str, range(40)))
    with pytest.raises(RewardFailure, match="it raised"):
        await life(system)
    assert "step 1 could not be saved before the run ends: disk full" in capsys.readouterr().out


async def test_one_unscored_question_is_reported(config, life):
    system = System()
    system.failing = {"1"}
    await life(system)
    row = next(row for row in read_metrics(Path(config.run.dir)) if "validation/test/score" in row)
    assert (row["validation/test/num_questions"], row["validation/test/num_failed"]) == (2, 1)


async def test_a_signal_in_a_step_lets_it_finish_and_saves_it(config, life):
    stop, system = StopRequest(), System()
    system.learners.on_update = lambda: stop.ask() if system.learners.version == 3 else None
    assert not await life(system, stop)
    assert checkpoints(config) == {2: 1.0, 3: None}
    assert await life()
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]
    assert not Path(config.run.dir, "set_aside").exists()
    assert len(set(trained_questions(config))) == 12, "no question twice"


@pytest.mark.parametrize("every", [2, 100])
async def test_a_signal_in_a_validation_ends_it_and_the_step_is_saved(config, life, every):
    config.checkpoint.every = every
    stop, system = StopRequest(), System()
    system.on_validation = lambda: stop.ask() if system.version == 4 else None
    assert not await life(system, stop)
    assert checkpoints(config)[4] is None
    again = System()
    assert await life(again)
    assert checkpoints(config)[4] == 1.0, "validated by the next process"
    assert rows_of(config, "validation/test/score") == [0, 2, 4, 6]


async def test_a_validation_longer_than_the_time_slice_does_not_stop_the_run_for_ever(config, life):
    config.grpo.validate_first = False
    for _ in range(5):
        stop, system = StopRequest(), System()
        system.on_validation = stop.ask
        if await life(system, stop):
            break
    assert max(checkpoints(config)) == 6, "each unfinished validation is tried once more, then the run goes on"


async def test_a_signal_in_the_first_validation_ends_it_and_one_step_is_made(config, life):
    stop, system = StopRequest(), System()
    system.on_validation = stop.ask
    assert not await life(system, stop)
    assert system.learners.version == 1
    assert checkpoints(config) == {1: None}
    assert rows_of(config, "validation/test/score") == []


@pytest.mark.parametrize("staleness", [0, 1])
async def test_one_step_per_process_reaches_the_last_step(config, life, staleness):
    """The deadline passes before the first step, as with a slow start, and yet each process does one."""
    config.checkpoint.every, config.grpo.max_staleness = 100, staleness
    config.grpo.validate_first = False
    lives = 0
    while not await life(stop=StopRequest(1.0, clock=iter(range(0, 10**6, 10)).__next__)):
        lives += 1
        assert lives < 10
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]
    assert len(trained_questions(config)) == len(set(trained_questions(config))) == 12
    assert checkpoints(config)[6] == 1.0, "the last step is validated"


@pytest.mark.parametrize("validate_every", [0, 1])
@pytest.mark.parametrize("asked_at", range(9))
async def test_a_stop_is_saved_at_whatever_look_it_is_seen_first(config, life, asked_at, validate_every):
    """The time is over at any of the moments at which the loop looks, between two of them too."""
    config.checkpoint.every, config.grpo.validate_every, config.checkpoint.keep_best = 100, validate_every, False
    stop = StopRequest(1.0, clock=iter([0.0] * (1 + asked_at) + [9.0] * 99).__next__)
    if not await life(stop=stop):
        assert list(checkpoints(config)) == rows_of(config, "time/step_s")[-1:]
    assert (stop.heeded, stop.is_over) == (False, True)


async def test_seconds_since_the_last_checkpoint_save_too(config, life, monkeypatch):
    config.checkpoint.every, config.checkpoint.every_s, config.grpo.validate_every = 100, 25.0, 0
    now = [0.0]
    system = System()
    system.learners.on_update = lambda: now.__setitem__(0, now[0] + 10)
    monkeypatch.setattr("ssr1_rl.store.keeper.time.monotonic", lambda: now[0])
    assert await life(system)
    assert list(checkpoints(config)) == [3, 6]


async def test_a_resume_that_fails_changes_nothing(config, life):
    config.checkpoint.keep_last = 9
    await life()
    first = str(Path(config.run.dir) / "checkpoints" / "step_000002")
    before = {p: p.read_bytes() for p in Path(config.run.dir).rglob("*") if p.is_file()}
    config.run.resume, config.grpo.num_steps = first, 8
    system = System()

    def out_of_memory():
        raise RuntimeError("out of memory")

    system.learners.on_load = out_of_memory
    with pytest.raises(RuntimeError, match="out of memory"):
        await life(system)
    assert {p: p.read_bytes() for p in Path(config.run.dir).rglob("*") if p.is_file()} == before


async def test_a_named_resume_sets_the_rest_aside_and_then_continues(config, life):
    await life()
    run = Path(config.run.dir)
    before = {p.name: p.read_bytes() for p in (run / "samples").iterdir()}
    config.run.resume = str(run / "checkpoints" / "step_000002")
    system = System()
    system.learners.on_update = lambda: (_ for _ in ()).throw(RuntimeError("killed")) if system.version == 4 else None
    with pytest.raises(RuntimeError, match="killed"):
        await life(system)
    (aside,) = (run / "set_aside").iterdir()
    assert [c.step for c in list_checkpoints(aside)] == [4, 6]
    assert {p.name: p.read_bytes() for p in (aside / "samples").iterdir()} == {
        name: content for name, content in before.items() if name > "step_000002.parquet"
    }
    assert [json.loads(line)["step"] for line in (aside / "metrics.jsonl").read_text().splitlines()] == [
        *(3, 4, 4, 5, 6, 6)
    ]
    assert await life(), "the same command continues"
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]
    assert rows_of(config, "validation/test/score") == [0, 2, 4, 6]
    assert len(list((run / "set_aside").iterdir())) == 1, "the second start resumed the newest and left nothing behind"


async def test_another_run_s_settings_and_figures_go_where_its_checkpoints_go(config, life, tmp_path):
    run, names = Path(config.run.dir), ("config.yaml", "summary.json", "trackers.json")
    await life()
    for name in names:
        (run / name).write_text("of the first run")
    assert await life(), "a resume"
    assert all((run / name).exists() for name in names)
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "step_000006")
    config.run.resume = str(tmp_path / "elsewhere" / "step_000004")
    (tmp_path / "elsewhere" / "step_000002").rename(tmp_path / "step_000002")
    await life()
    (aside,) = (run / "set_aside").iterdir()
    assert {name: (aside / name).read_text() for name in names} == dict.fromkeys(names, "of the first run")
    assert not any((run / name).exists() for name in names)


async def test_the_settings_of_a_start_that_was_killed_before_its_first_row_stay(config, life):
    run = Path(config.run.dir)
    run.mkdir()
    (run / "config.yaml").write_text("mine")
    await life()
    assert (run / "config.yaml").read_text() == "mine", "no run is there to set aside"


async def test_counters_go_on_after_a_resume(config, life):
    def faulty():
        return System(failing={"5", "20"}, unusable={str(number) for number in (3, 8)})

    config.data.max_skipped_share = config.grpo.max_failed_share = 1.0
    config.grpo.validate_every, config.grpo.validate_first = 0, False
    lives = 0
    while not await life(faulty(), StopRequest(1.0, clock=iter(range(0, 10**6, 10)).__next__)):
        lives += 1
        assert lives < 10
    in_lives = read_metrics(Path(config.run.dir))[-1]
    config.run.dir += "_at_once"
    await life(faulty())
    at_once = read_metrics(Path(config.run.dir))[-1]
    for name in ("reward/failed_groups", "data/skipped_questions"):
        assert in_lives[name] == at_once[name]
    listed = [Path(folder, "skipped.jsonl") for folder in (config.run.dir, config.run.dir.removesuffix("_at_once"))]
    assert len({path.read_text() if path.exists() else "" for path in listed}) == 1


async def test_an_engine_that_dies_during_an_update_is_told_at_once(life, capsys):
    system = System()

    async def update(batch, kl_coefficient):
        system.lost.set()
        while "finishing the update" not in capsys.readouterr().out:
            await asyncio.sleep(0)
        raise ConnectionError("learner rank 0 died")

    system.learners.update = update
    with pytest.raises(ActorLost, match="rollout worker 1 died") as raised:
        await asyncio.wait_for(life(system), 5)
    assert isinstance(raised.value.__cause__, ConnectionError), "the learners' own error ends an update that hangs"


async def test_an_engine_that_dies_during_a_validation_ends_it_and_the_step_is_saved(config, life):
    system = System()
    config.checkpoint.every, config.grpo.validate_first = 100, False

    async def generate(group_id, prepared, sampling, worker=None):
        if group_id.epoch == VALIDATION:
            system.lost.set()
            await asyncio.Event().wait()
        return await System.generate(system, group_id, prepared, sampling)

    system.generate = generate
    with pytest.raises(ActorLost):
        await asyncio.wait_for(life(system), 20)
    assert list(checkpoints(config)) == [2]


async def test_a_checkpoint_is_finished_before_an_engine_s_death_is_told(config, life):
    system = System()

    async def save(folder):
        system.lost.set()
        for _ in range(5):
            await asyncio.sleep(0)
        (folder / "weights").write_text("2")

    system.learners.save = save
    with pytest.raises(ActorLost):
        await asyncio.wait_for(life(system), 5)
    assert list(checkpoints(config)) == [2]


def dies_in_step_3(system, where):
    """An engine dies in this part of step 3."""
    learners, sync = system.learners, system.sync_weights

    async def lost(*_, **__):
        system.lost.set()
        await asyncio.Event().wait()

    async def update(batch, kl_coefficient):
        if learners.version == 2:
            system.lost.set()
            for _ in range(9):
                await asyncio.sleep(0)
        return await Learners.update(learners, batch, kl_coefficient)

    async def broken(version, audit):
        assert not system.lost.is_set(), "a broadcast to a dead engine never ends"
        if version == 3:
            raise ActorLost("rollout worker 1 died")
        await sync(version, audit)

    system.sync_weights = broken
    if where == "the update":
        learners.update = update
    elif where in ("the probe", "the reference"):
        name = "logprobs" if where == "the probe" else "reference_kl"
        method = getattr(learners, name)
        setattr(learners, name, lambda groups: (method if learners.version < 2 else lost)(groups))


@pytest.mark.parametrize(("where", "saved"), [("the probe", 2), ("the reference", 2), ("the update", 3), ("a sync", 3)])
async def test_whatever_an_engine_s_death_ends_the_learners_newest_step_is_saved(config, life, where, saved):
    config.checkpoint.every = 100
    config.grpo.validate_every, config.grpo.max_staleness = 0, int(where == "the probe")
    if where == "the reference":
        config.grpo.kl_coefficient, config.grpo.kl_placement = 0.1, "reward"
    system = System()
    dies_in_step_3(system, where)
    with pytest.raises(ActorLost, match="rollout worker 1 died"):
        await asyncio.wait_for(life(system), 5)
    (checkpoint,) = list_checkpoints(Path(config.run.dir))
    assert checkpoint.step == saved == int((checkpoint.learner / "weights").read_text())
    assert rows_of(config, "time/sync_s") == list(range(1, saved + 1))
    assert await life()
    assert rows_of(config, "time/sync_s") == [1, 2, 3, 4, 5, 6]
    assert len(trained_questions(config)) == len(set(trained_questions(config))) == 12
    assert not Path(config.run.dir, "set_aside").exists()


async def test_an_update_that_fails_its_check_is_not_saved_after_an_engine_s_death(config, life, capsys):
    config.checkpoint.every, config.grpo.validate_every = 100, 0
    system = System()

    async def update(batch, kl_coefficient):
        metrics = await Learners.update(system.learners, batch, kl_coefficient)
        if system.learners.version == 3:
            system.lost.set()
            for _ in range(9):
                await asyncio.sleep(0)
            metrics["loss"] = float("nan")
        return metrics

    system.learners.update = update
    with pytest.raises(ActorLost):
        await asyncio.wait_for(life(system), 5)
    assert checkpoints(config) == {}


async def test_a_learner_that_does_not_answer_is_not_asked_to_save(config, life):
    config.checkpoint.every, config.grpo.validate_every = 100, 0
    system, saves = System(), []

    async def sync(version, audit):
        if version == 3:
            error = Unanswered("weight sync took too long")
            error.silent = ("rollout worker 1", "learner rank 0")
            raise error

    async def save(folder):
        saves.append(folder)

    system.sync_weights, system.learners.save = sync, save
    with pytest.raises(Unanswered):
        await life(system)
    assert saves == []


async def test_a_learner_that_is_stuck_in_a_broken_sync_ends_the_save_at_its_limit(config, life, capsys):
    config.checkpoint.every, config.grpo.validate_every, config.rollout.sync_timeout_s = 100, 0, 0.01
    system = System()
    dies_in_step_3(system, "a sync")

    async def stuck(folder):
        await asyncio.Event().wait()

    system.learners.save = stuck
    with pytest.raises(ActorLost):
        await asyncio.wait_for(life(system), 5)
    assert "step 3 could not be saved before the run ends: not within 0.01 s" in capsys.readouterr().out


async def test_reward_actors_are_closed_before_the_groups_that_they_score_are_cancelled(life, monkeypatch):
    """Otherwise each would be killed and replaced, just before the end."""
    system, close = System(), GroupFeed.close
    monkeypatch.setattr(GroupFeed, "close", lambda feed: (system.log.append("feed"), close(feed)))
    await life(system)
    assert system.log == ["rewards", "feed"]


@pytest.mark.parametrize("every", [2, 1000])
async def test_a_stop_that_is_asked_for_before_the_loop_still_makes_a_step_and_the_last_validation(config, life, every):
    config.checkpoint.every, config.grpo.validate_every = 1000, every
    ended = []
    while not ended or not ended[-1]:
        stop = StopRequest()
        stop.ask()
        ended.append(await life(System(), stop))
        assert len(ended) < 9
    assert rows_of(config, "time/step_s") == [1, 2, 3, 4, 5, 6]
    assert rows_of(config, "validation/test/score")[-1] == 6
