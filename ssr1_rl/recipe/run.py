"""Runs the stages of a recipe in order, each only if its inputs changed since it finished."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from ssr1_rl.config.load import OfStage, read_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.files import write_text
from ssr1_rl.recipe.fingerprint import Fingerprint, changes
from ssr1_rl.recipe.folder import RecipeFolder
from ssr1_rl.recipe.inputs import check_inputs
from ssr1_rl.recipe.stages import STAGES, Stage, is_needed
from ssr1_rl.recipe.state import RecipeState, StageState
from ssr1_rl.store.folder import claim

MAX_CHANGES = 3


def run_recipe(path: Path, overrides: Sequence[str], stages: Sequence[Stage] = STAGES) -> None:
    """Runs every stage that is not done, and prints one line for each, then the final table.

    Raises:
        ConfigError: the settings of any stage are wrong; all are checked before the first one starts.
        UserError: a model or a file of questions is missing, or holds none; told before the first one starts too.
        Explained: what a stage raises; the same command then continues with that stage.
    """
    recipe, configs = read_recipe(path, overrides, stages)
    check_inputs(configs, recipe.run.setup)
    folder, console = RecipeFolder(Path(recipe.run.dir)), Console(soft_wrap=True, highlight=False, markup=False)
    with claim(folder.path), connected():
        state = RecipeState(folder.path)
        for number, stage in enumerate(stages, start=1):
            label = f"[{number}/{len(stages)}] {stage.name}"
            if stage.name in configs:
                _run_stage(stage, configs[stage.name], folder, state, label, console)
            else:
                console.print(f"{label}: not needed with sft.responses={recipe.sft.responses}")
    write_text(folder.results, folder.table.read_text())
    console.print(Markdown(folder.results.read_text()))
    console.print(f"the table is in {folder.results}; every figure, answer and interval is in {folder.table.parent}")


def read_recipe(
    path: Path, overrides: Sequence[str], stages: Sequence[Stage] = STAGES
) -> tuple[Config, dict[str, Config]]:
    """The settings that all stages share, and those of each stage that is needed, by its name."""
    recipe, _ = read_settings(path, overrides, "recipe")
    # What the student learns from may be set for its stage alone, and decides which stages are needed.
    recipe.sft = read_settings(path, overrides, "recipe", OfStage("sft", {}))[0].sft
    folder = RecipeFolder(Path(recipe.run.dir))
    needed = [stage for stage in stages if is_needed(stage.name, recipe.sft.responses)]
    return recipe, {stage.name: stage.settings(path, overrides, folder, recipe) for stage in needed}


def why_it_runs(stage: Stage, now: Fingerprint, state: StageState | None, folder: RecipeFolder) -> str:
    """Why a stage has to run, in words; empty if it is done and nothing that it depends on has changed."""
    if state is None:
        return "not done yet"
    if changed := changes(state.fingerprint, now):
        more = f" and {len(changed) - MAX_CHANGES} more" if len(changed) > MAX_CHANGES else ""
        return f"changed: {', '.join(changed[:MAX_CHANGES])}{more}"
    if not state.is_done:
        return "not finished"
    missing = [str(output) for output in stage.outputs(folder) if not output.exists()]
    return f"{missing[0]} is missing" if missing else ""


def _run_stage(
    stage: Stage, config: Config, folder: RecipeFolder, state: RecipeState, label: str, console: Console
) -> None:
    before, now = state.get(stage.name), stage.fingerprint(folder, config)
    reason = why_it_runs(stage, now, before, folder)
    if before is not None and not reason:
        console.print(f"{label}: unchanged; {before.summary}")
        return
    console.print(f"{label}: {reason}")
    if before is not None and changes(before.fingerprint, now):
        if folder.of(stage.name).exists():
            console.print(f"what it made before is in {folder.set_aside(stage.name)}")
        before = None
    running = StageState(now, is_done=False, wall_s=before.wall_s if before else 0.0)
    state.set(stage.name, running)
    started = time.monotonic()
    try:
        summary = stage.run(config)
    except BaseException:
        state.set(stage.name, replace(running, wall_s=running.wall_s + time.monotonic() - started))
        raise
    wall_s = running.wall_s + time.monotonic() - started
    state.set(stage.name, StageState(now, True, wall_s, summary))
    console.print(f"{label}: done in {timedelta(seconds=round(wall_s))}; {summary}")
