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

from dataclasses import dataclass

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


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed row, in order."""

    groups: tuple[PackedGroup, ...]

    def position_ids(self) -> Tensor:
        """int64 [L]: positions within each group; those of every response go on from the prompt's end."""
        parts = [
            torch.arange(start, start + length)
            for group in self.groups
            for start, length in [(0, group.prompt_length)]
            + [(group.prompt_length, length) for length in group.response_lengths]
        ]
        return torch.cat(parts)

    def predicting_index(self) -> Tensor:
        """int64 [T]: for each response token, where in the row the hidden state lies that predicts it.

        A response's first token is predicted by its prompt's last one, which all responses share.
        """
        parts: list[Tensor] = []
        start = 0
        for group in self.groups:
            prompt_end = start = start + group.prompt_length
            for length in group.response_lengths:
                parts += [torch.tensor([prompt_end - 1]), torch.arange(start, start + length - 1)]
                start += length
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
