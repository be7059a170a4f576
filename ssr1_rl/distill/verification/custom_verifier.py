"""A verifier of the user's, run by Ray Data actors on batches of chains.

It is a function (question, waveforms, chain), or a class whose objects are called so, and is loaded as reward functions
are: its file is read where the stage is started, and its text is sent to the actors. `waveforms` are the question's
clips, float32 [num_samples] at 16 kHz, `chain` is the text inside <think> </think>. It returns a score in [0, 1], or a
list of verdicts on the chain's claims: each a mapping with `text`, `supported`, `contradicted` and `cannot_tell` (what
is missing is 0), whose probabilities add up to 1.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError

from ssr1_rl.checks.verifier_rules import CUSTOM, custom_as_reward
from ssr1_rl.cluster import ClusterTooSmall
from ssr1_rl.config.environment import plain, without_values
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.verifier import CustomVerifierConfig
from ssr1_rl.data.audio import AudioError
from ssr1_rl.data.example import waveforms_of
from ssr1_rl.distill.verification.claim_questions import ToJudge
from ssr1_rl.distill.verification.verdicts import OUTCOMES, Judgement, Verdict
from ssr1_rl.errors import ConfigError, RunError
from ssr1_rl.inference.engine_rows import explain
from ssr1_rl.inference.request import Answer, Request, Row, ToRequest
from ssr1_rl.rewards.actor import describe_error
from ssr1_rl.rewards.binding import check_arguments, check_callable
from ssr1_rl.rewards.load import find_function, read_source
from ssr1_rl.rewards.source import RewardSource, described, in_words
from ssr1_rl.types import Question

ARGUMENTS = ("question", "waveforms", "chain")
MAX_RESTARTS = 2
"""Restarts of an actor whose process has died, and repetitions of a batch that was in it."""
VerifierFn: TypeAlias = Callable[[Question, list[np.ndarray], str], object]


class InvalidVerdict(ValueError):
    """A verifier of the user's returned neither a score nor verdicts."""


def load_verifier(source: RewardSource) -> VerifierFn:
    """The user's function with its options; builds an object of a class.

    Raises:
        ConfigError: the code does not load, or what it defines cannot be called so.
    """
    target, options = find_function(source), plain(source.config.options)
    check_callable(target, described(source), ARGUMENTS)
    if not isinstance(target, type):
        check_arguments(target, ARGUMENTS, options, source)
        fn = _with_options(target, options)
    else:
        check_arguments(target, (), options, source)
        try:
            fn = target(**options)
        except (Exception, SystemExit) as error:  # the user's own constructor may raise anything
            cause = without_values(in_words(error), source.config.options)
            raise ConfigError(f"{described(source)} cannot be built: {cause}") from error
        check_callable(fn, f"an instance of {described(source)}", ARGUMENTS)
        check_arguments(fn, ARGUMENTS, {}, source)
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(fn).__call__):
        raise ConfigError(f"{described(source)} is async; write it as a plain def, num_actors of them run side by side")
    return fn


def _with_options(target: Callable[..., object], options: Mapping[str, Any]) -> VerifierFn:
    return lambda question, waveforms, chain: target(question, waveforms, chain, **options)


def as_judgement(value: object) -> Judgement:
    """What the user's verifier returned, checked.

    Raises:
        InvalidVerdict: a score that is no number in [0, 1], or verdicts that are no probabilities.
    """
    if isinstance(value, bool | str | bytes) or value is None:
        raise InvalidVerdict(f"it returned {value!r}; return a score in [0, 1] or a list of verdicts")
    if not isinstance(value, list | tuple):
        return Judgement(own_score=_probability(value, "it returned"))
    if not value:
        raise InvalidVerdict("it returned an empty list of verdicts; return a score in [0, 1] if there are no claims")
    return Judgement(tuple(_as_verdict(index, entry) for index, entry in enumerate(value)))


def _as_verdict(index: int, entry: object) -> Verdict:
    if isinstance(entry, Verdict):
        entry = asdict(entry)
    if not isinstance(entry, Mapping) or not entry.keys() & set(OUTCOMES) or not entry.keys() <= {"text", *OUTCOMES}:
        raise InvalidVerdict(f"its verdict {index} is {entry!r}; return mappings with text, {', '.join(OUTCOMES)}")
    values = {name: _probability(entry.get(name, 0.0), f"its verdict {index} has {name} =") for name in OUTCOMES}
    total = math.fsum(values.values())
    if abs(total - 1.0) > 1e-3:
        raise InvalidVerdict(f"the probabilities of its verdict {index} add up to {total:g}, not to 1")
    return Verdict(str(entry.get("text", "")), **values)


