"""Checks the splits and the models of an evaluation before anything starts, and what each model will read."""

import dataclasses
from dataclasses import dataclass

from ssr1_rl.checks.clips import check_clip_length, check_decoders
from ssr1_rl.checks.notes import notes_on_answers
from ssr1_rl.checks.questions import Example, check_clips, check_prompts, notes_on
from ssr1_rl.config.model_path import check_model_folder, is_here
from ssr1_rl.config.schema import SECTIONS, Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.splits import Split, read_split
from ssr1_rl.errors import MissingFile


@dataclass(frozen=True)
class EvalPreflight:
    """What the checks have read."""

    splits: dict[str, Split]
    examples: dict[str, list[Example]]  # of each model that is here: one question of each split as the model gets it
    notes: list[str]


def preflight_eval(config: Config) -> EvalPreflight:
    """Checks the splits, and the prompts of each model that need not be downloaded, before anything starts.

    Raises:
        Explained: with what is wrong and how to fix it.
    """
    try:
        return _preflight(config)
    except MissingFile as error:
        raise MissingFile(f"{error}. To get it: {config.run.setup}" if config.run.setup else str(error)) from None


def _preflight(config: Config) -> EvalPreflight:
    check_decoders()
    for name, path in config.evaluation.models.items():
        check_model_folder(path, f"evaluation.models.{name}")
    splits = read_validation(config.data)
    notes = notes_on_answers(config, SECTIONS["eval"]) + [note for split in splits.values() for note in notes_on(split)]
    examples: dict[str, list[Example]] = {}
    for name, path in config.evaluation.models.items():
        if is_here(path):
            check_clip_length(config.data, path)
            of_model = dataclasses.replace(config, model=dataclasses.replace(config.model, path=path))
            examples[name], more = check_prompts(splits.values(), of_model)
            notes += [note for note in more if note not in notes]
    if not examples:
        notes += check_clips(splits.values(), config.data)
    return EvalPreflight(splits, examples, notes)


def read_validation(data: DataConfig) -> dict[str, Split]:
    """Reads the validation splits.

    Raises:
        UserError: a file cannot be read, or too many of its rows cannot be used; the message names the setting.
    """
    return {
        name: read_split(dataset, f"data.validation.{name}", data.max_skipped_share)
        for name, dataset in data.validation.items()
    }
