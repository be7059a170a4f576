"""Cuts groups into padded micro-batches within a token budget, and shares groups among ranks.

Shapes: _B rows (responses), L padded row length, _T response tokens of the
micro-batch, flattened row by row.

Rows are padded on the right. Attention is causal, so no real token ever sees
padding and no attention mask is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssr1_rl.types import TrainGroup


@dataclass(frozen=True)
class Row:
    """One response to be trained on.

    Attributes:
        prompt: expanded prompt tokens (one placeholder token per audio feature).
        clips: handles of the prompt's clips, in order.
        comparable: whether every token was sampled by the learner's own policy version,
            so that engine and learner log-probs must agree.
    """

    prompt: tuple[int, ...]
    clips: tuple[Any, ...]
    response: tuple[int, ...]
    old_logprobs: tuple[float, ...]
    advantage: float
    comparable: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class MicroBatch:
    """Padded tensors of one forward and backward pass.

    Attributes:
        input_ids: int64 [B, L].
        mel: float32 [num_clips, num_mel_bins, frames], zero-padded; empty without audio.
        num_mel_frames: frames of each clip, without margin.
        audio_rows, audio_columns, audio_clips, audio_positions: int64 [num_features]; where in
            `input_ids` each audio feature goes, and which clip and position it comes from.
        hidden_index_T: int64, index into [B * L] of the hidden state that predicts each response token.
        targets_T, old_logprobs_T, advantages_T: of each response token.
        comparable_T: bool, see `Row`.
        num_row_tokens: tokens without padding.
        weight: 1, or 0 for a filler that keeps ranks in step.
    """

    input_ids: Tensor
    mel: Tensor
    num_mel_frames: tuple[int, ...]
    audio_rows: Tensor
    audio_columns: Tensor
    audio_clips: Tensor
    audio_positions: Tensor
    hidden_index_T: Tensor
    targets_T: Tensor
    old_logprobs_T: Tensor
    advantages_T: Tensor
    comparable_T: Tensor
    num_row_tokens: int
    weight: float = 1.0

    @property
    def num_padded_tokens(self) -> int:
        """Tokens computed, padding included."""
        return self.input_ids.numel()

    def as_filler(self) -> "MicroBatch":
        """The same pass without any effect on the gradient."""
        return replace(self, weight=0.0)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def rows_to_train(rows: Sequence[Row], keep_all: bool) -> list[Row]:
    """Leaves out rows without gradient: empty responses, and (unless `keep_all`) advantages of 0.

    They count in the loss's denominator all the same, so the gradient is exactly that of
    all rows. One row stays in any case, so that every rank has a pass to run.
    """
    kept = [row for row in rows if row.response and (keep_all or row.advantage != 0.0)]
    return kept or [row for row in rows if row.response][:1]


def cut_micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows in order of length, as many at a time as fit into `max_tokens` padded tokens (one at least)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.num_tokens, reverse=True):
        # The first row is the longest: it sets the padded length of the batch.
        if batch and (len(batch) + 1) * batch[0].num_tokens > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def collate(
    rows: Sequence[Row], placeholder_id: int, mel_of: Callable[[Any], tuple[Any, Tensor, int]], num_mel_bins: int
) -> MicroBatch:
    """Pads rows into tensors.

    Args:
        placeholder_id: the audio placeholder's token id (-1 for a text-only model).
        mel_of: gives for a clip's handle a key (the same for the same clip), its log-mel
            [num_mel_bins, frames + margin] and its number of frames.
    """
    length = max(row.num_tokens for row in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    clips: dict[Any, tuple[int, Tensor, int]] = {}
    audio: list[Tensor] = []
    hidden_index: list[Tensor] = []
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.prompt + row.response)
        input_ids[index, : len(tokens)] = tokens
        start = index * length + len(row.prompt) - 1
        hidden_index.append(torch.arange(start, start + len(row.response)))
        audio.extend(_audio_index(index, row, placeholder_id, mel_of, clips))
    frames = [mel.shape[-1] for _, mel, _ in clips.values()]
    mel_batch = torch.zeros(len(clips), num_mel_bins, max(frames, default=0))
    for index, mel, _ in clips.values():
        mel_batch[index, :, : mel.shape[-1]] = mel
    audio_index = torch.cat(audio, dim=1) if audio else torch.zeros(4, 0, dtype=torch.long)
    lengths = torch.tensor([len(row.response) for row in rows])
    return MicroBatch(
        input_ids=input_ids,
        mel=mel_batch,
        num_mel_frames=tuple(num_frames for _, _, num_frames in clips.values()),
        audio_rows=audio_index[0],
        audio_columns=audio_index[1],
        audio_clips=audio_index[2],
        audio_positions=audio_index[3],
        hidden_index_T=torch.cat(hidden_index),
        targets_T=torch.tensor([token for row in rows for token in row.response]),
        old_logprobs_T=torch.tensor([logprob for row in rows for logprob in row.old_logprobs]),
        advantages_T=torch.tensor([row.advantage for row in rows]).repeat_interleave(lengths),
        comparable_T=torch.tensor([row.comparable for row in rows]).repeat_interleave(lengths),
        num_row_tokens=sum(row.num_tokens for row in rows),
    )


def _audio_index(
    index: int,
    row: Row,
    placeholder_id: int,
    mel_of: Callable[[Any], tuple[Any, Tensor, int]],
    clips: dict[Any, tuple[int, Tensor, int]],
) -> Iterator[Tensor]:
    """int64 [4, num_features] per clip of a row: row, column, clip, position.

    Only the prompt's placeholders count: a response may sample the placeholder's id as well.
    """
    from ssr1_rl.data.prompt import num_audio_tokens

    columns = (torch.tensor(row.prompt) == placeholder_id).nonzero()[:, 0]
    start = 0
    for handle in row.clips:
        key, mel, num_frames = mel_of(handle)
        clip = clips.setdefault(key, (len(clips), mel, num_frames))[0]
        num_features = num_audio_tokens(num_frames)
        part = columns[start : start + num_features]
        start += num_features
        positions = torch.arange(num_features)
        assert len(part) == num_features, "the prompt was expanded for this very clip"
        yield torch.stack([torch.full_like(positions, index), part, torch.full_like(positions, clip), positions])
    assert start == len(columns), "every placeholder of the prompt belongs to a clip"


def share_minibatches(
    groups: Sequence[TrainGroup], num_minibatches: int, num_ranks: int
) -> list[list[list[TrainGroup]]]:
    """For each rank its share of each mini-batch.

    Mini-batches are cut in the order of the groups before they are shared, so that what an
    update trains on does not depend on the number of ranks.
    """
    size = len(groups) // num_minibatches
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [list(shares) for shares in zip(*(share_groups(part, num_ranks) for part in parts), strict=True)]


def share_groups(groups: Sequence[TrainGroup], num_ranks: int) -> list[list[TrainGroup]]:
    """Shares groups among ranks: equally many for each, and as equal in tokens as a greedy pass makes them."""
    assert len(groups) % num_ranks == 0, "checked by the configuration"
    shares: list[list[TrainGroup]] = [[] for _ in range(num_ranks)]
    costs = [0] * num_ranks
    capacity = len(groups) // num_ranks
    for group in sorted(groups, key=num_train_tokens, reverse=True):
        rank = min((r for r in range(num_ranks) if len(shares[r]) < capacity), key=lambda r: costs[r])
        shares[rank].append(group)
        costs[rank] += num_train_tokens(group)
    return shares


def num_train_tokens(group: TrainGroup) -> int:
    """Tokens of all rows of a group, the audio's not expanded."""
    return len(group.responses) * len(group.prompt_token_ids) + sum(map(len, group.responses))
