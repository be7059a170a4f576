"""Clips on their way to engines and learners: what is tried again, what is kept, and by what a clip is known."""

import asyncio
import errno
import itertools
import threading

import numpy as np
import pytest
import soundfile

from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import AudioError, AudioUnavailable, load_waveform
from ssr1_rl.rollout import prepare
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.trainer.batches.clips import ClipInputs
from ssr1_rl.types import SAMPLE_RATE, AudioRef, PreparedQuestion, Question


class Builder:
    def prepare(self, question, clips, num_samples):
        return PreparedQuestion(question, (7,) * len(clips), tuple(clips), tuple(num_samples))


def heard(*paths):
    return Question("q", "?", "yes", audio=tuple(AudioRef(str(path)) for path in paths))


class Loads:
    """Stands for `load_waveform`: each path gives its results in turn, and the last one again and again."""

    def __init__(self, **results):
        self.results, self.calls = results, []

    def __call__(self, ref, **settings):
        self.calls.append(ref.path)
        results = self.results[ref.path]
        result = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(result, Exception):
            raise result
        return result


class Store:
    """Stands for Ray's object store, which gives a new reference for each object."""

    def __init__(self):
        self.objects = {}

    def put(self, waveform):
        self.objects[f"ref-{len(self.objects)}"] = waveform
        return f"ref-{len(self.objects) - 1}"


WAVEFORM = np.linspace(-0.5, 0.5, SAMPLE_RATE, dtype=np.float32)
GONE = AudioUnavailable("a: no such audio file")
BROKEN = AudioError("a: corrupt")


@pytest.fixture
def store(monkeypatch):
    """The store; pauses take no time, and are counted."""
    store, store.pauses = Store(), []
    sleep = asyncio.sleep
    monkeypatch.setattr(prepare.ray, "put", store.put)
    monkeypatch.setattr(prepare.asyncio, "sleep", lambda pause_s: store.pauses.append(pause_s) or sleep(0))
    return store


@pytest.fixture
def loads(monkeypatch, store):
    def loads(**results):
        found = Loads(**results)
        monkeypatch.setattr(prepare, "load_waveform", found)
        return found

    return loads


async def test_a_file_that_is_missing_for_a_moment_is_tried_again(loads, store):
    found = loads(a=[GONE, GONE, WAVEFORM])
    prepared = await Preparer(Builder(), DataConfig()).prepare(heard("a"))
    assert prepared.num_audio_tokens == (SAMPLE_RATE,)
    assert len(found.calls) == 3
    assert store.pauses == list(prepare.RETRY_PAUSES_S[:2])


async def test_a_failure_is_not_kept(loads):
    found = loads(a=[BROKEN, WAVEFORM])
    preparer = Preparer(Builder(), DataConfig())
    with pytest.raises(AudioError, match="corrupt"):
        await preparer.prepare(heard("a"))
    await preparer.prepare(heard("a"))
    await preparer.prepare(heard("a"))
    assert found.calls == ["a", "a"]


async def test_a_file_that_stays_away_is_waited_for_only_once(loads, store):
    found = loads(a=[GONE])
    preparer = Preparer(Builder(), DataConfig())
    for num_calls in (4, 5, 6):
        with pytest.raises(AudioUnavailable):
            await preparer.prepare(heard("a"))
        assert len(found.calls) == num_calls
    assert store.pauses == list(prepare.RETRY_PAUSES_S)
    found.results["a"] = [WAVEFORM]
    await preparer.prepare(heard("a"))
    found.results["a"] = [GONE, WAVEFORM]
    preparer._clips.clear()
    assert (await preparer.prepare(heard("a"))).waveforms, "it was there again, so that it is worth waiting for"


async def test_questions_that_wait_for_one_clip_share_its_failure_and_nobody_else_does(loads):
    found = loads(a=[BROKEN, WAVEFORM])
    preparer = Preparer(Builder(), DataConfig())
    results = await asyncio.gather(*(preparer.prepare(heard("a")) for _ in range(3)), return_exceptions=True)
    assert results == [BROKEN] * 3
    assert found.calls == ["a"]
    await preparer.prepare(heard("a"))


async def test_a_cancelled_decode_does_not_stay(monkeypatch, store):
    release, calls = threading.Event(), itertools.count()

    def load(ref, **settings):
        if next(calls) == 0:
            release.wait(60)
        return WAVEFORM

    monkeypatch.setattr(prepare, "load_waveform", load)
    preparer = Preparer(Builder(), DataConfig())
    waiting = asyncio.create_task(preparer.prepare(heard("a")))
    while not preparer._clips:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    next(iter(preparer._clips.values())).cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    assert (await preparer.prepare(heard("a"))).waveforms


async def test_a_question_that_is_cancelled_leaves_the_decode_to_others(loads):
    found = loads(a=[WAVEFORM])
    preparer = Preparer(Builder(), DataConfig())
    first, second = (asyncio.create_task(preparer.prepare(heard("a"))) for _ in range(2))
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    first.cancel()
    assert (await second).waveforms
    assert found.calls == ["a"]


