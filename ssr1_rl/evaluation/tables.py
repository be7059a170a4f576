"""The results as Markdown for people and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from ssr1_rl.evaluation.results import GREEDY, OURS, Comparison, Estimate, Results

CSV_COLUMNS = (
    *("split", "model", "other_model", "rule", "measure", "column", "value"),
    *("share", "low", "high", "num_questions", "p_value", "p_value_holm"),
)
"""A row is one share; with `other_model` it is the share of `model` minus that of `other_model`."""


_MARKUP = re.compile(r"[\\|*_`]|\](?=\()")


def as_markdown(results: Results, confidence: float) -> str:
    """All tables. Shares are in percent; every number in brackets is an end of its interval."""
    sections = [
        "# Evaluation",
        f"Right answers in %, with {confidence:.0%} bootstrap intervals over questions. Questions that failed count as "
        f"wrong. A split's columns are the rules: its benchmark's official one if there is one, then `{OURS}`, the "
        "accuracy reward's, which GRPO's validation shows too.",
    ]
    for measure in _measures(results):
        sections += [f"## {measure}", _scores(results, measure)]
    if results.comparisons:
        sections += ["## Differences", _DIFFERENCES, _differences(results.comparisons)]
    sections += ["## Responses", _responses(results)]
    sections += [part for split in results.splits for part in _groups(results, split)]
    return "\n\n".join(sections) + "\n"


_DIFFERENCES = (
    "Greedy responses, in percentage points. p is of McNemar's exact test on the questions that only one of the two "
    "models answers right, corrected by Holm's method for the pairs of models on a split."
)


def as_csv(results: Results) -> str:
    """Every share, those of groups and the differences included, one per line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for split in results.splits:
        for model, figures in results.figures.items():
            for rule, scores in figures[split].rules.items():
                place = {"split": split, "model": model, "rule": rule}
                writer.writerows(place | {"measure": m} | _ends(e) for m, e in scores.overall.items())
                writer.writerows(
                    place | {"measure": measure, "column": column, "value": value} | _ends(estimate)
                    for column, values in scores.groups.items()
                    for value, found in values.items()
                    for measure, estimate in found.items()
                )
        writer.writerows(_difference_row(pair) for pair in results.comparisons if pair.split == split)
    return text.getvalue()


def _difference_row(pair: Comparison) -> dict[str, object]:
    names = {"split": pair.split, "model": pair.model, "other_model": pair.other, "rule": pair.rule, "measure": GREEDY}
    return names | _ends(pair.difference) | {"p_value": pair.p_value, "p_value_holm": pair.p_value_holm}


def _ends(estimate: Estimate) -> dict[str, object]:
    return {
        "share": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "num_questions": estimate.num_questions,
    }


def _measures(results: Results) -> list[str]:
    first = next(iter(results.figures.values()))
    return list(next(iter(first[results.splits[0]].rules.values())).overall)


def _scores(results: Results, measure: str) -> str:
    """Models x splits and their rules."""
    any_model = next(iter(results.figures.values()))
    columns = [(split, rule) for split in results.splits for rule in any_model[split].rules]
    rows = [
        [model, *(percent(figures[split].rules[rule].overall[measure]) for split, rule in columns)]
        for model, figures in results.figures.items()
    ]
    return _table(["model", *(f"{split}: {rule}" for split, rule in columns)], rows)


def _differences(comparisons: Iterable[Comparison]) -> str:
    rows = [
        [
            *(pair.split, pair.rule, f"{pair.model} - {pair.other}", percent(pair.difference, signed=True)),
            *(str(pair.num_only_model_right), str(pair.num_only_other_right), f"{pair.p_value_holm:.2g}"),
        ]
        for pair in comparisons
    ]
    return _table(["split", "rule", "models", "difference", "only first right", "only second right", "p"], rows)


def _responses(results: Results) -> str:
    rows = [
        [
            *(model, split, f"{found.num_questions:,}", f"{found.num_unreadable:,}", f"{found.num_failed:,}"),
            *(f"{found.num_failed_samples:,}", f"{found.cut_off_share:.1%}", f"{found.no_answer_share:.1%}"),
            f"{found.response_tokens_mean:.1f}",
        ]
        for model, figures in results.figures.items()
        for split, found in figures.items()
    ]
    head = ["model", "split", "questions", "unreadable", "failed", "failed samples", "cut off", "no answer", "tokens"]
    return _table(head, rows)


def _groups(results: Results, split: str) -> list[str]:
    """A table for each column of the split: its values x models, greedy, by the split's first rule."""
    scores = {model: next(iter(figures[split].rules.values())) for model, figures in results.figures.items()}
    rule = next(iter(next(iter(results.figures.values()))[split].rules))
    tables: list[str] = []
    first = next(iter(scores.values()))
    for column, values in first.groups.items():
        rows = [
            [
                value,
                f"{measures[GREEDY].num_questions:,}",
                *(percent(of.groups[column][value][GREEDY]) for of in scores.values()),
            ]
            for value, measures in values.items()
        ]
        tables += [f"## {_cell(split)} by {_cell(column)}: {rule}", _table([column, "questions", *scores], rows)]
    return tables


def percent(estimate: Estimate, *, signed: bool = False) -> str:
    """A share in percent with its interval."""
    sign = "+" if signed else ""
    low, high = f"{100 * estimate.low:{sign}.1f}", f"{100 * estimate.high:{sign}.1f}"
    return f"{100 * estimate.value:{sign}.1f} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text of a data set as Markdown shows it, on one line, without any mark-up."""
    return " ".join(_MARKUP.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;")).split())
