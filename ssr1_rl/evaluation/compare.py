"""Is one model better than another? Both have answered the same questions, so each question is a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations

from ssr1_rl.evaluation.results import Comparison
from ssr1_rl.evaluation.statistics import Bootstrap, holm, mcnemar


def compare(
    split: str, rule: str, is_right: Mapping[str, Sequence[bool]], bootstrap: Bootstrap
) -> tuple[Comparison, ...]:
    """Compares every pair of models on one split by their greedy responses.

    Args:
        split: its name.
        rule: the rule that says which responses are right.
        is_right: of each model, for every row of the split, in the same order.
        bootstrap: makes the interval of the difference; the two answers to a question are resampled together.
    """
    pairs = [_pair(split, rule, one, other, is_right, bootstrap) for one, other in combinations(is_right, 2)]
    corrected = holm([pair.p_value for pair in pairs])
    return tuple(dataclasses.replace(pair, p_value_holm=value) for pair, value in zip(pairs, corrected, strict=True))


def _pair(
    split: str, rule: str, model: str, other: str, is_right: Mapping[str, Sequence[bool]], bootstrap: Bootstrap
) -> Comparison:
    pairs = list(zip(is_right[model], is_right[other], strict=True))
    only_model = sum(first and not second for first, second in pairs)
    only_other = sum(second and not first for first, second in pairs)
    p_value = mcnemar(only_model, only_other)
    difference = bootstrap.mean([float(first) - float(second) for first, second in pairs])
    return Comparison(split, rule, model, other, difference, only_model, only_other, p_value, p_value)
