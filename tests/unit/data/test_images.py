"""Images of a prompt: what the learner reads of them is what transformers' processor makes of text and images."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import fold
from transformers import AutoProcessor

from ssr1_rl.audio_families import IDEFICS3
from ssr1_rl.data.images import ImagePrompts, image_clip
from ssr1_rl.data.inputs import extractor_of
from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.data.pixels import PixelExtractor
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.types import Question


def images(*shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


@pytest.mark.parametrize("shapes", [[], [(64, 64)], [(64, 64), (20, 48), (90, 41)]])
def test_the_learners_prompt_is_that_of_transformers_processor(random_vision_model, shapes):
    processor = AutoProcessor.from_pretrained(random_vision_model)
    content = [*[{"type": "image"}] * len(shapes), {"type": "text", "text": "Which object is red?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    of_engine = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    prepared = ImagePrompts(str(random_vision_model)).prepare(Question("q", "", ""), of_engine, images(*shapes))
    assert prepared.num_audio_tokens == (16,) * len(shapes)
    assert [clip.waveform.shape[:2] for clip in prepared.waveforms] == shapes
    pictures = [Image.fromarray(image) for image in images(*shapes)]
    expected = processor(images=pictures or None, text=text, add_special_tokens=False)["input_ids"][0]
    found = expand_audio_placeholders(prepared.token_ids, processor.image_token_id, prepared.num_audio_tokens)
    assert found == expected


def test_placeholders_and_images_must_match(random_vision_model):
    prompts = ImagePrompts(str(random_vision_model))
    with pytest.raises(ValueError, match=r"b\.json row 3: found 1 image placeholders for 2 images"):
        prompts.prepare(Question("q", "", "", source="b.json row 3"), [7, prompts.placeholder_id], images((4, 4)) * 2)


def test_a_model_that_does_not_see_is_refused(random_audio_model):
    with pytest.raises(ValueError, match="is a qwen2_audio model, and those that are trained on images are: idefics3"):
        ImagePrompts(str(random_audio_model))
    with pytest.raises(ValueError, match="has no vision tower"):
        PixelExtractor(str(random_audio_model))


def test_each_model_has_its_own_extractor(random_audio_model, random_vision_model):
    assert isinstance(extractor_of(str(random_audio_model)), MelExtractor)
    assert isinstance(extractor_of(str(random_vision_model)), PixelExtractor)
    with pytest.raises(ValueError, match="has no audio tower"):
        MelExtractor(str(random_vision_model))


def test_squares_are_the_pixels_of_transformers_processor(random_vision_model):
    extract = extractor_of(str(random_vision_model))
    processor = AutoProcessor.from_pretrained(random_vision_model)
    for image in images((64, 64), (20, 48), (3, 3), (200, 90)):
        squares = extract(image)
        assert squares.dtype == np.float32
        assert squares.shape == (3 * 16 * 16, 16) and extract.input_length(image) == 16
        expected = processor.image_processor([[Image.fromarray(image)]], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(fold(torch.from_numpy(squares)[None], (64, 64), 16, stride=16), expected.float())


def test_one_square_is_one_block_of_the_image(random_vision_model):
    image = np.full((64, 64, 3), 255, np.uint8)
    image[16:32, 48:] = 0
    squares = extractor_of(str(random_vision_model))(image)
    assert (squares[:, 7] == -1).all(), "the second row's last of four"
    assert (np.delete(squares, 7, axis=1) == 1).all()


def test_images_are_told_apart_by_shape_and_content():
    wide, tall = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert image_clip(wide).key == image_clip(wide.copy()).key
    assert len({image_clip(image).key for image in (wide, tall, wide + 1)}) == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"do_image_splitting": True}, "splits images into tiles.*set do_image_splitting to false"),
        ({"max_image_size": {"longest_edge": 32}}, "scales images to 32 pixels and its vision tower reads 64"),
    ],
)
def test_an_image_processor_that_the_tower_does_not_fit_is_refused(random_vision_model, tmp_path, changes, error):
    folder = tmp_path / "model"
    shutil.copytree(random_vision_model, folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= changes
    (folder / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=error):
        extractor_of(str(folder))


def test_tokens_of_an_image_of_the_published_model():
    from transformers import Idefics3Config

    config = Idefics3Config(vision_config={"image_size": 364, "patch_size": 14}, scale_factor=2)
    assert IDEFICS3.image_tokens(config) == 169
