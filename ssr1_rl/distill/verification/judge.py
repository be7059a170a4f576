"""Judges chains by the settings' method, with answers that are kept in a folder; `verify` and `calibrate` call it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.model_path import check_model_folder
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.distill.asked import with_setup
from ssr1_rl.distill.verification import depends_on
from ssr1_rl.distill.verification.claim_questions import ClaimQuestion, ToJudge, judgements, questions_about
from ssr1_rl.distill.verification.custom_verifier import CustomVerifier, from_answer, no_request, rows_for
from ssr1_rl.distill.verification.verdicts import Judgement
from ssr1_rl.inference.answers import answer_all
from ssr1_rl.inference.engines import VllmBackend
from ssr1_rl.inference.request import Answer, Backend, Row, ToRequest


@dataclass(frozen=True)
class Judged:
    """What a verifier said about a set of chains."""

    judgements: Mapping[str, Judgement]  # by the chain's key
    num_asked: int  # requests, those of earlier starts included


@dataclass(frozen=True)
class _Asking:
    """What is asked, who answers, and how the answers are read."""

    rows: Sequence[Row]
    to_request: ToRequest
    fingerprint: Mapping[str, object]
    backend: Backend
    read: Callable[[Mapping[str, Answer]], dict[str, Judgement]]


def judge(
    config: Config,
    chains: Sequence[ToJudge],
    folder: Path,
    *,
    title: str,
    console: Console | None = None,
    backend: Backend | None = None,
) -> Judged:
    """Judges every chain; answers that an earlier call has left in `folder` are used again.

    Connects to Ray, unless a `backend` that answers is given.

    Raises:
        UserError: the model or the user's verifier cannot be used.
        TooManyFailed: more than verifier.max_failed_share of the requests failed.
        Interrupted: a signal stopped it; the answers so far are kept.
    """
    if config.verifier.method == "none":
        return Judged({chain.key: Judgement() for chain in chains}, 0)
    asking = _by_custom_verifier(config, chains) if config.verifier.method == "custom" else _by_claims(config, chains)
    if not asking.rows:
        return Judged(asking.read({}), 0)
    with contextlib.nullcontext() if backend else connected():
        answers = answer_all(
            folder,
            asking.rows,
            asking.to_request,
            backend or asking.backend,
            title=title,
            max_failed_share=config.verifier.max_failed_share,
            fingerprint=asking.fingerprint,
            console=console,
        )
    return Judged(asking.read(answers), len(asking.rows))


def _by_claims(config: Config, chains: Sequence[ToJudge]) -> _Asking:
    with_setup(config, lambda: check_model_folder(config.verifier.model, "verifier.model"))
    asked = questions_about(chains, config.verifier)
    to_request = ClaimQuestion(config)
    letters, num_orders = to_request.letters(), config.verifier.num_orders
    return _Asking(
        rows=asked.rows,
        to_request=to_request,
        fingerprint=depends_on.verdicts_of_a_model(config),
        backend=engines(config, chains),
        read=lambda answers: judgements(chains, asked, answers, letters, num_orders),
    )


def engines(config: Config, chains: Sequence[ToJudge]) -> VllmBackend:
    """The engines that run the verifier's model."""
    verifier = config.verifier
    return VllmBackend(
        model_path=verifier.model,
        dtype=verifier.dtype,
        device=config.run.device,
        config=verifier.engines,
        max_model_len=config.data.max_prompt_tokens + 1,
        max_clips=max((len(chain.question.audio) for chain in chains), default=1),
        seed=config.run.seed,
    )


def _by_custom_verifier(config: Config, chains: Sequence[ToJudge]) -> _Asking:
    return _Asking(
        rows=rows_for(chains),
        to_request=no_request,
        fingerprint=depends_on.verdicts_of_the_user(config),
        backend=CustomVerifier(config.verifier.custom, config.data, {chain.key: chain for chain in chains}),
        read=lambda answers: {chain.key: from_answer(answers[chain.key]) for chain in chains},
    )