async def test_an_error_that_is_no_clips_fault_ends_the_run(loads, monkeypatch):
    loads(a=[WAVEFORM])

    def full(waveform):
        raise OSError(errno.ENOSPC, "the object store is full")

    monkeypatch.setattr(prepare.ray, "put", full)
    with pytest.raises(OSError, match="object store is full"):
        await Preparer(Builder(), DataConfig()).prepare(heard("a"))


async def test_a_file_that_returns_is_read(tmp_path, store):
    path = tmp_path / "clip.wav"
    preparer = Preparer(Builder(), DataConfig())
    with pytest.raises(AudioUnavailable, match=r"clip\.wav: no such audio file; add it"):
        await preparer.prepare(heard(path))
    soundfile.write(path, WAVEFORM, SAMPLE_RATE)
    assert (await preparer.prepare(heard(path))).num_audio_tokens == (SAMPLE_RATE,)


async def test_a_truncated_file_is_used_if_the_setting_says_so(tmp_path, store):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVEFORM, SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:10_044])
    with pytest.raises(AudioError, match=r"data\.truncated_audio=use"):
        await Preparer(Builder(), DataConfig()).prepare(heard(path))
    prepared = await Preparer(Builder(), DataConfig(truncated_audio="use")).prepare(heard(path))
    assert prepared.num_audio_tokens == (5000,)


async def test_the_learners_cache_knows_a_clip_that_was_decoded_again(loads, store, random_audio_model):
    """A cache of 1 MiB here holds none of the clips until their next epoch, so that they get other references."""
    quiet, loud = WAVEFORM.repeat(16), 0.9 * WAVEFORM.repeat(16)
    found = loads(a=[quiet], b=[loud], copy_of_a=[quiet.copy()])
    preparer = Preparer(Builder(), DataConfig(audio_cache_mib=1))
    fetched = []
    features = ClipInputs(
        str(random_audio_model), lambda clip: fetched.append(clip.waveform) or store.objects[clip.waveform]
    )
    for _ in range(2):
        for path in ("a", "b", "copy_of_a"):
            (clip,) = (await preparer.prepare(heard(path))).waveforms
            features(clip)
    assert len(found.calls) == 6 and len(store.objects) == 6
    assert fetched == ["ref-0", "ref-1"], "a and b once; a file of the same sound is the same clip"


async def test_other_parts_of_a_file_are_other_clips(tmp_path, store):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVEFORM, SAMPLE_RATE)
    keys = set()
    for max_audio_s in (0.25, 0.5, 1.0):
        (clip,) = (await Preparer(Builder(), DataConfig(max_audio_s=max_audio_s)).prepare(heard(path))).waveforms
        keys.add(clip.key)
    assert len(keys) == 3
    assert load_waveform(AudioRef(str(path)), max_audio_s=1.0).shape == (SAMPLE_RATE,)


async def test_a_clip_that_takes_long_to_decode_is_a_wait_and_does_not_hold_up_the_end(monkeypatch, store):
    """As on a network disk that hangs: `asyncio.run` would wait for a thread of asyncio's own pool."""
    hangs, waits = threading.Event(), Waits()
    monkeypatch.setattr(prepare, "load_waveform", lambda ref, **settings: hangs.wait(60) and WAVEFORM)
    preparing = asyncio.create_task(Preparer(Builder(), DataConfig(), waits).prepare(heard("/nfs/a.wav")))
    while not waits.describe():
        await asyncio.sleep(0)
    assert waits.describe() == ["clips: decoding /nfs/a.wav for 0 s"]
    assert asyncio.get_running_loop()._default_executor is None, "no pool whose threads have to end"
    hangs.set()
    await preparing
    assert waits.describe() == []


async def test_a_clip_whose_storage_hangs_is_given_up_and_the_next_one_is_read(monkeypatch):
    """As many clips hang as are read at the same time."""
    go, load = threading.Event(), Loads(b=[WAVEFORM])

    def load_or_hang(ref, **settings):
        return load(ref, **settings) if ref.path == "b" else go.wait(60)

    monkeypatch.setattr(prepare, "load_waveform", load_or_hang)
    monkeypatch.setattr(prepare.ray, "put", Store().put)
    monkeypatch.setattr(prepare, "RETRY_PAUSES_S", (0.0,))
    monkeypatch.setattr(prepare, "READ_LIMIT_S", 0.01)
    monkeypatch.setattr(prepare, "MAX_THREADS", 2)
    preparer = Preparer(Builder(), DataConfig())
    hanging = [asyncio.create_task(preparer.prepare(heard(path))) for path in ("a", "c")]
    await asyncio.sleep(0)
    errors = await asyncio.gather(*hanging, return_exceptions=True)
    assert [str(error) for error in errors] == [
        f"{path}: not read within 0.01 s: its storage may hang" for path in ("a", "c")
    ]
    assert all(isinstance(error, AudioError) for error in errors), "the question is skipped, not the run ended"
    monkeypatch.setattr(prepare, "READ_LIMIT_S", 60.0)
    assert (await preparer.prepare(heard("b"))).question.audio == heard("b").audio
    go.set()