def _probability(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidVerdict(f"{what} {value!r}, which is no number in [0, 1]") from None
    if not 0.0 <= number <= 1.0:  # false for NaN too
        raise InvalidVerdict(f"{what} {number:g}, which is not in [0, 1]")
    return number


@dataclass(frozen=True)
class CustomVerifier:
    """Answers rows with the user's verifier: a `Backend` whose answers are judgements as JSON. Ray must be connected.

    Args:
        chains: what is judged, by the key of its row.
    """

    config: CustomVerifierConfig
    data: DataConfig
    chains: Mapping[str, ToJudge]

    def answers(self, rows: Sequence[Row], to_request: ToRequest) -> Iterator[list[Answer]]:
        """See `Backend.answers`; `to_request` is not called.

        Raises:
            ConfigError: the user's file cannot be read.
            ClusterTooSmall: the cluster never has what the actors need.
            RunError: an actor died again and again.
        """
        self._check_fits()
        source = read_source(custom_as_reward(self.config), CUSTOM)
        keys = [str(row["key"]) for row in rows]
        size = self.config.batch_size
        dataset = ray.data.from_items([{"key": key} for key in keys], override_num_blocks=math.ceil(len(keys) / size))
        judged = dataset.map_batches(
            _VerifierActor,
            fn_constructor_args=(source, self.data, ray.put({key: self.chains[key] for key in keys})),
            batch_size=size,
            concurrency=self.config.num_actors,
            num_cpus=self.config.num_cpus,
            num_gpus=self.config.num_gpus,
            runtime_env=plain(self.config.runtime_env) or None,
            ray_remote_args_fn=_restarts,
        )
        judged.context.enable_progress_bars = False
        judged.context.print_on_execution_start = False
        batches: Any = iter(judged.iter_batches(batch_size=None, batch_format="pyarrow"))
        try:
            for batch in batches:
                yield [Answer(row["key"], text=row["text"], error=row["error"]) for row in batch.to_pylist()]
        except RayError as error:
            raise RunError(
                f"the actors of {described(source)} failed: {explain(error)}. The answers so far are kept; the same "
                "command asks for the others"
            ) from error
        finally:
            batches.close()

    def _check_fits(self) -> None:
        """Refuses what the cluster never has, because Ray would wait for it."""
        needs = {"CPU": self.config.num_cpus, "GPU": self.config.num_gpus}
        there = ray.cluster_resources()
        for name, each in needs.items():
            needed = each * self.config.num_actors
            if needed > there.get(name, 0.0) + 1e-9:
                raise ClusterTooSmall(
                    f"{CUSTOM}.num_actors={self.config.num_actors} need {needed:g} {name}s, but the cluster has "
                    f"{there.get(name, 0.0):g}; lower it, or {CUSTOM}.num_{name.lower()}s={each:g}"
                )


def _restarts() -> dict[str, int]:
    """Ray Data's default is to start an actor that a chain kills again for ever."""
    return {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}


class _VerifierActor:
    """Loads the user's verifier once and calls it for each chain; what it raises is the row's error."""

    def __init__(self, source: RewardSource, data: DataConfig, chains: Any) -> None:
        self._source, self._data = source, data
        self._chains: Mapping[str, ToJudge] = ray.get(chains)
        try:
            self._verifier = load_verifier(source)
        except ConfigError as error:  # told for every row: what Ray would make of it here is a page long
            self._verifier = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        keys = [str(key) for key in batch["key"]]
        outcomes = [self._judge(self._chains[key]) for key in keys]
        return {"key": keys, "text": [text for text, _ in outcomes], "error": [error for _, error in outcomes]}

    def _judge(self, chain: ToJudge) -> tuple[str, str]:
        """The judgement as JSON, or why there is none."""
        try:
            waveforms = waveforms_of(chain.question, self._data)
        except AudioError as error:
            return "", str(error)
        try:
            if isinstance(self._verifier, ConfigError):
                raise self._verifier
            return to_json(as_judgement(self._verifier(chain.question, waveforms, chain.thoughts))), ""
        except ConfigError as error:
            return "", str(error)
        except InvalidVerdict as error:
            return "", f"{described(self._source)}: {error}"
        # The edge to the user's code: not even sys.exit in that code may end the actor.
        except BaseException as error:
            return "", describe_error(error, self._source)


def to_json(judgement: Judgement) -> str:
    """A judgement as an answer's text."""
    return json.dumps({"score": judgement.own_score, "verdicts": [asdict(verdict) for verdict in judgement.verdicts]})


def from_answer(answer: Answer) -> Judgement:
    """The judgement in an answer of `CustomVerifier`."""
    if answer.error:
        return Judgement(error=answer.error, is_failed=True)
    value = json.loads(answer.text)
    return Judgement(tuple(Verdict(**verdict) for verdict in value["verdicts"]), value["score"])


def rows_for(chains: Sequence[ToJudge]) -> list[Row]:
    """One row for each chain; a chain whose thoughts, question or clips have changed has another row."""
    return [
        {
            "key": chain.key,
            "thoughts": chain.thoughts,
            "question": repr(chain.question),
        }
        for chain in chains
    ]


def no_request(row: Row) -> Request:
    """Rows of a verifier of the user's become no requests."""
    raise AssertionError("CustomVerifier makes no requests")
