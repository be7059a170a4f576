"""Answers the validation splits with the model that SFT has made: greedy accuracy, by the evaluation's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import Split
from ssr1_rl.evaluation.evaluate import evaluate_models

FOLDER = "evaluation"
"""Folder of the run for answers and tables."""
NAME = "sft"


def greedy_accuracies(
    config: Config, model: Path, splits: Mapping[str, Split], note: Callable[[str], None]
) -> dict[str, float]:
    """The share of right greedy answers on each split, by its name; Ray must be connected.

    Raises:
        RunError: an engine cannot start, or more than `evaluation.max_failed_share` of the requests failed.
        Interrupted: a signal stopped it; the answers so far are kept.
    """
    greedy = replace(config.evaluation, num_samples=0, dtype=config.model.dtype)
    results = evaluate_models(
        {NAME: str(model)}, splits, replace(config, evaluation=greedy), Path(config.run.dir) / FOLDER, note
    )
    return {split: results.accuracy(NAME, split) for split in splits}
