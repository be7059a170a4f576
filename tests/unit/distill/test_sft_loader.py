"""Examples as a rank learns them: prompt, clips and response tokens, prepared ahead; what cannot be used is named."""

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.distill.finetuning.loader import ExamplePreparer, Loader, hearing
from ssr1_rl.distill.finetuning.plan import Planned
from ssr1_rl.types import AudioRef, Question

CHAIN = "<think> one beep </think> <answer> three </answer>"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 16000), 16000)
    return path


@pytest.fixture
def config(random_audio_model):
    overrides = [f"model.path={random_audio_model}", "run.name=x", "data.train.path=q.json", "sft.responses=labels"]
    return load_sft(None, overrides)


def planned(clip, *responses, epoch=0, id="q"):
    question = Question(id, "How many beeps are there?", "three", audio=(AudioRef(str(clip)),), source="q.json row 3")
    return Planned(epoch, Example(question, responses or (CHAIN,)))


def words(number):
    """A text of so many tokens, without the one that ends it."""
    return "How" + " three" * (number - 1)


def preparer(config, max_tokens=2048):
    return ExamplePreparer(hearing(config, 1), config, max_tokens)


async def test_a_group_has_the_prompt_of_the_rollouts_the_clip_and_the_tokens_of_every_response(config, clip):
    group, unusable = await preparer(config).prepare(planned(clip, CHAIN, "three", epoch=2))
    assert unusable == []
    builder = PromptBuilder(config.model.path, config.data)
    example = planned(clip).example.question
    as_rolled_out = builder.prepare(example, group.waveforms, [16000])
    assert group.prompt_token_ids == as_rolled_out.token_ids
    assert group.num_audio_tokens == (QWEN2_AUDIO.clip_tokens(16000),)
    assert len(group.waveforms[0].waveform) == 16000
    assert [builder.tokenizer.decode(ids) for ids in group.responses] == [f"{CHAIN}<|im_end|>", "three<|im_end|>"]
    assert (group.id.epoch, group.id.question_id) == (2, "q")
    assert [len(values) for values in group.rollout_logprobs] == [len(ids) for ids in group.responses]


async def test_a_long_response_is_left_out_and_the_others_are_learned(config, clip):
    config.sft.max_response_tokens = 4
    group, [long] = await preparer(config).prepare(planned(clip, words(4), words(3)))
    assert [len(ids) for ids in group.responses] == [4]
    assert not long.whole
    assert long.reason == "q.json row 3: a response of 5 tokens is longer than sft.max_response_tokens=4"


async def test_a_response_beyond_the_model_s_positions_is_left_out(config, clip):
    room = 50
    group, _ = await preparer(config).prepare(planned(clip, CHAIN))
    positions = group.num_prompt_tokens + room
    assert (await preparer(config, positions).prepare(planned(clip, words(room - 1))))[0] is not None
    nothing, [long] = await preparer(config, positions).prepare(planned(clip, words(room)))
    assert nothing is None
    assert long.whole
    assert f"longer than the {room} that the model's {positions} positions leave after the prompt" in long.reason


async def test_a_clip_or_a_prompt_that_cannot_be_used_is_named(config, clip, tmp_path, monkeypatch):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    nothing, [broken] = await preparer(config).prepare(planned(tmp_path / "broken.wav"))
    assert nothing is None
    assert broken.whole
    assert "broken.wav" in broken.reason
    config.data.max_prompt_tokens = 5
    nothing, [long] = await preparer(config).prepare(planned(clip))
    assert "more than data.max_prompt_tokens=5" in long.reason


class Recorder:
    """Prepares nothing, but remembers in which thread it was asked for what."""

    def __init__(self) -> None:
        self.asked, self.threads = [], set()

    async def prepare(self, planned):
        self.asked.append(planned.epoch)
        self.threads.add(threading.current_thread())
        return None, []


def test_steps_are_prepared_ahead_in_another_thread_and_none_after_the_last(clip):
    recorder = Recorder()
    with Loader(recorder, lambda step: [planned(clip, epoch=step)], last_step=4) as loader:
        loader.take(1)
        loader.prepare([])  # waits until what was begun before it has begun
        assert recorder.asked == [1, 2, 3]
        for step in (2, 3, 4):
            loader.take(step)
        assert recorder.asked == [1, 2, 3, 4]
    assert threading.current_thread() not in recorder.threads
    assert not any(thread.is_alive() for thread in recorder.threads)


def test_an_error_of_the_thread_reaches_the_step(clip):
    class Failing:
        async def prepare(self, planned):
            raise OSError("no disk")

    with Loader(Failing(), lambda step: [planned(clip)], 3) as loader, pytest.raises(OSError, match="no disk"):
        loader.take(1)
