"""Shows what a recipe would do without starting anything: which stages run and why, and what they may cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import shown_yaml
from ssr1_rl.data.splits import read_split
from ssr1_rl.errors import MissingFile
from ssr1_rl.recipe.estimate import PEAK, SHARE_OF_PEAK, estimate
from ssr1_rl.recipe.folder import RecipeFolder
from ssr1_rl.recipe.run import read_recipe, why_it_runs
from ssr1_rl.recipe.stages import STAGES
from ssr1_rl.recipe.state import RecipeState
from ssr1_rl.telemetry.progress import summary_table


def print_recipe_dry_run(path: Path, overrides: Sequence[str]) -> None:
    """Checks the settings of every stage and the files of questions; prints the stages with their estimated cost.

    Raises:
        Explained: what a real run would refuse before its first stage.
    """
    recipe, configs = read_recipe(path, overrides)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(shown_yaml(recipe))
    num_train, num_validation = _count(configs, recipe.run.setup)
    hours = estimate(configs, recipe.model.path, num_train, num_validation)
    console.print(f"{num_train:,} questions to train on, {num_validation:,} to evaluate on")
    summary_table("stages", _rows(RecipeFolder(Path(recipe.run.dir)), configs, hours))
    if recipe.run.device == "cuda":
        shares = ", ".join(f"{kind} at {share:.0%}" for kind, share in SHARE_OF_PEAK.items())
        console.print(
            f"GPU-hours are reckoned for GPUs of {PEAK / 1e12:.0f} TFLOP/s in bfloat16 (H100), {shares} of that; "
            "loading of models and waiting are not in them, and nothing of it was measured"
        )
    console.print("nothing was started")


def _rows(
    folder: RecipeFolder, configs: Mapping[str, Config], hours: Mapping[str, float | None]
) -> list[dict[str, str]]:
    state = RecipeState(folder.path)
    rows = []
    for stage in STAGES:
        if stage.name not in configs:
            rows.append({"stage": stage.name, "would run": "no: not needed", "GPU-hours": ""})
            continue
        reason = why_it_runs(stage, stage.fingerprint(folder, configs[stage.name]), state.get(stage.name), folder)
        reckoned = hours[stage.name]
        rows.append(
            {
                "stage": stage.name,
                "would run": f"yes: {reason}" if reason else "no: unchanged",
                "GPU-hours": "unknown" if reckoned is None else f"{reckoned:.2g}",
            }
        )
    return rows


def _count(configs: Mapping[str, Config], setup: str) -> tuple[int, int]:
    """Questions to train on, and questions of all splits that are evaluated."""
    train, evaluated = configs["sft"].data, configs["evaluate"].data
    try:
        num_train = len(read_split(train.train, "data.train", train.max_skipped_share).questions)
        num_evaluated = sum(
            len(read_split(split, f"data.validation.{name}", evaluated.max_skipped_share).questions)
            for name, split in evaluated.validation.items()
        )
    except MissingFile as error:
        raise MissingFile(f"{error}. To get it: {setup}" if setup else str(error)) from None
    return num_train, num_evaluated
