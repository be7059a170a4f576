"""Rows of prompt and response -> the tensors of one pass.

Shapes: L packed length, _T response tokens of the micro-batch, flattened row by row.

Rows of one prompt are packed behind it, so that prompt and audio are computed once for
all of them; see `ssr1_rl.trainer.batches.layout`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.layout import PackedGroup, PackedLayout, PaddedLayout


@dataclass(frozen=True)
class Row:
    """One response to be trained on.

    Attributes:
        prompt: expanded prompt tokens (one placeholder token per audio feature). Rows that follow each
            other with the very same object are packed behind one prompt.
        clips: handles of the prompt's clips, in order.
        rollout_logprobs: of the response's tokens, as the engine that sampled them reported.
        advantage: of every token, unless `token_advantages` has one for each.
        comparable: whether every token was sampled by the learner's own policy version,
            so that engine and learner log-probs must agree.
        in_loss: whether the response is trained on.
        old_logprobs: of the learner's own policy before the step's first update, where that was asked; else empty.
        ref_logprobs: of the frozen reference, where the loss has a KL term; else empty.
        num_audio_tokens: how many tokens the audio tower makes of each clip.
    """

    prompt: tuple[int, ...]
    clips: tuple[Any, ...]
    response: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    advantage: float
    comparable: bool
    token_advantages: tuple[float, ...] = ()
    in_loss: bool = True
    old_logprobs: tuple[float, ...] = ()
    ref_logprobs: tuple[float, ...] = ()
    num_audio_tokens: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt) + len(self.response)

    @property
    def advantages(self) -> tuple[float, ...]:
        """The advantage of each token."""
        return self.token_advantages or (self.advantage,) * len(self.response)


@dataclass(frozen=True)
class ClipBatch:
    """Clips for the audio tower.

    Attributes:
        mel: float32 [num_clips, num_mel_bins, frames], zero-padded; two frames of margin behind each clip.
        num_mel_frames: frames of each clip, without margin.
    """

    mel: Tensor
    num_mel_frames: tuple[int, ...]

    def to(self, device: torch.device) -> "ClipBatch":
        """The same on `device`."""
        return ClipBatch(self.mel.to(device), self.num_mel_frames)


def stack_clips(clips: Sequence[tuple[Tensor, int]], num_mel_bins: int) -> ClipBatch:
    """Log-mel features [num_mel_bins, frames + margin] with each clip's number of frames, padded to one length."""
    longest = max((mel.shape[-1] for mel, _ in clips), default=0)
    stacked = torch.zeros(len(clips), num_mel_bins, longest)
    for row, (mel, _) in zip(stacked, clips, strict=True):
        row[:, : mel.shape[-1]] = mel
    return ClipBatch(stacked, tuple(num_frames for _, num_frames in clips))


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one forward and backward pass: one packed row, or rows padded to one length.

    Attributes:
        input_ids, position_ids: int64 [B, L], B = 1 where packed.
        layout: where prompts and responses lie in it.
        mel, num_mel_frames: see `ClipBatch`; empty without audio.
        encoded: whether `mel` holds what the frozen tower made of it, [num_clips, D, most features].
        audio_columns, audio_clips, audio_positions: int64 [num_features]; where in
            the flat `input_ids` each audio feature goes, and which clip and position it comes from.
        hidden_index_T: int64, index into [B L] of the hidden state that predicts each response token.
        response_index_T: int64, which of the micro-batch's responses (0 up) each response token belongs to.
        targets_T, rollout_logprobs_T, old_logprobs_T, ref_logprobs_T, advantages_T: of each response token; see
            `Row` (old and reference ones are empty where rows have none).
        comparable_T: bool, see `Row`.
        num_row_tokens: tokens of all rows, the prompt counted for each of them.
        weight: 1, or 0 for a filler that keeps ranks in step.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: PackedLayout
    mel: Tensor
    num_mel_frames: tuple[int, ...]
    audio_columns: Tensor
    audio_clips: Tensor
    audio_positions: Tensor
    hidden_index_T: Tensor
    response_index_T: Tensor
    targets_T: Tensor
    rollout_logprobs_T: Tensor
    old_logprobs_T: Tensor
    ref_logprobs_T: Tensor
    advantages_T: Tensor
    comparable_T: Tensor
    num_row_tokens: int
    encoded: bool = False
    weight: float = 1.0

    @property
    def num_computed_tokens(self) -> int:
        """B L: what the pass computes."""
        return self.input_ids.numel()

    def as_filler(self) -> "MicroBatch":
        """The same pass without any effect on the gradient."""
        return replace(self, weight=0.0)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def by_prompt(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that follow each other behind one prompt, together."""
    return [list(part) for _, part in itertools.groupby(rows, key=lambda row: id(row.prompt))]


def packed_tokens(rows: Sequence[Row]) -> int:
    """Tokens of rows that share one prompt, the prompt counted once."""
    return len(rows[0].prompt) + sum(len(row.response) for row in rows)


def collate(
    rows: Sequence[Row],
    placeholder_id: int,
    mel_of: Callable[[Any], tuple[Any, Tensor, int]],
    num_mel_bins: int,
    pack: bool = True,
    encoded: bool = False,
) -> MicroBatch:
    """Rows as tensors.

    Args:
        placeholder_id: the audio placeholder's token id (-1 for a text-only model).
        mel_of: gives for a clip's handle a key (the same for the same clip), its log-mel
            [num_mel_bins, frames + margin] and its number of frames.
        pack: rows of one prompt behind it, once; else each has its own, and all are padded to one length.
        encoded: `mel_of` gives a frozen tower's output [D, num_features] in place of log-mel; `num_mel_bins` is D.
    """
    parts = by_prompt(rows) if pack else [[row] for row in rows]
    layout = (PackedLayout if pack else PaddedLayout)(
        tuple(PackedGroup(len(part[0].prompt), tuple(len(r.response) for r in part if r.response)) for part in parts)
    )
    clips: dict[Any, tuple[int, Tensor, int]] = {}
    tokens = torch.zeros(math.prod(layout.shape), dtype=torch.long)
    audio: list[Tensor] = []
    for start, part in zip(layout.starts, parts, strict=True):
        audio.extend(_audio_index(start, part[0], placeholder_id, mel_of, clips))
        pieces = itertools.chain(part[0].prompt, *(row.response for row in part))
        tokens[start : start + packed_tokens(part)] = torch.tensor(list(pieces))
    clip_batch = stack_clips([(mel, num_frames) for _, mel, num_frames in clips.values()], num_mel_bins)
    audio_index = torch.cat(audio, dim=1) if audio else torch.zeros(3, 0, dtype=torch.long)
    lengths = torch.tensor([len(row.response) for row in rows])
    return MicroBatch(
        input_ids=tokens.view(layout.shape),
        position_ids=layout.position_ids().view(layout.shape),
        layout=layout,
        mel=clip_batch.mel,
        num_mel_frames=clip_batch.num_mel_frames,
        audio_columns=audio_index[0],
        audio_clips=audio_index[1],
        audio_positions=audio_index[2],
        hidden_index_T=layout.predicting_index(),
        response_index_T=torch.arange(len(rows)).repeat_interleave(lengths),
        targets_T=torch.tensor([token for row in rows for token in row.response], dtype=torch.long),
        rollout_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.rollout_logprobs]),
        old_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.old_logprobs]),
        ref_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.ref_logprobs]),
        advantages_T=torch.tensor([advantage for row in rows for advantage in row.advantages]),
        comparable_T=torch.tensor([row.comparable for row in rows]).repeat_interleave(lengths),
        num_row_tokens=sum(row.num_tokens for row in rows),
        encoded=encoded,
    )


def _audio_index(
    first_column: int,
    row: Row,
    placeholder_id: int,
    mel_of: Callable[[Any], tuple[Any, Tensor, int]],
    clips: dict[Any, tuple[int, Tensor, int]],
) -> Iterator[Tensor]:
    """int64 [3, num_features] per clip of a prompt that starts at `first_column`: column, clip, position.

    Only the prompt's placeholders count: a response may sample the placeholder's id as well.
    """
    columns = (torch.tensor(row.prompt) == placeholder_id).nonzero()[:, 0]
    start = 0
    for handle, num_features in zip(row.clips, row.num_audio_tokens, strict=True):
        key, mel, num_frames = mel_of(handle)
        clip = clips.setdefault(key, (len(clips), mel, num_frames))[0]
        part = columns[start : start + num_features]
        start += num_features
        positions = torch.arange(num_features)
        assert len(part) == num_features, "the prompt was expanded for this very clip"
        yield torch.stack([first_column + part, torch.full_like(positions, clip), positions])
    assert start == len(columns), "every placeholder of the prompt belongs to a clip"
