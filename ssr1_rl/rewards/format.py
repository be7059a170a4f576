"""The format reward: is the response <think> … </think> <answer> … </answer>?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssr1_rl.types import Completion, Question

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_RESPONSE = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


class Format:
    """1.0 for a well-formed response: <think>…</think><answer>…</answer>.

    Well-formed means that each tag occurs once and in this order, neither part is empty, and only white space is
    around and between them. Tags that the prompt has opened belong to the response; a <think> part that the prompt
    also closes may be empty. Anything else scores 0.0, or with `partial_credit` 0.25 for each tag that occurs once, at
    most 0.75.
    """

    def __init__(self, partial_credit: bool = False) -> None:
        if not isinstance(partial_credit, bool):
            raise ValueError(f"partial_credit must be true or false, got {partial_credit!r}")
        self._partial_credit = partial_credit

    def __call__(self, question: Question, completions: Sequence[Completion]) -> list[float]:
        return [self._score(completion.full_text, completion.prefill) for completion in completions]

    def _score(self, text: str, prefill: str) -> float:
        num_single_tags = sum(text.count(tag) == 1 for tag in _TAGS)
        response = _RESPONSE.fullmatch(text)
        if num_single_tags == len(_TAGS) and response:
            thought, answer = response.groups()
            if answer.strip() and (thought.strip() or "</think>" in prefill):
                return 1.0
        return min(0.75, 0.25 * num_single_tags) if self._partial_credit else 0.0
