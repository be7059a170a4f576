"""Attention over packed groups: every response attends to its group's prompt, computed once, and to itself.

A packed row is `[prompt | response 1 | … | response G] [prompt | …]`. Positions of every response go
on from its prompt's end, and nothing crosses groups or responses, so hidden states and gradients
are those of `[prompt | response]` rows computed one by one, to float error, while what all
responses of a group share is computed once instead of G times.

`trainer/attention/` attends so, in ways whose time and memory grow with the attended pairs and not
with the square of the row.

Shapes: L packed length, P prompt tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedGroup:
    """Where one group lies in a packed row.

    Attributes:
        prompt_length: P, at least 1.
        response_lengths: tokens of each response, none of them empty.
    """

    prompt_length: int
    response_lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all responses."""
        return self.prompt_length + sum(self.response_lengths)

    @property
    def num_attended_pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        prompt, lengths = self.prompt_length, self.response_lengths
        own = sum(length * (length + 1) // 2 for length in (prompt, *lengths))
        return own + prompt * sum(lengths)


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed row, in order."""

    groups: tuple[PackedGroup, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and places in each: (1, L)."""
        return 1, sum(group.num_tokens for group in self.groups)

    @property
    def num_responses(self) -> int:
        """Of all groups."""
        return sum(len(group.response_lengths) for group in self.groups)

    @property
    def starts(self) -> list[int]:
        """Where each group starts, counted over all places."""
        return [0, *accumulate(group.num_tokens for group in self.groups)][:-1]

    def position_ids(self) -> Tensor:
        """int64 [places]: positions within each group; those of every response go on from the prompt's end."""
        positions = torch.zeros(math.prod(self.shape), dtype=torch.long)
        for start, group in zip(self.starts, self.groups, strict=True):
            spans = [(0, group.prompt_length)] + [(group.prompt_length, length) for length in group.response_lengths]
            parts = [torch.arange(first, first + length) for first, length in spans]
            positions[start : start + group.num_tokens] = torch.cat(parts)
        return positions

    def predicting_index(self) -> Tensor:
        """int64 [T]: for each response token, at which place the hidden state lies that predicts it.

        A response's first token is predicted by its prompt's last one, which all responses share.
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
    """The ordinary way, for models that packing cannot serve exactly: a row for every prompt and its one response.

    Rows are padded on the right, where no token of a causal model looks.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and tokens of the longest."""
        return len(self.groups), max(group.num_tokens for group in self.groups)

    @property
    def starts(self) -> list[int]:
        """The rows' beginnings."""
        num_rows, longest = self.shape
        return [row * longest for row in range(num_rows)]

    def attention_mask(self) -> Tensor:
        """int64 of `shape`: 1 where there is a token."""
        lengths = torch.tensor([group.num_tokens for group in self.groups])
        return (torch.arange(self.shape[1]) < lengths[:, None]).long()
