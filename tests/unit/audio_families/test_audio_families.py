"""The record of each audio family, against transformers' own classes and configurations."""

import pytest
import torch
import transformers
from transformers import AutoConfig, Qwen2_5OmniConfig

from ssr1_rl.audio_families import AUDIO_FAMILIES, QWEN2_5_OMNI, QWEN2_AUDIO, audio_family_of, trained_config
from ssr1_rl.trainer.model.families import make_model
from ssr1_rl.types import SAMPLE_RATE


def test_num_audio_tokens_by_hand():
    for family in (QWEN2_AUDIO, QWEN2_5_OMNI):
        assert [family.num_audio_tokens(n) for n in (2, 3, 6, 7, 200, 1000, 3000)] == [0, 1, 1, 2, 50, 250, 750]
        assert family.num_audio_tokens(family.min_mel_frames) == 1 > family.num_audio_tokens(family.min_mel_frames - 1)


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
    assert (tower.num_mel_bins, tower.width, tower.num_layers) == (
        audio.num_mel_bins,
        audio.d_model,
        audio.encoder_layers,
    )


def test_of_a_whole_qwen2_5_omni_the_thinker_is_trained():
    whole = Qwen2_5OmniConfig()
    assert audio_family_of(whole) is None
    assert audio_family_of(trained_config(whole)) is QWEN2_5_OMNI
    thinker = whole.thinker_config
    assert trained_config(thinker) is thinker


def test_a_parameter_that_no_checkpoint_has_is_noticed():
    with pytest.raises(AssertionError, match=r"qwen2_audio has no parameter model\.visual"):
        QWEN2_AUDIO.published_name("model.visual.weight")
