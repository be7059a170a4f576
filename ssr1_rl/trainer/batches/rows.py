"""Rows of prompt and response, and the tensors of one pass over them.

Rows that share a prompt are packed after it, so that prompt and clips are computed once for all of them; see
`ssr1_rl.trainer.batches.layout`.

Shapes: B rows (1 if packed), L their length, _T response tokens of the micro-batch, flattened row by row,
C clips (of audio, or images), N features that the tower makes of all clips.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssr1_rl.algorithm.usable import usable_tokens
from ssr1_rl.trainer.batches.clips import ClipKey, InputOf, stack_clips
from ssr1_rl.trainer.batches.layout import PackedGroup, PackedLayout, PaddedLayout
from ssr1_rl.types import Clip


@dataclass(frozen=True)
class Row:
    """One response with its prompt. Consecutive rows whose `prompt` is the same object are packed."""

    prompt: tuple[int, ...]  # one placeholder token per feature
    clips: tuple[Clip, ...]  # the prompt's clips, in order
    response: tuple[int, ...]  # [T] sampled tokens
    rollout_logprobs: tuple[float, ...]  # [T] as the engine that sampled the tokens reported them, usable or not
    advantage: float  # of every token, unless token_advantages is given
    comparable: bool  # the learner's own policy version sampled every token: engine and learner log-probs must agree
    token_advantages: tuple[float, ...] = ()  # [T] or empty
    in_loss: bool = True  # whether the response is trained on
    old_logprobs: tuple[float, ...] = ()  # [T] of the policy before the step's first update; empty if not needed
    ref_logprobs: tuple[float, ...] = ()  # [T] of the frozen reference; empty if the loss has no KL term
    num_audio_tokens: tuple[int, ...] = ()  # of each clip, as the tower makes them

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt) + len(self.response)

    @property
    def usable(self) -> tuple[bool, ...]:
        """[T] whether each token's log-prob from the engine is usable; the others are not in the loss."""
        return usable_tokens(self.rollout_logprobs)

    @property
    def num_loss_tokens(self) -> int:
        """Tokens in the loss; 0 if the response is masked."""
        return sum(self.usable) if self.in_loss else 0

    @property
    def advantages(self) -> tuple[float, ...]:
        """[T] the advantage of each token."""
        return self.token_advantages or (self.advantage,) * len(self.response)


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one forward and backward pass: one packed row, or rows padded to one length."""

    input_ids: Tensor  # int64 [B, L]
    position_ids: Tensor  # int64 [B, L]
    layout: PackedLayout  # where prompts and responses are in input_ids
    inputs: Tensor  # float32 [C, channels, length] as in ClipBatch; if encoded, the tower's outputs [C, D, features]
    input_lengths: tuple[int, ...]  # [C] as in ClipBatch
    num_audio_tokens: tuple[int, ...]  # [C] placeholders of each clip in the prompts that have it
    feature_columns: Tensor  # int64 [N]: where in the flat [B L] tokens each feature goes
    feature_clips: Tensor  # int64 [N]: which clip each feature comes from
    feature_positions: Tensor  # int64 [N]: which position in that clip
    hidden_index_T: Tensor  # int64 [T]: index into the flat [B L] hidden states; that state predicts the token
    response_index_T: Tensor  # int64 [T]: which of the micro-batch's responses, from 0, each token belongs to
    targets_T: Tensor  # int64 [T]: the response tokens
    rollout_logprobs_T: Tensor  # float32 [T] as in Row; 0 for tokens that are not in the loss
    in_loss_T: Tensor  # bool [T]: whether the engine's log-prob is usable
    old_logprobs_T: Tensor  # float32 [T] or empty, as in Row
    ref_logprobs_T: Tensor  # float32 [T] or empty, as in Row
    advantages_T: Tensor  # float32 [T]
    comparable_T: Tensor  # bool [T] as in Row; False for tokens that are not in the loss
    num_row_tokens: int  # tokens of all rows; a shared prompt counts once per row
    encoded: bool = False  # whether inputs holds outputs of the frozen tower
    weight: float = 1.0  # factor of the loss: 1, or 0 for a filler, which only equalises the number of passes

    @property
    def num_computed_tokens(self) -> int:
        """B L, padding included."""
        return self.input_ids.numel()

    def as_filler(self) -> "MicroBatch":
        """The same pass without any effect on the gradient."""
        return replace(self, weight=0.0)

    def to(self, device: torch.device) -> "MicroBatch":
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def by_prompt(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups consecutive rows that share one prompt."""
    return [list(part) for _, part in itertools.groupby(rows, key=lambda row: id(row.prompt))]


