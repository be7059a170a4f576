"""The record of each family, against transformers' own classes and configurations."""

import pytest
import torch
import transformers
from transformers import AutoConfig, Qwen2_5OmniConfig

from ssr1_rl.audio_families import (
    AUDIO_FAMILIES,
    IDEFICS3,
    QWEN2_5_OMNI,
    QWEN2_AUDIO,
    audio_family_of,
    family_of,
    trained_config,
    vision_family_of,
)
from ssr1_rl.trainer.model.families import make_model
from ssr1_rl.types import SAMPLE_RATE


def test_num_audio_tokens_by_hand():
    for family in (QWEN2_AUDIO, QWEN2_5_OMNI):
        assert [family.num_tokens(n) for n in (2, 3, 6, 7, 200, 1000, 3000)] == [0, 1, 1, 2, 50, 250, 750]
        assert family.num_tokens(family.min_length) == 1 > family.num_tokens(family.min_length - 1)


def test_what_is_longer_than_the_longest_clip_makes_no_more_tokens():
    assert QWEN2_AUDIO.max_mel_frames == 3000
    assert [QWEN2_AUDIO.num_mel_frames(n) for n in (1, 160, 161, 480_000, 480_001)] == [1, 1, 2, 3000, 3000]
    assert QWEN2_AUDIO.clip_tokens(31 * SAMPLE_RATE) == QWEN2_AUDIO.clip_tokens(30 * SAMPLE_RATE) == 750


@pytest.mark.parametrize(
    ("family", "folder"), [(QWEN2_AUDIO, "random_audio_model"), (QWEN2_5_OMNI, "random_omni_model")]
)
def test_a_family_knows_its_models(family, folder, request):
    config = trained_config(AutoConfig.from_pretrained(request.getfixturevalue(folder)))
    assert AUDIO_FAMILIES[config.model_type] is audio_family_of(config) is family
    assert config.audio_token_id == config.audio_token_index, "what the placeholder is called in every family"
    with torch.device("meta"):
        model = make_model(config)
    assert type(model) is getattr(transformers, family.model_class)
    assert model.get_submodule(family.backbone).config.model_type == config.text_config.model_type
    tower, audio = family.tower(model), config.audio_config
    assert (tower.num_channels, tower.num_layers) == (audio.num_mel_bins, audio.encoder_layers)
    assert tower.width == tower.hidden_size == audio.d_model


def test_a_family_that_sees_knows_its_models(random_vision_model):
    config = AutoConfig.from_pretrained(random_vision_model)
    assert family_of(config) is vision_family_of(config) is IDEFICS3
    assert audio_family_of(config) is None
    with torch.device("meta"):
        model = make_model(config)
    assert type(model) is getattr(transformers, IDEFICS3.model_class)
    assert model.get_submodule(IDEFICS3.backbone).config.model_type == "llama"
    tower = IDEFICS3.tower(model)
    assert (tower.num_channels, tower.width, tower.hidden_size, tower.num_layers) == (3 * 16 * 16, 4 * 64, 64, 2)
    assert tower.positions_per_token * IDEFICS3.image_tokens(config) == 64, "patches of 8 pixels"
    assert (IDEFICS3.placeholder_id(config), IDEFICS3.image_size(config)) == (config.image_token_id, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patches_of_idefics3_are_counted(dtype):
    """transformers computes positions from fractions, which are others in bfloat16 with 14 patches in a row."""
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 56, "patch_size": 4}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9, "pad_token_id": 0}
    config = transformers.Idefics3Config(vision_config=vision, text_config=text, pad_token_id=0, image_token_id=1)
    model = make_model(config).to(dtype)
    seen = []
    model.model.vision_model.embeddings.position_embedding.register_forward_hook(
        lambda _, args, out: seen.append(args[0])
    )
    IDEFICS3.tower(model).encode(torch.zeros(1, 3 * 64, 49), (49,))
    assert seen[0].tolist() == list(range(14 * 14))


def test_of_a_whole_qwen2_5_omni_the_thinker_is_trained():
    whole = Qwen2_5OmniConfig()
    assert audio_family_of(whole) is None
    assert audio_family_of(trained_config(whole)) is QWEN2_5_OMNI
    thinker = whole.thinker_config
    assert trained_config(thinker) is thinker


def test_a_parameter_that_no_checkpoint_has_is_noticed():
    with pytest.raises(AssertionError, match=r"qwen2_audio has no parameter model\.visual"):
        QWEN2_AUDIO.published_name("model.visual.weight")
