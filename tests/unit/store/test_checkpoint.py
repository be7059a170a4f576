"""A checkpoint exists whole or not at all; damage is detected; the right checkpoints are kept."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading

import pytest

from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.store import manifest
from ssr1_rl.store.checkpoints import CheckpointStore, open_checkpoint
from ssr1_rl.store.manifest import DamagedCheckpoint

STATE = {"step": 1, "feed": {"pending": [[0, "q", 1]]}}


async def write_learner(folder):
    (folder / "weights-00000.safetensors").write_bytes(bytes(range(256)))
    (folder / "learner.json").write_text("{}")


async def save(store, *steps, score=None):
    for step in steps:
        saved = await store.save(step, STATE, score, write_learner)
    return saved


@pytest.fixture
def make_store(tmp_path):
    return lambda **settings: CheckpointStore(tmp_path, CheckpointConfig(**settings))


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


async def test_saved_and_opened_again(make_store, tmp_path):
    saved = await save(make_store(), 40, score=0.75)
    assert names(tmp_path) == ["step_000040"]
    opened = open_checkpoint(tmp_path / "checkpoints" / "step_000040")
    assert opened == saved == make_store().all()[-1] == make_store().best()
    assert (opened.step, opened.score) == (40, 0.75)
    assert opened.controller_state() == STATE
    assert (opened.learner / "weights-00000.safetensors").read_bytes() == bytes(range(256))
    opened.verify()


async def test_the_learner_is_given_an_absolute_path(make_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    given = []

    async def note(folder):
        given.append(folder)

    await CheckpointStore(Path("run"), CheckpointConfig()).save(1, STATE, None, note)
    assert given[0].is_absolute(), "ranks have other working directories"


async def test_a_save_that_fails_leaves_nothing_and_the_next_one_clears_up(make_store, tmp_path):
    store = make_store()
    await save(store, 1)

    async def fail(folder):
        (folder / "weights-00000.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await store.save(2, STATE, None, fail)
    assert [c.step for c in store.all()] == [1]
    assert not (tmp_path / "checkpoints" / "step_000002").exists()
    store.all()[-1].verify()
    await save(store, 3)
    assert names(tmp_path) == ["step_000001", "step_000003"]


@pytest.mark.parametrize("stuck", ["ssr1_rl.store.manifest.sync", "shutil.rmtree"])
def test_a_save_that_is_stopped_ends_the_process_while_the_disk_hangs(tmp_path, stuck):
    """As a second Ctrl-C does: `asyncio.run` and Python's end wait for the threads of their own pools."""
    (tmp_path / "checkpoints" / ".partial_000001").mkdir(parents=True)
    code = f"""
import asyncio, threading
from pathlib import Path
from unittest import mock
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.store.checkpoints import CheckpointStore
hangs = threading.Event()
def hang(path, **_):
    if Path(path).name != "learner" and Path(path).is_dir() and {stuck!r} != "shutil.rmtree":
        return
    hangs.set()
    threading.Event().wait()
async def write(folder):
    (folder / "weights").write_text("1")
async def main():
    store = CheckpointStore(Path({str(tmp_path)!r}), CheckpointConfig())
    saving = asyncio.create_task(store.save(1, {{}}, None, write))
    while not hangs.is_set():
        await asyncio.sleep(0)
    saving.cancel()
    await saving
with mock.patch({stuck!r}, hang):
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


async def test_the_same_step_can_be_saved_again(make_store):
    store = make_store()
    await save(store, 5, score=0.1)
    await save(store, 5, score=0.2)
    assert [(c.step, c.score) for c in store.all()] == [(5, 0.2)]
    store.all()[-1].verify()


def truncate(folder):
    (folder / "learner" / "weights-00000.safetensors").write_bytes(bytes(range(255)))


def change_one_byte(folder):
    (folder / "learner" / "weights-00000.safetensors").write_bytes(bytes(range(255)) + b"\x00")


def remove(folder):
    (folder / "learner" / "weights-00000.safetensors").unlink()


@pytest.mark.parametrize("damage", [truncate, change_one_byte, remove])
async def test_damage_is_noticed_and_the_file_named(make_store, damage):
    saved = await save(make_store(), 1)
    damage(saved.path)
    with pytest.raises(DamagedCheckpoint, match=r"step_000001 is damaged: learner/weights-00000\.safetensors"):
        saved.verify()


async def test_a_changed_cursor_is_damage_too(make_store):
    saved = await save(make_store(), 1)
    (saved.path / "controller.json").write_text(json.dumps(STATE | {"step": 2}))
    with pytest.raises(DamagedCheckpoint, match=r"controller\.json"):
        saved.verify()


def test_a_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(DamagedCheckpoint, match=r"holds no checkpoint .*step_000040"):
        open_checkpoint(tmp_path)


async def test_a_manifest_that_is_no_json_is_damage(make_store):
    saved = await save(make_store(), 1)
    (saved.path / "manifest.json").write_text('{"step": 1')
    with pytest.raises(DamagedCheckpoint, match=r"damaged: manifest\.json"):
        open_checkpoint(saved.path)


@pytest.mark.parametrize(
    ("settings", "scores", "kept"),
    [
        ({"keep_last": 2, "keep_best": True}, [0.5, 0.9, 0.7, 0.9, None], [2, 4, 5]),  # the older of equals is best
        ({"keep_last": 2, "keep_best": False}, [0.5, 0.9, 0.7, 0.9, None], [4, 5]),
        ({"keep_last": 1, "keep_best": True}, [None, None, None, None, None], [5]),
        ({"keep_last": 9, "keep_best": True}, [0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5]),
    ],
)
async def test_the_newest_and_the_best_are_kept(make_store, tmp_path, settings, scores, kept):
    store = make_store(**settings)
    for step, score in enumerate(scores, start=1):
        await save(store, step, score=score)
    assert [c.step for c in store.all()] == kept
    assert names(tmp_path) == [f"step_{step:06d}" for step in kept]


def test_before_the_first_checkpoint(make_store):
    assert (make_store().all(), make_store().best()) == ([], None)


async def test_an_unscored_checkpoint_is_never_best(make_store):
    store = make_store()
    await save(store, 1)
    assert store.best() is None


async def test_a_step_saved_again_leaves_the_earlier_one_set_aside(make_store, tmp_path):
    store = make_store(keep_last=9)
    await save(store, 5, score=0.1)
    before = (tmp_path / "checkpoints" / "step_000005" / "manifest.json").read_bytes()
    await save(store, 5, score=0.2)
    assert (tmp_path / "set_aside/001_at_step_000005/checkpoints/step_000005/manifest.json").read_bytes() == before


async def test_a_score_joins_a_saved_checkpoint(make_store):
    store = make_store(keep_last=1)
    first = await store.add_score(await save(store, 1), 0.5)
    second = await save(store, 2)
    assert store.all() == [first, second], "the best one is kept"
    scored = await store.add_score(second, 0.75)
    assert store.all() == [scored] == [store.best()], "and goes when it is no longer the best"
    assert scored.score == 0.75
    scored.verify()


async def test_a_kill_while_a_score_is_written_loses_nothing(make_store, monkeypatch):
    store = make_store()
    saved = await save(store, 1)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssr1_rl.files.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            await store.add_score(saved, 0.5)
    assert store.all() == [saved]
    saved.verify()


async def test_a_kill_while_a_checkpoint_is_removed_leaves_no_half_one(make_store, monkeypatch):
    store = make_store(keep_last=1)
    await save(store, 1)

    def killed(path, **_):
        if (path / "manifest.json").exists():
            (path / "learner" / "learner.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssr1_rl.store.checkpoints.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            await save(store, 2)
    assert [c.step for c in store.all()] == [2]
    await save(store, 3)
    assert [c.step for c in store.all()] == [3]


async def test_checksums_are_computed_side_by_side_and_are_those_of_one_thread(tmp_path, monkeypatch):
    together = threading.Barrier(2)

    def checksum(path):
        together.wait(timeout=30)  # passes only if two threads are here at once
        return real(path)

    real = manifest.checksum
    monkeypatch.setattr(manifest, "NUM_THREADS", 2)
    monkeypatch.setattr(manifest, "checksum", checksum)
    for index in range(4):
        (tmp_path / f"file{index}").write_bytes(bytes([index]) * 1000)
    manifest.write_manifest(tmp_path, 1, None, ())
    found = manifest.read_manifest(tmp_path)
    for index in range(4):
        expected = hashlib.blake2b(bytes([index]) * 1000, digest_size=16).hexdigest()
        assert found["files"][f"file{index}"] == {"bytes": 1000, "blake2b": expected}
    manifest.check_files(tmp_path, found)


async def test_a_damaged_checkpoint_does_not_push_out_whole_ones(make_store):
    store = make_store(keep_last=1)
    damaged = await save(store, 80)
    remove(damaged.path)  # so the run went on from step 60
    saved = await save(store, 70)
    saved.verify()
    assert saved.path.is_dir()


async def test_a_kill_while_a_step_is_saved_again_leaves_one(make_store, monkeypatch):
    store = make_store()
    await save(store, 5)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssr1_rl.store.checkpoints.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        await save(store, 5)
    assert [c.step for c in store.all()] == [5]


async def test_a_checkpoint_can_be_moved(make_store, tmp_path):
    saved = await save(make_store(), 1, score=0.5)
    moved = shutil.move(saved.path, tmp_path / "elsewhere")
    opened = open_checkpoint(tmp_path / "elsewhere")
    opened.verify()
    assert (str(opened.path), opened.step, opened.score) == (str(moved), 1, 0.5)