def packed_tokens(rows: Sequence[Row]) -> int:
    """Packed tokens of rows that share one prompt, which counts once."""
    return len(rows[0].prompt) + sum(len(row.response) for row in rows)


def collate(
    rows: Sequence[Row],
    placeholder_id: int,
    input_of: InputOf,
    num_channels: int,
    pack: bool = True,
    encoded: bool = False,
) -> MicroBatch:
    """Builds the tensors of one pass.

    Args:
        placeholder_id: the placeholder's token id (-1 for a text-only model).
        input_of: gives each clip's input [num_channels, length + margin].
        num_channels: channels of an input.
        pack: True packs rows of one prompt after it; False gives each row its own prompt, padded to one length.
        encoded: True if `input_of` gives the frozen tower's output [num_channels, num_features] instead.
    """
    parts = by_prompt(rows) if pack else [[row] for row in rows]
    layout = (PackedLayout if pack else PaddedLayout)(
        tuple(PackedGroup(len(part[0].prompt), tuple(len(r.response) for r in part if r.response)) for part in parts)
    )
    clips: dict[ClipKey, tuple[int, Tensor, int, int]] = {}
    tokens = torch.zeros(math.prod(layout.shape), dtype=torch.long)
    features: list[Tensor] = []
    for start, part in zip(layout.starts, parts, strict=True):
        features.extend(_feature_index(start, part[0], placeholder_id, input_of, clips))
        pieces = itertools.chain(part[0].prompt, *(row.response for row in part))
        tokens[start : start + packed_tokens(part)] = torch.tensor(list(pieces))
    clip_batch = stack_clips([(of_clip, length) for _, of_clip, length, _ in clips.values()], num_channels)
    feature_index = torch.cat(features, dim=1) if features else torch.zeros(3, 0, dtype=torch.long)
    lengths = torch.tensor([len(row.response) for row in rows])
    in_loss_T = torch.tensor([usable for row in rows for usable in row.usable], dtype=torch.bool)
    rollout_logprobs_T = torch.tensor([logprob for row in rows for logprob in row.rollout_logprobs])
    return MicroBatch(
        input_ids=tokens.view(layout.shape),
        position_ids=layout.position_ids().view(layout.shape),
        layout=layout,
        inputs=clip_batch.inputs,
        input_lengths=clip_batch.input_lengths,
        num_audio_tokens=tuple(num_features for *_, num_features in clips.values()),
        feature_columns=feature_index[0],
        feature_clips=feature_index[1],
        feature_positions=feature_index[2],
        hidden_index_T=layout.predicting_index(),
        response_index_T=torch.arange(len(rows)).repeat_interleave(lengths),
        targets_T=torch.tensor([token for row in rows for token in row.response], dtype=torch.long),
        rollout_logprobs_T=rollout_logprobs_T.where(in_loss_T, 0.0),
        in_loss_T=in_loss_T,
        old_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.old_logprobs]),
        ref_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.ref_logprobs]),
        advantages_T=torch.tensor([advantage for row in rows for advantage in row.advantages]),
        comparable_T=torch.tensor([row.comparable for row in rows]).repeat_interleave(lengths) & in_loss_T,
        num_row_tokens=sum(row.num_tokens for row in rows),
        encoded=encoded,
    )


def _feature_index(
    first_column: int,
    row: Row,
    placeholder_id: int,
    input_of: InputOf,
    clips: dict[ClipKey, tuple[int, Tensor, int, int]],
) -> Iterator[Tensor]:
    """For each clip of the prompt that starts at `first_column`: int64 [3, N of the clip], column, clip and position.

    Placeholders are counted in the prompt alone, because a response may also contain the placeholder's id.
    """
    columns = (torch.tensor(row.prompt) == placeholder_id).nonzero()[:, 0]
    start = 0
    for handle, num_features in zip(row.clips, row.num_audio_tokens, strict=True):
        key, of_clip, length = input_of(handle)
        clip, _, _, expected = clips.setdefault(key, (len(clips), of_clip, length, num_features))
        part = columns[start : start + num_features]
        start += num_features
        positions = torch.arange(num_features)
        assert len(part) == num_features == expected, "the prompt has as many placeholders as its clips have features"
        yield torch.stack([first_column + part, torch.full_like(positions, clip), positions])
    assert start == len(columns), "every placeholder of the prompt belongs to a clip"
