"""Chains -> questions about their claims -> requests; and the answers to them -> verdicts.

Each different claim about a clip is asked once, however many chains make it. The questions of one clip stand together,
so that an engine computes the clip once. A question is answered with one token, sampled among the letters of the
verdicts, and its log-probs are the verdict.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.verifier import VerifierConfig
from ssr1_rl.data.audio import as_clip, load_waveform
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.distill.verification.claims import split_claims
from ssr1_rl.distill.verification.letters import letter_tokens
from ssr1_rl.distill.verification.verdicts import OUTCOMES, Judgement, Verdict, normalised
from ssr1_rl.errors import UserError
from ssr1_rl.inference.request import Answer, Request, Row
from ssr1_rl.types import AudioRef, Question

NO_CLAIMS = "no claims"


@dataclass(frozen=True)
class ToJudge:
    """One chain and the question with the clip that it is about."""

    key: str  # unique among the chains that are judged together
    question: Question
    thoughts: str


@dataclass(frozen=True)
class Asked:
    """What is asked about a set of chains."""

    rows: list[Row]
    claims: Mapping[str, tuple[str, ...]]  # of each chain, by its key; empty if it is not judged
    unjudged: Mapping[str, str]  # why, by the chain's key


def questions_about(chains: Sequence[ToJudge], verifier: VerifierConfig) -> Asked:
    """The claims of every chain, and the requests that judge them."""
    claims: dict[str, tuple[str, ...]] = {}
    unjudged: dict[str, str] = {}
    by_clip: dict[tuple[str, ...], dict[str, Row]] = {}
    for chain in chains:
        found, reason = _claims_of(chain, verifier)
        claims[chain.key] = found
        if reason:
            unjudged[chain.key] = reason
            continue
        paths = tuple(ref.path for ref in chain.question.audio)
        rows = by_clip.setdefault(paths, {})
        for claim in found:
            for order in range(verifier.num_orders):
                key = row_key(paths, claim, order)
                rows[key] = {"key": key, "claim": claim, "order": order, "audio": list(paths)}
    return Asked([row for rows in by_clip.values() for row in rows.values()], claims, unjudged)


def _claims_of(chain: ToJudge, verifier: VerifierConfig) -> tuple[tuple[str, ...], str]:
    """The chain's claims, or why it is not judged."""
    if not chain.question.audio:
        return (), "its question has no audio"
    if verifier.method == "chain":
        whole = " ".join(chain.thoughts.split())
        return ((whole,), "") if whole else ((), NO_CLAIMS)
    found = tuple(split_claims(chain.thoughts, verifier.claim_pattern))
    if len(found) > verifier.max_claims:
        return (), f"{len(found)} claims, more than verifier.max_claims={verifier.max_claims}"
    return found, "" if found else NO_CLAIMS


def row_key(paths: Sequence[str], claim: str, order: int) -> str:
    """Names one question about a claim."""
    text = json.dumps([list(paths), claim, order])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def judgements(
    chains: Sequence[ToJudge], asked: Asked, answers: Mapping[str, Answer], letters: Sequence[int], num_orders: int
) -> dict[str, Judgement]:
    """What the answers say about each chain, by its key."""
    found: dict[str, Judgement] = {}
    for chain in chains:
        if chain.key in asked.unjudged:
            found[chain.key] = Judgement(error=asked.unjudged[chain.key])
            continue
        paths = [ref.path for ref in chain.question.audio]
        verdicts: list[Verdict] = []
        error = ""
        for claim in asked.claims[chain.key]:
            given = [answers[row_key(paths, claim, order)] for order in range(num_orders)]
            error = error or next((answer.error for answer in given if answer.error), "")
            if not error:
                logprobs = [_in_order_of_outcomes(answer, letters, order) for order, answer in enumerate(given)]
                verdicts.append(Verdict(claim, *normalised(logprobs)))
        found[chain.key] = Judgement(error=error, is_failed=True) if error else Judgement(tuple(verdicts))
    return found


