"""Models that the learner can train, read and made by transformers: families that hear or see, and text-only LMs."""

from typing import TYPE_CHECKING

from ssr1_rl.audio_families import FAMILIES, family_of, trained_config
from ssr1_rl.config.model_path import check_model_folder
from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

TEXT_BACKBONE = "model"
"""Path, in a text-only model, of the language model without its head; `trainer/model/exactness.py` checks it."""


def backbone_path(config: "PretrainedConfig") -> str:
    """Path, in a model, of the language model without its head."""
    family = family_of(config)
    return family.backbone if family else TEXT_BACKBONE


def read_config(path: str) -> "PretrainedConfig":
    """Reads the configuration of the trained part of the model in `path`; see `trained_config`.

    Raises:
        ValueError: not a model folder, a quantized model, or a model type that the learner cannot train.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    check_model_folder(path)
    whole = AutoConfig.from_pretrained(path)
    if getattr(whole, "quantization_config", None):
        raise UserError(
            f"model.path {path} is a quantized model, and the learner trains unquantized weights; give the "
            "model that it was made from"
        )
    config = trained_config(whole)
    is_text_model = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and config.get_text_config() is config
    if family_of(config) is None and not is_text_model:
        raise UserError(
            f"model.path {path} is a {config.model_type} model; the learner trains {', '.join(FAMILIES)} and "
            "text-only causal language models of transformers"
        )
    return config


def load_model(path: str, dtype: "torch.dtype", attention: str) -> "PreTrainedModel":
    """Loads the model in `path`; raises like `read_config`.

    If `attention`, the learner's backend, is "flash", the tower uses FlashAttention too if its family can.
    """
    import transformers

    config = read_config(path)
    family = family_of(config)
    model_class = getattr(transformers, family.model_class if family else "AutoModelForCausalLM")
    model: PreTrainedModel = model_class.from_pretrained(path, config=config, dtype=dtype)
    if family and family.flash_tower and attention == "flash":
        family.tower(model).module.set_attn_implementation("flash_attention_2")
    return model


def make_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """Makes a model with random weights."""
    import transformers

    family = family_of(config)
    if family is None:
        return transformers.AutoModelForCausalLM.from_config(config)
    return getattr(transformers, family.model_class)(config)
