"""Prefix packing: where the prompts and responses of groups are in a pass, and which positions they have.

A packed row is `[prompt | response 1 | … | response G] [prompt | …]`. A response attends to its group's prompt and to
itself, and its positions continue from the prompt's end. So hidden states and gradients equal those of separate
`[prompt | response]` rows to float error, while a prompt is computed once instead of G times. The attention itself is
in `ssr1_rl.trainer.attention`; its cost grows with the attended pairs, not with the square of the row's length.

Shapes: B rows, L their length, P prompt tokens, _T response tokens of all groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedGroup:
    """The lengths of one group's prompt and responses."""

    prompt_length: int  # P, at least 1
    response_lengths: tuple[int, ...]  # [G], each at least 1

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all responses."""
        return self.prompt_length + sum(self.response_lengths)

    @property
    def num_attended_pairs(self) -> int:
        """Pairs of a query and an attended key: P (P + 1) / 2, plus R (R + 1) / 2 + P R per response of R tokens."""
        prompt, lengths = self.prompt_length, self.response_lengths
        own = sum(length * (length + 1) // 2 for length in (prompt, *lengths))
        return own + prompt * sum(lengths)


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed row, in order."""

    groups: tuple[PackedGroup, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L), with B = 1."""
        return 1, sum(group.num_tokens for group in self.groups)

    @property
    def num_responses(self) -> int:
        """Responses of all groups."""
        return sum(len(group.response_lengths) for group in self.groups)

    @property
    def starts(self) -> list[int]:
        """Index into the flat [B L] tokens at which each group starts."""
        return [0, *accumulate(group.num_tokens for group in self.groups)][:-1]

    def position_ids(self) -> Tensor:
        """int64 [B L]: positions within each group; those of every response continue from the prompt's end."""
        positions = torch.zeros(math.prod(self.shape), dtype=torch.long)
        for start, group in zip(self.starts, self.groups, strict=True):
            spans = [(0, group.prompt_length)] + [(group.prompt_length, length) for length in group.response_lengths]
            parts = [torch.arange(first, first + length) for first, length in spans]
            positions[start : start + group.num_tokens] = torch.cat(parts)
        return positions

    def predicting_index(self) -> Tensor:
        """int64 [T]: for each response token, the index into the flat [B L] hidden states of the one that predicts it.

        The prompt's last token predicts the first token of every response.
        """
        parts: list[Tensor] = []
        for start, group in zip(self.starts, self.groups, strict=True):
            prompt_end = start = start + group.prompt_length
            for length in group.response_lengths:
                parts += [torch.tensor([prompt_end - 1]), torch.arange(start, start + length - 1)]
                start += length
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class PaddedLayout(PackedLayout):
    """One row per response, each with its own prompt, for models whose attention cannot be packed exactly.

    Rows are padded on the right, which no token of a causal model attends to.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L), with L the tokens of the longest row."""
        return len(self.groups), max(group.num_tokens for group in self.groups)

    @property
    def starts(self) -> list[int]:
        num_rows, longest = self.shape
        return [row * longest for row in range(num_rows)]

    def attention_mask(self) -> Tensor:
        """int64 [B, L]: 1 for a token, 0 for padding."""
        lengths = torch.tensor([group.num_tokens for group in self.groups])
        return (torch.arange(self.shape[1]) < lengths[:, None]).long()
