"""A calibration as a table, as a CSV file and as a plot."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ssr1_rl.distill.verification.calibration import Calibration, RuleResult, figures
from ssr1_rl.files import replacing, write_text
from ssr1_rl.telemetry.progress import summary_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can distinguish.
_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_GREY = "#757575"


def write_csv(path: Path, result: Calibration) -> None:
    """One row for each rule and threshold."""
    text = io.StringIO()
    rows = [
        {"rule": rule, "threshold": point.threshold, **figures(point.result)}
        for rule, of_rule in result.rules.items()
        for point in of_rule.points
    ]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def print_calibration(title: str, result: Calibration, console: Console | None = None) -> None:
    """Prints what each rule reaches, and what to set."""
    console = console or Console()
    rows = [_row(rule, of_rule) for rule, of_rule in result.rules.items()]
    summary_table(title, rows, console)
    claims = result.claims
    if claims.num_labelled:
        table = [{"label": label, **row} for label, row in claims.confusion.items()]
        summary_table("labelled claims by their likeliest verdict", table, console)
    for line in sentences(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def sentences(result: Calibration) -> list[str]:
    """What the figures say."""
    num_unjudged = sum(result.unjudged.values())
    found = [f"{result.num_grounded} of {result.num_labelled} labelled chains are grounded"]
    if num_unjudged:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in result.unjudged.items())
        found.append(f"{num_unjudged} chains could not be judged, and no threshold keeps them: {reasons}")
    if result.claims.num_labelled > result.claims.num_found:
        lost = result.claims.num_labelled - result.claims.num_found
        found.append(f"{lost} labelled claims are worded as no claim of their chain is, and were left out")
    if result.best is None:
        top = max(point.result.precision for of_rule in result.rules.values() for point in of_rule.points)
        found.append(
            f"no threshold reaches a precision of {result.target_precision:g}; the best is {top:.3f}. "
            "Take a better verifier, or lower verifier.target_precision"
        )
        return found
    rule, point = result.best
    low, high = point.result.precision_interval
    found.append(
        f"verifier.rule={rule} verifier.threshold={point.threshold!r} keeps {point.result.num_kept} chains, "
        f"{point.result.num_kept_grounded} of them grounded: precision {point.result.precision:.3f} (95 % interval "
        f"{low:.3f} to {high:.3f}), recall {point.result.recall:.3f}"
    )
    return found


def _row(rule: str, of_rule: RuleResult) -> dict[str, object]:
    at = of_rule.at_target
    shown: dict[str, object] = {"rule": rule, "average precision": of_rule.average_precision}
    if at is None:
        return {**shown, "threshold": "not reached"}
    low, high = at.result.precision_interval
    return {
        **shown,
        "threshold": repr(at.threshold),
        "kept": at.result.num_kept,
        "precision": at.result.precision,
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "recall": at.result.recall,
        "F1": at.result.f1,
    }


def write_plot(path: Path, result: Calibration) -> str:
    """Draws the curves; returns a note if that is not possible."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return f"{path} was not drawn: matplotlib is not installed (pip install matplotlib)"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0, 1.02)
    _draw_curves(left, result)
    _draw_thresholds(right, result)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return ""


def _draw_curves(axes: Axes, result: Calibration) -> None:
    for colour, (rule, of_rule) in zip(_COLOURS, result.rules.items(), strict=False):
        recalls = [point.result.recall for point in of_rule.points]
        precisions = [point.result.precision for point in of_rule.points]
        axes.plot(recalls, precisions, color=colour, marker=".", markersize=3, linewidth=1, label=rule)
        if at := of_rule.at_target:
            axes.plot([at.result.recall], [at.result.precision], color=colour, marker="o", markersize=7, linestyle="")
    axes.axhline(result.target_precision, color=_GREY, linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1.02)
    axes.set_title("precision by recall; dashed: the wished precision", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def _draw_thresholds(axes: Axes, result: Calibration) -> None:
    """Precision with its interval, and recall, of the settings' rule."""
    of_rule = result.rules[result.rule]
    thresholds = [point.threshold for point in of_rule.points]
    precisions = [point.result.precision for point in of_rule.points]
    intervals = [point.result.precision_interval for point in of_rule.points]
    axes.fill_between(
        thresholds, [low for low, _ in intervals], [high for _, high in intervals], color=_COLOURS[0], alpha=0.15
    )
    axes.plot(thresholds, precisions, color=_COLOURS[0], linewidth=1, label="precision, 95 % interval")
    recalls = [point.result.recall for point in of_rule.points]
    axes.plot(thresholds, recalls, color=_COLOURS[1], linewidth=1, label="recall")
    axes.axvline(result.threshold, color=_GREY, linewidth=0.8, linestyle="--")
    axes.set_title(f"rule {result.rule} by threshold; dashed: verifier.threshold", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
