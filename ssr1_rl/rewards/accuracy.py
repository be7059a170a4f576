"""The accuracy reward: is the answer inside <answer> </answer> the right one?

There are two rules. "choice" is strict: the answer has to be one option (its letter, number or text) or, for an open
question, the ground truth's text or number. "mmau" is the token rule of MMAU's official evaluation, for scores that can
be compared with published ones. Every response scores 1 or 0; only a question that cannot be scored (its ground truth
is not one of its choices) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ssr1_rl.rewards.choice import choice_match
from ssr1_rl.types import Completion, Question

# A block contains no tags: in "<answer> I take <answer>B</answer>" the block is "B".
_ANSWER_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_MMAU_TOKEN = re.compile(r"\b\w+\b")


def extract_answer(text: str, require_tags: bool = True, is_complete: bool = True) -> str:
    """Returns the content of the last <answer> block.

    A last block that is not closed ends with the text if that `is_complete`: a text that was cut at the token limit
    may lack the end of its answer. Without a block: empty if `require_tags`, else the text after the last </think> (the
    whole text if there is none).
    """
    _, opening, unclosed = text.rpartition("<answer>")
    if opening and is_complete and "</answer>" not in unclosed and "</think>" not in unclosed:
        return unclosed.strip()
    blocks = _ANSWER_BLOCK.findall(text)
    if blocks:
        return blocks[-1].strip()
    return "" if require_tags else text.rpartition("</think>")[2].strip()


def mmau_match(prediction: str, ground_truth: str, choices: Sequence[str]) -> bool:
    """MMAU's official rule (arXiv 2410.19168, evaluation.py), on sets of lower-case word tokens.

    The prediction is right if it contains every token of the answer, and no token of another choice
    that is not also in the answer. An empty prediction is wrong.
    """
    predicted, answer = _mmau_tokens(prediction), _mmau_tokens(ground_truth)
    wrong = {token for choice in choices for token in _mmau_tokens(choice)} - answer
    return bool(predicted) and answer <= predicted and predicted.isdisjoint(wrong)


class Accuracy:
    """1.0 for a right answer, else 0.0. An <answer> tag that the prompt has opened counts as opened.

    Args:
        match: "choice" (letter, number or text of one option) or "mmau" (the official token rule).
        require_tags: whether a response without an <answer> block is wrong; else the text after </think> is its answer.
    """

    def __init__(self, match: str = "choice", require_tags: bool = True) -> None:
        rules: dict[str, Callable[[str, str, Sequence[str]], bool]] = {"choice": choice_match, "mmau": mmau_match}
        if match not in rules:
            raise ValueError(f"match must be one of {sorted(rules)}, got {match!r}")
        if not isinstance(require_tags, bool):
            raise ValueError(f"require_tags must be true or false, got {require_tags!r}")
        self._is_match = rules[match]
        self._require_tags = require_tags

    def __call__(self, question: Question, completions: Sequence[Completion]) -> list[float]:
        return [float(self._is_right(question, completion)) for completion in completions]

    def answer(self, completion: Completion) -> str:
        """The answer that a response gives, as it is written there; empty if it gives none."""
        return extract_answer(completion.full_text, self._require_tags, completion.finish_reason != "length")

    def _is_right(self, question: Question, completion: Completion) -> bool:
        return self._is_match(self.answer(completion), question.ground_truth, question.choices)


def _mmau_tokens(text: str) -> set[str]:
    return set(_MMAU_TOKEN.findall(text.lower()))
