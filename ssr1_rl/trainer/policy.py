"""The policy as the learner runs it: audio features once per clip, log-probs of response tokens alone.

Shapes: L packed length, H hidden size, _T response tokens, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ssr1_rl.data.prompt import num_audio_tokens
from ssr1_rl.trainer.batching import MicroBatch
from ssr1_rl.trainer.prefix_packing import use_packed_attention

AUDIO_MODEL_TYPES = ("qwen2_audio",)
TEXT_MODEL_TYPES = ("llama", "qwen2", "qwen3")


class Policy(nn.Module):
    """A transformers model behind one `forward`: micro-batch in, log-probs out.

    Args:
        model: a Qwen2-Audio, or a text-only causal language model.
        temperature: the sampling temperature; log-probs are those of the tempered distribution.
        train_audio_tower: when False the tower's parameters get no gradient.

    Attributes:
        entropy_gradient: whether the entropy carries a gradient.
    """

    def __init__(self, model: Any, temperature: float, train_audio_tower: bool) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.entropy_gradient = False
        self.has_audio = model.config.model_type in AUDIO_MODEL_TYPES
        use_packed_attention(self.backbone)
        if self.has_audio:
            model.model.audio_tower.requires_grad_(train_audio_tower)
            # Fixed sinusoids; transformers forgets that they are when it loads a checkpoint.
            model.model.audio_tower.embed_positions.requires_grad_(False)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-prob of every response token, float32 [T], and the entropy at each [T]."""
        hidden = self.backbone(
            inputs_embeds=self.embed(batch), position_ids=batch.position_ids, packing=batch.layout, use_cache=False
        ).last_hidden_state
        hidden_T = hidden[0, batch.hidden_index_T]
        return token_logprobs(self.model.lm_head(hidden_T), batch.targets_T, self.temperature, self.entropy_gradient)

    @property
    def backbone(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model if self.has_audio else self.model.model

    def embed(self, batch: MicroBatch) -> Tensor:
        """Input embeddings [1, L, H], audio features at their places."""
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        if not self.has_audio:
            return embeds
        if not batch.num_mel_frames:
            # Ranks reduce gradients together: each runs the tower in every pass, on silence if need be.
            silence = embeds.new_zeros(1, self.model.config.audio_config.num_mel_bins, 5)
            return embeds + 0.0 * self._audio_features(silence, (3,)).sum().to(embeds.dtype)
        features = self._audio_features(batch.mel, batch.num_mel_frames)
        chosen = features[batch.audio_clips, batch.audio_positions].to(embeds.dtype)
        return embeds[0].index_put((batch.audio_columns,), chosen)[None]

    def _audio_features(self, mel: Tensor, num_mel_frames: tuple[int, ...]) -> Tensor:
        """Projected audio features [num_clips, most features, H] of clips zero-padded to one length.

        transformers insists on 30 s of frames; the tower's own modules do not. Keys beyond a
        clip's end are masked, and the convolutions see the clip's own two margin frames, so the
        features are those of the 30 s pass (2.4e-7 apart in float32).
        """
        tower = self.model.model.audio_tower
        hidden = gelu(tower.conv1(mel.to(tower.conv1.weight.dtype)))
        hidden = gelu(tower.conv2(hidden)).transpose(1, 2)
        lengths = torch.tensor([(n - 1) // 2 + 1 for n in num_mel_frames], device=hidden.device)
        positions = torch.arange(int(lengths.max()), device=hidden.device)
        hidden = hidden[:, : len(positions)] + tower.embed_positions(positions)
        mask = None
        if bool((lengths != len(positions)).any()):
            padding = positions[None, :] >= lengths[:, None]
            mask = hidden.new_zeros(padding.shape).masked_fill(padding, torch.finfo(hidden.dtype).min)
            mask = mask[:, None, None, :].expand(-1, 1, len(positions), -1)
        for layer in tower.layers:
            hidden = layer(hidden, attention_mask=mask)
        hidden = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        features = self.model.model.multi_modal_projector(tower.layer_norm(hidden))
        return features[:, : max(map(num_audio_tokens, num_mel_frames))]


def token_logprobs(
    logits_TV: Tensor, targets_T: Tensor, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target under softmax(logits / temperature), and the entropy there."""
    logits_TV = logits_TV.float() / temperature
    log_normalizer_T = torch.logsumexp(logits_TV, dim=-1)
    logprobs_T = logits_TV.gather(-1, targets_T[:, None])[:, 0] - log_normalizer_T
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        probs_TV = torch.softmax(logits_TV, dim=-1)
        entropy_T = log_normalizer_T - (probs_TV * logits_TV).sum(-1)
    return logprobs_T, entropy_T


def load_model(path: str, dtype: torch.dtype, attn_implementation: str) -> Any:
    """Loads the transformers model in `path`.

    Raises:
        ValueError: no such folder, not a model folder, or a model type that the learner cannot train.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2AudioForConditionalGeneration

    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.path {path} holds no config.json; give a Hugging Face model folder")
    config = AutoConfig.from_pretrained(path)
    if config.model_type not in AUDIO_MODEL_TYPES + TEXT_MODEL_TYPES:
        known = ", ".join(AUDIO_MODEL_TYPES + TEXT_MODEL_TYPES)
        raise ValueError(f"model.path {path} is a {config.model_type} model; the learner trains {known}")
    kind = Qwen2AudioForConditionalGeneration if config.model_type in AUDIO_MODEL_TYPES else AutoModelForCausalLM
    return kind.from_pretrained(path, dtype=dtype, attn_implementation=attn_implementation)


def empty_policy(path: str, train_audio_tower: bool) -> Policy:
    """A policy of shapes alone (torch's meta device), for what can be told before anything is loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2AudioForConditionalGeneration

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        has_audio = config.model_type in AUDIO_MODEL_TYPES
        make: Any = Qwen2AudioForConditionalGeneration if has_audio else AutoModelForCausalLM.from_config
        return Policy(make(config), 1.0, train_audio_tower)