def _in_order_of_outcomes(answer: Answer, letters: Sequence[int], order: int) -> list[float]:
    by_letter = [answer.first_logprobs[letter] for letter in letters]
    return [by_letter[choices_in_order(order).index(outcome)] for outcome in range(len(OUTCOMES))]


def choices_in_order(order: int) -> list[int]:
    """Which outcome stands at each letter: over orders 0, 1 and 2 each stands at each letter once."""
    return [(position + order) % len(OUTCOMES) for position in range(len(OUTCOMES))]


def as_question(verifier: VerifierConfig, claim: str, order: int = 0, paths: Sequence[str] = ()) -> Question:
    """The question about one claim, with the verdicts as its choices."""
    return Question(
        id=claim,
        text=verifier.question.replace("{claim}", claim),
        ground_truth="",
        choices=tuple(verifier.verdicts[outcome] for outcome in choices_in_order(order)),
        audio=tuple(map(AudioRef, paths)),
        source=f"claim {claim[:80]!r} about {', '.join(paths)}",
    )


class ClaimQuestion:
    """Makes the request of one row of `questions_about`; see `ToRequest`."""

    def __init__(self, config: Config) -> None:
        self._settings = pickle.dumps((config.verifier, prompt_settings(config)))

    def __call__(self, row: Row) -> Request:
        return _asker(self._settings).request(row)

    def letters(self) -> list[int]:
        """The tokens of the verdicts' letters.

        Raises:
            UserError: the model's tokenizer or template has none.
        """
        return _asker(self._settings).letters

    def example(self, row: Row) -> str:
        """The prompt of a row, in text."""
        asker = _asker(self._settings)
        text = asker.builder.tokenizer.decode(list(asker.request(row).token_ids))
        assert isinstance(text, str), "one prompt is one text"
        return text


def prompt_settings(config: Config) -> DataConfig:
    """The settings of the verifier's prompts, as `PromptBuilder` reads them."""
    verifier = config.verifier
    return dataclasses.replace(
        config.data,
        system_prompt=verifier.system_prompt,
        instruction=verifier.instruction,
        chat_template_kwargs=verifier.chat_template_kwargs,
        replace_video_by_audio=False,
    )


@functools.lru_cache(maxsize=1)
def _asker(settings: bytes) -> _Asker:
    """Kept in each worker process, because a tokenizer takes a second to load."""
    return _Asker(*pickle.loads(settings))


class _Asker:
    def __init__(self, verifier: VerifierConfig, data: DataConfig) -> None:
        self._verifier, self._data = verifier, data
        self.builder = PromptBuilder(verifier.model, data)
        if self.builder.family is None:
            raise UserError(f"verifier.model {verifier.model} hears nothing: give an audio-language model")
        # The end of every prompt is the same: what the template writes after the user's message.
        silent = self.builder.prepare(as_question(verifier, ""), (), ())
        self.letters = letter_tokens(self.builder, silent.token_ids, len(verifier.verdicts), verifier.model)

    def request(self, row: Row) -> Request:
        claim, order, paths = row["claim"], row["order"], row["audio"]
        assert isinstance(claim, str) and isinstance(order, int) and isinstance(paths, list)
        waveforms = [_waveform(path, *self._audio_settings()) for path in paths]
        lengths = [len(waveform) for waveform in waveforms]
        question = as_question(self._verifier, claim, order, paths)
        prepared = self.builder.prepare(question, list(map(as_clip, waveforms)), lengths)
        return Request(
            token_ids=prepared.token_ids,
            waveforms=tuple(waveforms),
            max_response_tokens=1,
            allowed_token_ids=tuple(self.letters),
        )

    def _audio_settings(self) -> tuple[float, str, str]:
        return self._data.max_audio_s, self._data.long_audio, self._data.truncated_audio


@functools.lru_cache(maxsize=4)
def _waveform(path: str, max_audio_s: float, long_audio: str, truncated_audio: str) -> np.ndarray:
    """Kept, because the next rows are about the same clip."""
    return load_waveform(
        AudioRef(path), max_audio_s=max_audio_s, long_audio=long_audio, truncated_audio=truncated_audio
    )
