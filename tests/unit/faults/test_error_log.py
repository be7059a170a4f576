"""error.log has what the sentence of an error leaves out."""

import os
import stat
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError

from ssr1_rl.actors.roster import Member, Process, Roster
from ssr1_rl.errors import IN_THE_LOG, ConfigError, RunError, Unanswered
from ssr1_rl.faults.error_log import TAIL_LINES, ErrorLog, tail


class Interrupted(Exception): ...


def roster(tmp_path, role="learner rank 1", actor_id="ab12", text="Fatal Python error: Segmentation fault\n"):
    log = tmp_path / f"worker-{actor_id}.err"
    log.write_text(text)
    actors = Roster()
    actors._members[actor_id] = Member(role, Process(7, "10.0.0.1", "node5", (str(log),)))
    return actors


def log_of(tmp_path, actors=None, place="3 of 9 steps done, update"):
    return ErrorLog(tmp_path, actors or Roster(), lambda: place, lambda: "the same command resumes from step 2")


def fail(log, error):
    with pytest.raises(type(error)), log.keeps(Interrupted):
        raise error
    return (log.path).read_text() if log.path.exists() else ""


def in_an_actor(error, actor_id="ab12"):
    remote = f"ray::LearnerRank.update() (pid=7, ip=10.0.0.1, actor_id={actor_id})\n  File learner.py, line 5, in step"
    return RayTaskError("update", remote, error, pid=7, ip="10.0.0.1").as_instanceof_cause()


def test_an_actor_s_error_has_step_actor_node_both_tracebacks_and_the_end_of_its_log(tmp_path):
    text = fail(log_of(tmp_path, roster(tmp_path)), in_an_actor(RuntimeError("CUDA error")))
    for part in (
        "3 of 9 steps done, update",
        "actor: learner rank 1 (pid 7 on node 10.0.0.1), node id node5",
        "Traceback (most recent call last)",  # the controller's
        "test_error_log.py",
        "File learner.py, line 5, in step",  # the actor's
        "Fatal Python error: Segmentation fault",
    ):
        assert part in text, part
    assert text.startswith("==== 20")


def test_a_death_has_ray_s_page_and_its_messages(tmp_path):
    actors = roster(tmp_path)
    log = log_of(tmp_path, actors)
    log.ray_says("A worker died or was killed. Worker PID: 7")
    page = RayActorError("ab12", "The actor died unexpectedly before finishing this task.")
    error = actors.lost(page, "learner rank 1", "updating")
    error.__cause__ = page
    text = fail(log, error)
    assert "The actor died unexpectedly before finishing this task." in text
    assert "Worker PID: 7" in text
    assert "Segmentation fault" in text


def test_an_actor_that_did_not_answer_is_looked_up_by_its_role(tmp_path):
    error = Unanswered("weight sync: took longer")
    error.silent = ("learner rank 1",)
    assert "Segmentation fault" in fail(log_of(tmp_path, roster(tmp_path)), error)


def test_a_lost_node_or_log_does_not_lose_the_rest(tmp_path):
    actors = roster(tmp_path)
    Path(tmp_path / "worker-ab12.err").unlink()
    text = fail(log_of(tmp_path, actors), in_an_actor(KeyError("x")))
    assert "it cannot be read: FileNotFoundError" in text
    assert "line 5, in step" in text


def test_an_actor_that_never_started_has_no_log(tmp_path):
    actors = Roster()
    actors._members["ab12"] = Member("rollout worker 0")
    assert "no log of rollout worker 0: it had not started" in fail(log_of(tmp_path, actors), in_an_actor(KeyError()))


def test_an_error_of_the_controller_says_so(tmp_path):
    assert "actor: none, it was raised in the controller" in fail(log_of(tmp_path), KeyError("x"))


def test_it_is_written_once_and_every_error_is_added(tmp_path):
    log, error = log_of(tmp_path), RunError("first")
    with pytest.raises(RunError), log.keeps(), log.keeps():
        raise error
    fail(log_of(tmp_path), RunError("of a later start"))
    assert log.path.read_text().count("====") == 2
    assert error.__notes__ == ["the same command resumes from step 2", f"{IN_THE_LOG}{log.path}"]


def test_what_the_user_has_to_change_first_is_not_told_to_resume(tmp_path):
    error = ConfigError("grpo.group_size must be at least 2")
    fail(log_of(tmp_path), error)
    assert error.__notes__ == [f"{IN_THE_LOG}{tmp_path}/error.log"]


def test_a_stopped_run_has_no_error(tmp_path):
    assert fail(log_of(tmp_path), Interrupted()) == ""


def test_the_place_is_where_the_error_was_and_not_the_end_of_the_actors(tmp_path):
    places = ["5 of 9 steps done, weight sync", "5 of 9 steps done, ending the actors"]
    log = ErrorLog(tmp_path, Roster(), lambda: places.pop(0), lambda: "")
    with pytest.raises(RunError), log.keeps(), log.remembers_the_place():
        raise RunError("x")
    assert "weight sync" in log.path.read_text()


def test_only_its_owner_reads_it(tmp_path):
    old = os.umask(0)
    try:
        fail(log_of(tmp_path), RunError("x"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "error.log").stat().st_mode) == 0o600


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    (tmp_path / "error.log").mkdir()
    error = RunError("the disk is full")
    fail_with = log_of(tmp_path)
    with pytest.raises(RunError, match="the disk is full"), fail_with.keeps():
        raise error
    assert any("could not be written" in note for note in error.__notes__)


def test_text_that_is_no_unicode_is_written_too(tmp_path):
    assert "\\udc80" in fail(log_of(tmp_path), RunError("a\udc80b"))


def test_the_tail_of_a_long_or_binary_log_is_short(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % i for i in range(100_000)))
    lines = tail(str(path)).splitlines()
    assert len(lines) == TAIL_LINES
    assert lines[-1] == "line 99999"
    path.write_bytes(b"")
    assert tail(str(path)) == ""


def test_advice_that_cannot_be_given_does_not_hide_the_error(tmp_path):
    def out_of_reach():
        raise OSError("Stale file handle")

    log = ErrorLog(tmp_path, Roster(), lambda: "update", out_of_reach)
    text = fail(log, RunError("engine 1 died"))
    assert "error: RunError: engine 1 died" in text
    assert "could not be found out: Stale file handle" in text
