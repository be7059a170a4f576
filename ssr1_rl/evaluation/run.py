"""An evaluation from its settings to its tables: the command `ssr1-rl eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.data.splits import Split
from ssr1_rl.evaluation.evaluate import evaluate_models
from ssr1_rl.evaluation.results import Results
from ssr1_rl.evaluation.tables import percent
from ssr1_rl.store.folder import claim
from ssr1_rl.telemetry.progress import summary_table


def run_evaluation(config: Config, splits: Mapping[str, Split]) -> Results:
    """Answers `splits` with every model of the settings, on the cluster that `ssr1_rl.connection.connect` finds.

    Raises:
        Explained: something is wrong; the message says how to fix it.
        Interrupted: a signal stopped it; the same command goes on.
    """
    run_dir = Path(config.run.dir)
    with claim(run_dir), connected():
        return evaluate_models(config.evaluation.models, splits, config, run_dir)


def print_results(results: Results) -> None:
    """Prints a table of models for each measure, in percent."""
    first = next(iter(results.figures.values()))
    for measure in next(iter(first[results.splits[0]].rules.values())).overall:
        rows = [
            {"model": model}
            | {
                f"{split}: {rule}": percent(scores.overall[measure])
                for split, found in figures.items()
                for rule, scores in found.rules.items()
            }
            for model, figures in results.figures.items()
        ]
        summary_table(f"{measure}: right answers in %", rows)
