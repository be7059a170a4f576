"""The checkpoint that a start continues from: found without changing anything, and the rest set aside afterwards."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.errors import ConfigError, UserError
from ssr1_rl.files import SetAside
from ssr1_rl.store import manifest
from ssr1_rl.store.checkpoints import CheckpointStore, list_checkpoints
from ssr1_rl.store.manifest import DamagedCheckpoint, UnreadableCheckpoint
from ssr1_rl.store.resume import check_data, check_resume, find_resume
from ssr1_rl.types import Question


@pytest.fixture
def config(tmp_path):
    config = Config(run=RunConfig(name="x", dir=str(tmp_path / "run"), device="cpu"))
    config.model.path, config.data.train.path = "m", "q.json"
    return config


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(manifest, "READ_PAUSES_S", (0.0, 0.0))


async def save(run_dir, lineage, *steps, keep_last=9, score=None):
    async def write(folder):
        (folder / "weights").write_text(f"{run_dir} {folder.parent.name} {len(lineage)}")

    store = CheckpointStore(Path(run_dir), CheckpointConfig(keep_last=keep_last), lineage)
    return [await store.save(step, {}, score, write) for step in steps]


@pytest.fixture
async def three(config):
    """Checkpoints of steps 10, 20 and 30."""
    return await save(config.run.dir, find_resume(config.run).lineage, 10, 20, 30)


def damage(checkpoint):
    (checkpoint.learner / "weights").write_text("")


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in Path(folder).rglob("*")}


def start(config):
    """What a start that succeeds does with the checkpoints; the step it is at, and where the rest is."""
    resume = find_resume(config.run)
    aside = SetAside(Path(config.run.dir), resume.step)
    resume.set_checkpoints_aside(Path(config.run.dir), aside)
    return resume, aside


def steps(run_dir):
    return [c.step for c in list_checkpoints(Path(run_dir))]


def test_a_new_run_starts_from_the_start(config):
    for how in ("auto", "never"):
        config.run.resume = how
        resume = find_resume(config.run)
        assert (resume.checkpoint, resume.step, resume.notes) == (None, 0, ())
        assert len(resume.lineage) == 1
    assert not Path(config.run.dir).exists()


def test_auto_resumes_from_the_newest_and_stays_in_its_lineage(config, three):
    resume = find_resume(config.run)
    assert (resume.checkpoint, resume.notes) == (three[2], ())
    assert resume.lineage == three[2].lineage


def test_a_link_to_a_disk_that_is_not_mounted_stops_the_start(config, three, tmp_path):
    folder = Path(config.run.dir) / "checkpoints"
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    assert find_resume(config.run).step == 30
    (tmp_path / "disk").rename(tmp_path / "not mounted")
    config.model.lora.rank = 0
    for how in ("auto", "never", str(tmp_path / "not mounted" / "step_000010")):
        config.run.resume = how
        for start_with in (find_resume, lambda run: check_resume(run, config.model.lora)):
            with pytest.raises(
                UserError, match=r"checkpoints is a link to .*/disk, which is not there; mount its disk"
            ):
                start_with(config.run)


async def test_the_newest_is_the_one_of_the_highest_number(config, three):
    await save(config.run.dir, three[0].lineage, 999_999, 1_000_000)
    assert find_resume(config.run).step == 1_000_000


async def test_strangers_in_the_folder_are_left_alone(config, three):
    folder = Path(config.run.dir) / "checkpoints"
    strangers = [
        "step_000030_good",
        "step_30",
        "step_",
        "step_000030.bak",
        "Step_000030",
        "step_٠٠٠٠٣٠",
        ".partial_mine",
    ]
    for name in strangers:
        shutil.copytree(three[2].path, folder / name)
    (folder / "step_000040").write_text("a file")
    before = everything(folder)
    resume, aside = start(config)
    assert (resume.step, aside.folder) == (30, None)
    await save(config.run.dir, resume.lineage, 50, keep_last=4)
    assert everything(folder).items() >= before.items()


def test_a_copy_under_another_steps_name_is_not_resumed_and_not_lost(config, three):
    copy = three[2].path.parent / "step_000099"
    shutil.copytree(three[2].path, copy)
    resume, aside = start(config)
    assert resume.step == 30
    assert "step_000099 holds step 30" in resume.notes[0]
    assert (aside.folder / "unreadable" / "step_000099" / "manifest.json").is_file()


def test_auto_falls_back_to_an_older_whole_one_says_so_and_keeps_the_newer(config, three):
    damage(three[2])
    before = everything(three[2].path)
    resume, aside = start(config)
    assert resume.checkpoint == three[1]
    (note,) = resume.notes
    assert "step_000030 is damaged: learner/weights" in note
    assert "trying an older one. It is kept" in note
    assert everything(aside.folder / "unreadable" / "step_000030") == before
    assert steps(config.run.dir) == [10, 20]


async def test_what_could_not_be_verified_is_never_removed(config, three):
    (three[2].learner / "weights").write_text("x" * len((three[2].learner / "weights").read_text()))
    resume, aside = start(config)
    await save(config.run.dir, resume.lineage, 30, 40, 50, keep_last=1)
    assert steps(config.run.dir) == [50]
    assert (aside.folder / "unreadable" / "step_000030" / "manifest.json").is_file()


def fail_reads(monkeypatch, times, of):
    """The first `times` reads of files below the folder `of` fail, as they do on a network file system for a moment."""
    left = [times]
    real = Path.open

    def open_or_fail(path, mode="r", *args, **kwargs):
        if left[0] and "r" in mode and str(path).startswith(str(of)):
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_or_fail)
    return left


@pytest.mark.parametrize("part", ["manifest.json", "learner"])
def test_a_read_that_fails_for_a_moment_is_tried_again(config, three, monkeypatch, part):
    left = fail_reads(monkeypatch, 2, three[2].path / part)
    assert find_resume(config.run).step == 30
    assert left == [0]


# A folder that is missing for a moment cannot be told from one that never was.
@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("", errno.ESTALE),
        ("step_000030", errno.EIO),
        ("step_000030/learner/weights", errno.ESTALE),
        ("step_000030/learner/weights", errno.ENOENT),
    ],
)
@pytest.mark.parametrize("resume", ["auto", "named"])
def test_a_look_that_fails_for_a_moment_is_tried_again(config, three, monkeypatch, code, part, resume):
    if resume == "named":
        config.run.resume = str(three[2].path)
    real, left, there = Path.stat, [2], str(three[2].path.parent / part)

    def stat_or_fail(path, **kwargs):
        if left[0] and str(path) == there:
            left[0] -= 1
            raise OSError(code, "it failed", str(path))
        return real(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat_or_fail)
    assert find_resume(config.run).step == 30
    assert left == [0]


def test_a_listing_that_stays_impossible_is_explained(config, three, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "iterdir", fails)
    with pytest.raises(UnreadableCheckpoint, match=r"checkpoints of .*run could not be listed: .*Input/output error"):
        find_resume(config.run)


def test_what_stays_unreadable_is_passed_over_and_kept(config, three, monkeypatch):
    with monkeypatch.context() as patch:
        fail_reads(patch, 10**6, three[2].path / "learner")
        resume, aside = start(config)
    assert resume.step == 20
    assert "could not be read" in resume.notes[0]
    assert (aside.folder / "unreadable" / "step_000030" / "learner" / "weights").is_file()
    config.run.resume = str(aside.folder / "unreadable" / "step_000030")
    assert find_resume(config.run).step == 30, "it can be named once it can be read again"


def test_a_named_checkpoint_that_cannot_be_read_stops_the_start(config, three, monkeypatch):
    config.run.resume = str(three[1].path)
    before = everything(config.run.dir)
    with monkeypatch.context() as patch:
        fail_reads(patch, 10**6, three[1].path)
        with pytest.raises(UnreadableCheckpoint, match="step_000020 could not be read"):
            find_resume(config.run)
    assert everything(config.run.dir) == before


def test_without_a_whole_one_the_run_stops(config, three):
    for checkpoint in three:
        damage(checkpoint)
    before = everything(config.run.dir)
    with pytest.raises(DamagedCheckpoint, match=r"none is left\. Move .*/checkpoints away to start from the beginning"):
        find_resume(config.run)
    assert everything(config.run.dir) == before


@pytest.mark.parametrize("content", ['{"step": 3', "{}", "\x00\x00", "[]", '{"step": 30, "score": null, "files": []}'])
def test_auto_falls_back_from_a_damaged_manifest(config, three, content):
    (three[2].path / "manifest.json").write_text(content)
    resume = find_resume(config.run)
    assert resume.checkpoint == three[1]
    assert len(resume.notes) == 1


def test_never_refuses_a_folder_with_checkpoints(config, three):
    config.run.resume = "never"
    with pytest.raises(ConfigError, match=r"run\.resume=never, but .* holds a run.*run\.resume=auto"):
        find_resume(config.run)


def test_a_named_checkpoint_is_taken_and_checked(config, three):
    config.run.resume = str(three[0].path)
    assert find_resume(config.run).checkpoint == three[0]
    damage(three[0])
    with pytest.raises(DamagedCheckpoint, match="step_000010 is damaged"):
        find_resume(config.run)
    config.run.resume = str(three[0].path.parent)
    with pytest.raises(DamagedCheckpoint, match="holds no checkpoint"):
        find_resume(config.run)


def test_finding_changes_nothing(config, three):
    before = everything(config.run.dir)
    for how in ("auto", str(three[0].path), str(three[1].path)):
        config.run.resume = how
        find_resume(config.run)
    assert everything(config.run.dir) == before


async def test_the_same_named_command_continues_from_the_newest_of_its_descent(config, three):
    config.run.resume = str(three[0].path)
    resume, aside = start(config)
    assert (resume.step, steps(config.run.dir)) == (10, [10])
    assert steps(aside.folder) == [20, 30], "set aside, not deleted"
    resume, second = start(config)
    assert (resume.step, second.folder) == (10, None), "killed before its first save: from the named one again"
    await save(config.run.dir, resume.lineage, 15, 18)
    resume, third = start(config)
    assert (resume.step, third.folder) == (18, None)
    (note,) = resume.notes
    assert "already holds steps that were resumed from it" in note
    assert "set another run.dir" in note
    await save(config.run.dir, resume.lineage, 25, 35, keep_last=1)
    assert not three[0].path.exists(), "pruned by keep_last"
    check_resume(config.run, config.model.lora)
    assert find_resume(config.run).step == 35, "the path is gone, its descendants are known by it"
    config.run.resume = "auto"
    assert find_resume(config.run).step == 35


async def test_a_named_checkpoint_of_another_run_seeds_a_folder_once(config, three, tmp_path):
    config.run.dir, config.run.resume = str(tmp_path / "other"), str(three[1].path)
    await save(config.run.dir, (), 5, 50)  # an old run of another descent, from before lineages were recorded
    resume, aside = start(config)
    assert (resume.checkpoint, steps(config.run.dir), steps(aside.folder)) == (three[1], [], [5, 50])
    assert resume.kept_step(tmp_path / "other") == -1
    await save(config.run.dir, resume.lineage, 25)
    assert find_resume(config.run).step == 25
    shutil.move(three[1].path, tmp_path / "moved")
    config.run.resume = str(tmp_path / "moved")
    assert find_resume(config.run).step == 25, "known by its content"
    assert steps(tmp_path / "run") == [10, 30], "the other run's folder is not touched"


async def test_a_damaged_descendant_gives_way_to_an_older_one(config, three):
    config.run.resume = str(three[0].path)
    resume, _ = start(config)
    fifteen, eighteen = await save(config.run.dir, resume.lineage, 15, 18)
    damage(eighteen)
    assert find_resume(config.run).checkpoint == fifteen


async def test_a_second_branch_does_not_keep_the_first(config, three):
    config.run.resume = str(three[1].path)
    resume, _ = start(config)
    await save(config.run.dir, resume.lineage, 25)
    config.run.resume = str(three[0].path)
    resume, aside = start(config)
    assert (resume.step, steps(config.run.dir), steps(aside.folder)) == (10, [10], [20, 25])


async def test_a_branch_that_was_set_aside_can_be_taken_up_again(config, three):
    run = Path(config.run.dir)
    config.run.resume = str(three[0].path)
    resume, first = start(config)
    assert resume.kept_step(run) == 10
    await save(run, resume.lineage, 15, 18)
    config.run.resume = str(first.folder / "checkpoints" / "step_000030")
    resume, second = start(config)
    assert (resume.step, steps(run), steps(second.folder)) == (30, [10], [15, 18])
    assert resume.kept_step(run) == 10, "rows and samples after it are the other branch's"
    await save(run, resume.lineage, 40)
    assert find_resume(config.run).step == 40


async def test_a_copy_elsewhere_continues_the_same_run(config, three, tmp_path):
    shutil.copytree(three[1].path, tmp_path / "backup")
    config.run.resume = str(tmp_path / "backup")
    resume, aside = start(config)
    assert (resume.step, steps(config.run.dir), steps(aside.folder)) == (20, [10, 20], [30])
    assert resume.kept_step(Path(config.run.dir)) == 20


async def test_set_aside_checkpoints_go_when_the_run_is_past_them(config, three, tmp_path):
    config.run.resume = str(three[0].path)
    resume, aside = start(config)
    await save(config.run.dir, resume.lineage, 20, keep_last=2)
    assert steps(aside.folder) == [20, 30], "one checkpoint of its own is not keep_last"
    await save(config.run.dir, resume.lineage, 25, keep_last=2)
    assert steps(aside.folder) == [30], "not past it yet"
    await save(config.run.dir, resume.lineage, 30, keep_last=2)
    assert steps(aside.folder) == []


async def test_a_better_score_keeps_what_was_set_aside(config):
    lineage = find_resume(config.run).lineage
    (ten,) = await save(config.run.dir, lineage, 10, score=0.2)
    await save(config.run.dir, lineage, 20, score=0.9)
    config.run.resume = str(ten.path)
    resume, aside = start(config)
    await save(config.run.dir, resume.lineage, 20, 30, 40, score=0.5, keep_last=1)
    assert steps(aside.folder) == [20]
    await save(config.run.dir, resume.lineage, 50, score=0.95, keep_last=1)
    assert steps(aside.folder) == []


def test_a_kill_while_checkpoints_are_set_aside_loses_none(config, three, monkeypatch):
    config.run.resume = str(three[0].path)
    real, calls = Path.rename, []

    def rename_once(path, target):
        calls.append(path.name)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_once)
        with pytest.raises(KeyboardInterrupt):
            start(config)
    assert calls == ["step_000030", "step_000020"]
    _, aside = start(config)
    assert steps(config.run.dir) == [10]
    assert sorted(p.name for p in (aside.folder.parent).glob("*/checkpoints/*")) == ["step_000020", "step_000030"]


def test_a_folder_on_another_disk_keeps_what_is_set_aside_there(config, three, monkeypatch):
    config.run.resume = str(three[1].path)
    real = Path.rename

    def rename(path, target):
        if "run/set_aside" in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    _, aside = start(config)
    assert steps(config.run.dir) == [10, 20]
    assert (three[0].path.parent / "set_aside" / aside.folder.name / "step_000030").is_dir()


def questions(count):
    return [Question(str(i), f"text {i}", "yes") for i in range(count)]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (QuestionStream(questions(8), 0), r"8 questions|10 questions.* then, 8 with"),
        (QuestionStream(questions(10), 3), r"run\.seed was 0 when .* is 3 now"),
    ],
)
async def test_other_data_and_another_seed_are_refused_before_anything_starts(config, now, message):
    async def write(folder):
        pass

    state = {"feed": {"stream": QuestionStream(questions(10), 0).state_dict()}}
    saved = await CheckpointStore(Path(config.run.dir), CheckpointConfig()).save(10, state, None, write)
    check_data(saved, QuestionStream(questions(10), 0))
    with pytest.raises(UserError, match=r"step_000010 cannot be resumed: .*" + message):
        check_data(saved, now)
    (saved.path / "controller.json").write_text("{")
    with pytest.raises(UserError, match=r"controller\.json"):
        check_data(saved, now)


async def test_a_checkpoint_of_sft_is_refused_with_what_to_do(config):
    async def write(folder):
        pass

    store = CheckpointStore(Path(config.run.dir), CheckpointConfig())
    saved = await store.save(10, {"step": 10, "sft": {}, "skips": {}}, None, write)
    with pytest.raises(UserError, match=r"is one of SFT, which GRPO does not resume; set model\.path to the folder"):
        check_data(saved, QuestionStream(questions(10), 0))


def set_adapters(checkpoint, lora):
    (checkpoint.learner / "learner.json").write_text(json.dumps({"lora": lora}))


@pytest.mark.parametrize("resume", ["auto", "named"])
@pytest.mark.parametrize(
    ("before", "rank", "alpha", "message"),
    [
        ({"rank": 8, "alpha": 32.0}, 16, 32.0, r"set model\.lora\.rank=8 model\.lora\.alpha=32, or another run\.dir"),
        ({"rank": 8, "alpha": 16.0}, 8, 32.0, r"set model\.lora\.rank=8 model\.lora\.alpha=16"),
        ({"rank": 8, "alpha": 16.0}, 0, 32.0, r"but this run has off"),
        (None, 8, 32.0, r"written with model\.lora off.*set model\.lora\.rank=0"),
    ],
)
def test_other_adapters_than_the_checkpoints_are_refused_early(config, three, resume, before, rank, alpha, message):
    set_adapters(three[2], before)
    config.run.resume = str(three[2].path) if resume == "named" else "auto"
    config.model.lora.rank, config.model.lora.alpha = rank, alpha
    with pytest.raises(ConfigError, match=message):
        check_resume(config.run, config.model.lora)
    set_adapters(three[2], {"rank": rank, "alpha": alpha} if rank else None)
    check_resume(config.run, config.model.lora)


def test_what_a_run_cannot_resume_from_is_refused_early(config, three):
    check_resume(config.run, config.model.lora)  # learner.json is missing: find_resume looks for an older checkpoint
    config.run.resume = "runs/nowhere"
    with pytest.raises(DamagedCheckpoint, match=r"run\.resume=runs/nowhere: .*holds no checkpoint"):
        check_resume(config.run, config.model.lora)
    config.run.resume = "never"
    with pytest.raises(ConfigError, match=r"run\.resume=never, but .* holds a run"):
        check_resume(config.run, config.model.lora)
