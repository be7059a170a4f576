"""SFT of a teacher learns behind the very prompt that the teacher is asked with."""

import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.engines import EndpointConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.frames import VideoError
from ssr1_rl.data.prompt import PromptBuilder, PromptTooLong, expand_audio_placeholders
from ssr1_rl.data.response import ResponseEncoder
from ssr1_rl.distill.chain_rows import ChainRequest, rows_of
from ssr1_rl.distill.generation.vision_preparer import VisionPreparer, seeing
from ssr1_rl.types import VideoRef


@pytest.fixture
def teacher(tiny_vision_model):
    return TeacherConfig(model=str(tiny_vision_model), frames_per_s=2.0, max_frames=3, frame_size=32)


def preparer(teacher):
    other = dataclasses.replace(teacher, model="another", endpoint=EndpointConfig(url="http://localhost:1/v1"))
    return VisionPreparer(teacher.model, other, DataConfig())


async def test_prompt_and_frames_are_those_of_the_teachers_request(teacher, question):
    question = dataclasses.replace(question, text="What do you hear? <image>")
    prepared = await preparer(teacher).prepare(question)
    request = ChainRequest(teacher, DataConfig())(rows_of([question], 1, 0)[0])
    assert len(request.images) == 3
    for clip, frame in zip(prepared.waveforms, request.images, strict=True):
        assert np.array_equal(clip.waveform, frame)
    assert len({clip.key for clip in prepared.waveforms}) == 3

    processor = AutoProcessor.from_pretrained(teacher.model)
    # As vLLM does with the request: placeholders are expanded within the text.
    text = processor.tokenizer.decode(request.token_ids)
    images = [Image.fromarray(frame) for frame in request.images]
    expected = processor(images=images, text=text, add_special_tokens=False)["input_ids"][0]
    found = expand_audio_placeholders(prepared.token_ids, processor.image_token_id, prepared.num_audio_tokens)
    assert found == expected
    assert found.count(processor.image_token_id) == 3 * processor.image_seq_len


async def test_what_cannot_be_used_is_refused_with_the_reason(teacher, question):
    with pytest.raises(VideoError, match=r"train\.json row 1: has no video"):
        await preparer(teacher).prepare(dataclasses.replace(question, video=None))
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        await preparer(teacher).prepare(dataclasses.replace(question, video=VideoRef("missing.mp4")))
    prepared = await preparer(teacher).prepare(question)
    length = len(prepared.token_ids) + sum(prepared.num_audio_tokens) - 3
    exact = dataclasses.replace(teacher, max_prompt_tokens=length)
    await preparer(exact).prepare(question)
    short = dataclasses.replace(teacher, max_prompt_tokens=length - 1)
    with pytest.raises(PromptTooLong, match=f"the prompt has {length} tokens, more than teacher.max_prompt_tokens"):
        await preparer(short).prepare(question)


def test_a_response_ends_with_the_token_that_ends_the_teachers(teacher):
    builder = PromptBuilder(teacher.model, DataConfig())
    encoded = ResponseEncoder(builder, teacher.model).encode("<think> a bark </think> <end_of_utterance>")
    assert builder.tokenizer.decode(encoded) == "<think> a bark </think> < end_of_utterance><end_of_utterance>"
    config = Config(teacher=teacher)
    config.model.path = teacher.model
    assert isinstance(pickle.loads(pickle.dumps(seeing))(config, 2), VisionPreparer)


async def test_a_video_is_decoded_once_while_its_frames_have_room(teacher, question, monkeypatch):
    decoded = []
    frames = ChainRequest.frames
    monkeypatch.setattr(ChainRequest, "frames", lambda self, asked: decoded.append(asked.id) or frames(self, asked))
    other = dataclasses.replace(question, id="8")
    for room_mib, expected in ((1, ["7", "8"]), (0, ["7", "8", "7", "8"])):
        data = DataConfig(audio_cache_mib=room_mib)
        seen = VisionPreparer(teacher.model, teacher, data)
        clips = [(await seen.prepare(asked)).waveforms for asked in (question, other, question, other)]
        assert decoded == expected
        assert clips[0] == clips[2]
        decoded.clear()
