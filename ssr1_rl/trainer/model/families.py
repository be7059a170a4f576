"""The families of models that the learner trains, and what it must know of each beyond transformers' interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssr1_rl.audio_families import AudioTower
from ssr1_rl.audio_families.qwen2_5_omni import Qwen2_5OmniTower
from ssr1_rl.audio_families.qwen2_audio import Qwen2AudioTower
from ssr1_rl.config.model_path import check_model_folder


@dataclass(frozen=True)
class ModelFamily:
    """One kind of model.

    Attributes:
        model_class: its class in transformers.
        backbone: where the language model without its head lies in it.
        audio_tower: what drives its audio tower; None for a text-only model.
        flash_tower: whether the tower's own modules can use FlashAttention as `encode` calls them.
    """

    model_class: str
    backbone: str
    audio_tower: Callable[[Any], AudioTower] | None = None
    flash_tower: bool = False


TEXT = ModelFamily("AutoModelForCausalLM", "model")
"""Every causal LM of transformers that `trainer/exactness.py` finds no fault with."""

AUDIO_FAMILIES = {
    "qwen2_audio": ModelFamily("Qwen2AudioForConditionalGeneration", "model.language_model", Qwen2AudioTower),
    "qwen2_5_omni_thinker": ModelFamily("Qwen2_5OmniThinkerForConditionalGeneration", "model", Qwen2_5OmniTower, True),
}
"""By `config.model_type`."""


def family_of(config: Any) -> ModelFamily:
    """The family of a model's configuration."""
    return AUDIO_FAMILIES.get(config.model_type, TEXT)


def read_config(path: str) -> Any:
    """The configuration of what is trained of the model in `path`: of a whole Qwen2.5-Omni its thinker.

    Raises:
        ValueError: not a model folder, a quantized model, or a model type that the learner cannot train.
    """
    from transformers import AutoConfig

    check_model_folder(path)
    config = AutoConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"model.path {path} is a quantized model, and the learner trains whole weights; give the model that it "
            "was made from"
        )
    config = getattr(config, "thinker_config", config)
    if config.model_type not in AUDIO_FAMILIES and not _is_text_model(config):
        raise ValueError(
            f"model.path {path} is a {config.model_type} model; the learner trains {', '.join(AUDIO_FAMILIES)} and "
            "text-only causal language models of transformers"
        )
    return config


def _is_text_model(config: Any) -> bool:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and config.get_text_config() is config


def load_model(path: str, dtype: Any, attention: str) -> Any:
    """Loads the transformers model in `path`. `attention`: what its learner attends by, see `AttentionChoice`.

    Raises:
        ValueError: see `read_config`.
    """
    config = read_config(path)
    model = _model_class(config).from_pretrained(path, config=config, dtype=dtype)
    if attention == "flash" and family_of(config).flash_tower:
        model.audio_tower.set_attn_implementation("flash_attention_2")
    return model


def make_model(config: Any) -> Any:
    """A model of random weights."""
    if family_of(config) is TEXT:
        return _model_class(config).from_config(config)
    return _model_class(config)(config)


def _model_class(config: Any) -> Any:
    import transformers

    return getattr(transformers, family_of(config).model_class)
