"""Shows what a recipe would do without starting anything: which stages run and why, and what they may cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import shown_yaml
from ssr1_rl.recipe.estimate import PEAK, SHARE_OF_PEAK, estimate
from ssr1_rl.recipe.folder import RecipeFolder
from ssr1_rl.recipe.inputs import check_inputs
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
    num_train, num_validation = check_inputs(configs, recipe.run.setup)
    console.print(f"{num_train:,} questions to train on, {num_validation:,} to evaluate on")
    rows = _rows(RecipeFolder(Path(recipe.run.dir)), configs)
    if recipe.run.device == "cuda":
        hours = estimate(configs, recipe.model.path, num_train, num_validation)
        rows = [row | {"GPU-hours": _told(hours, row["stage"])} for row in rows]
    summary_table("stages", rows)
    if recipe.run.device == "cuda":
        shares = ", ".join(f"{kind} at {share:.0%}" for kind, share in SHARE_OF_PEAK.items())
        console.print(
            f"GPU-hours are reckoned for GPUs of {PEAK / 1e12:.0f} TFLOP/s in bfloat16 (H100), {shares} of that; "
            "loading of models and waiting are not in them, and nothing of it was measured"
        )
    console.print("nothing was started")


def _rows(folder: RecipeFolder, configs: Mapping[str, Config]) -> list[dict[str, str]]:
    state = RecipeState(folder.path)
    rows = []
    for stage in STAGES:
        told = "no: not needed"
        if stage.name in configs:
            now = stage.fingerprint(folder, configs[stage.name])
            reason = why_it_runs(stage, now, state.get(stage.name), folder)
            told = f"yes: {reason}" if reason else "no: unchanged"
        rows.append({"stage": stage.name, "would run": told})
    return rows


def _told(hours: Mapping[str, float | None], stage: str) -> str:
    if stage not in hours:
        return ""
    reckoned = hours[stage]
    return "unknown" if reckoned is None else f"{reckoned:.2g}"
