"""Which answers are right: the accuracy reward's rule, and the official rule of each benchmark.

A benchmark's rule is about an answer, and says nothing of thoughts and tags. It gets what the response writes in its
last <answer> block; of a response without tags the text after the thoughts. An answer that names an option, by its
letter for example, counts as the option's text, because the letters are those of our prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.evaluation.results import OURS
from ssr1_rl.rewards.accuracy import Accuracy, extract_answer, mmau_match
from ssr1_rl.rewards.choice import named_choice
from ssr1_rl.rewards.folding import fold_case, fold_numbers
from ssr1_rl.types import Completion, Question


@dataclass(frozen=True)
class Reading:
    """What a rule makes of one response."""

    answer: str  # the text of the option that it names, else the answer as it is written; empty if there is none
    is_right: bool
    vote: str  # equal for answers that are the same; empty if there is no answer


class Rule(Protocol):
    """Reads responses."""

    name: str

    def read(self, question: Question, completion: Completion) -> Reading:
        """The answer of a response to a question, and whether it is right."""
        ...


class AccuracyRule:
    """The accuracy reward with its rule "choice": the score of GRPO's validation."""

    name = OURS

    def __init__(self, require_tags: bool) -> None:
        self._accuracy = Accuracy("choice", require_tags)

    def read(self, question: Question, completion: Completion) -> Reading:
        answer = _option_or_text(self._accuracy.answer(completion), question)
        vote = fold_case(answer) if question.choices else fold_numbers(answer)
        return Reading(answer, bool(self._accuracy(question, [completion])[0]), vote)


class AvqaRule:
    """AVQA (Yang et al., ACM MM 2022): the option that is chosen is the right one. A text that names none is wrong."""

    name = "avqa"

    def read(self, question: Question, completion: Completion) -> Reading:
        answer = _option_or_text(final_answer(completion), question)
        return Reading(
            answer, bool(answer) and fold_case(answer) == fold_case(question.ground_truth), fold_case(answer)
        )


class MmauRule:
    """MMAU (arXiv 2410.19168), evaluation.py: on word tokens, see `ssr1_rl.rewards.accuracy.mmau_match`."""

    name = "mmau"

    def read(self, question: Question, completion: Completion) -> Reading:
        answer = _option_or_text(final_answer(completion), question)
        return Reading(answer, mmau_match(answer, question.ground_truth, question.choices), fold_case(answer))


class MusicAvqaRule:
    """MUSIC-AVQA (Li et al., CVPR 2022): the answer's word is the one of its 42 that is right, exactly.

    The official test compares the classes of a classifier. Case and white space are ignored here, and "_" counts as a
    space, because a class is called acoustic_guitar.
    """

    name = "music_avqa"

    def read(self, question: Question, completion: Completion) -> Reading:
        answer = _option_or_text(final_answer(completion), question)
        word = _word(answer)
        return Reading(answer, bool(word) and word == _word(question.ground_truth), word)


OFFICIAL: dict[str, Callable[[], Rule]] = {"avqa": AvqaRule, "mmau": MmauRule, "music_avqa": MusicAvqaRule}
"""The official rule of each benchmark, by the format in which it is distributed."""


def rules_of(dataset: DatasetConfig, require_tags: bool) -> list[Rule]:
    """The rules that score a split; the first one is its official rule if it has one."""
    benchmark = dataset.official_rule or dataset.format
    official = [OFFICIAL[benchmark]()] if benchmark in OFFICIAL else []
    return [*official, AccuracyRule(require_tags)]


def final_answer(completion: Completion) -> str:
    """The last <answer> block; without tags the text after the thoughts. Empty if tags were opened and not closed."""
    text = completion.full_text
    tagged = extract_answer(text, is_complete=completion.finish_reason != "length")
    rest = text.rpartition("</think>")[2]
    is_open = "<answer>" in rest or "<think>" in rest
    return tagged if tagged or is_open else rest.strip()


def _option_or_text(answer: str, question: Question) -> str:
    return named_choice(answer, question.choices) or answer


def _word(text: str) -> str:
    return fold_case(text.replace("_", " "))
