"""Rows of the sight world's data sets, and the responses that models learn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssr1_rl.data.choices import choice_labels
from ssr1_rl.demo.sightworld.chains import listing, response
from ssr1_rl.demo.sightworld.claims import CLAIM_QUESTION, VERDICTS, draw_claim
from ssr1_rl.demo.sightworld.questions import KINDS, ONE_STEP_KINDS, Asked, answer_to, worded


@dataclass(frozen=True)
class Row:
    """One question about a clip."""

    clip: str  # its name; empty for a question without a clip
    text: str
    choices: tuple[str, ...]
    answer: str  # one of the choices
    kind: str
    response: str  # what a model learns to respond, in a split that one learns from

    def as_avqa(self, question_id: int) -> dict[str, object]:
        """One object of AVQA's array."""
        return {
            "id": question_id,
            "video_name": self.clip,
            "video_id": question_id,
            "question_text": self.text,
            "multi_choice": self.choices,
            "answer": self.choices.index(self.answer),
            "question_relation": "Sound",
            "question_type": self.kind,
        }

    def as_jsonl(self, question_id: int) -> dict[str, object]:
        """One line of this project's own format."""
        return {
            "id": str(question_id),
            "question": self.text,
            "choices": self.choices,
            "answer": self.answer,
            "audio": [f"{self.clip}.wav"] if self.clip else [],
            "kind": self.kind,
        }


def question_row(split: str, clip: str, asked: Asked, sounds: tuple[str, ...], rng: np.random.Generator) -> Row:
    """A question about `sounds`, with its choices in random order.

    Without a clip the question tells the sounds. A question of one step is learned with its answer alone.
    """
    answer = answer_to(asked, sounds)
    assert answer is not None, "the question was made for these sounds"
    unseen = split == "unseen_questions"
    wrong = [option for option in (KINDS | ONE_STEP_KINDS)[asked.kind].options if option != answer]
    if unseen and len(wrong) > 1:
        # Sets of choices never trained on: one or two wrong ones instead of all three.
        wrong = [wrong[i] for i in rng.permutation(len(wrong))[: rng.integers(1, len(wrong))]]
    choices = [*wrong, answer]
    text = worded(asked, rng, unseen)
    return Row(
        clip,
        text if clip else f"{listing(sounds)} {text}",
        tuple(choices[i] for i in rng.permutation(len(choices))),
        answer,
        asked.kind,
        f"<answer> {answer} </answer>" if asked.kind in ONE_STEP_KINDS else response(asked, sounds),
    )


def claim_row(clip: str, sounds: tuple[str, ...], rng: np.random.Generator) -> Row:
    """A claim about `sounds`. The response is the letter of the verdict, which is what a verifier is asked for.

    Without a clip the question tells the sounds.
    """
    claim = draw_claim(sounds, rng)
    letter = choice_labels(len(VERDICTS))[VERDICTS.index(claim.verdict)]
    text = CLAIM_QUESTION.format(claim=claim.text)
    return Row(clip, text if clip else f"{listing(sounds)} {text}", VERDICTS, claim.verdict, "claim", letter)
