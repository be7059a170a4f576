"""Reads a launch file, applies presets and overrides, and records where each value was set.

A later layer wins over an earlier one: defaults, the file's preset, the file's values, the command line's preset,
the other values of the command line. A preset on the command line also replaces the file's.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.environment import is_resolved, resolved
from ssr1_rl.config.kinds import Key, dotted, entries, flat
from ssr1_rl.config.overrides import Layer, Override, drop, parse_override
from ssr1_rl.config.presets import preset_values
from ssr1_rl.config.schema import OPTIONAL, SECTIONS, Config, RecipeConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.values import Origins, build_section, lay_over, origin_of, refuse_missing, refuse_unknown
from ssr1_rl.config.yaml_text import read_file
from ssr1_rl.errors import ConfigError


@dataclass(frozen=True)
class OfStage:
    """Which stage of a recipe settings are for, and what the recipe sets for it.

    The stage's own section `stages.NAME` wins over the sections that all stages share, in the launch file and in each
    override; `wiring` wins over everything.
    """

    name: str
    wiring: Layer


def read_settings(
    path: str | Path | None, overrides: Sequence[str] = (), command: str = "grpo", stage: OfStage | None = None
) -> tuple[Config, Origins]:
    """The launch file at `path` (None: only the defaults) with `overrides` applied, and where each value was set.

    Sections that `command` does not read (see `SECTIONS`) may lack required settings and variables of the environment;
    one that needs such a variable keeps its defaults.
    Rules between several settings are checked by `ssr1_rl.checks`, which calls this.

    Args:
        stage: reads a recipe's launch file for one of its stages.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of
            bounds, or a missing required setting.
    """
    schema = RecipeConfig if stage or command in ("recipe", "data") else Config
    file, places = _read_file(Path(path), schema) if path is not None else ({}, {})
    given = [parse_override(text, schema) for text in overrides]
    origins = places | {key: origin for override in given for key, origin in override.origins.items()}
    layers = _dropped([file], given)
    if schema is RecipeConfig:
        for layer in layers:
            refuse_unknown(layer, RecipeConfig, (), origins)
        split = [_parts(layer, stage.name if stage else "") for layer in layers]
        if stage:
            _refuse_wired(split, stage, origins)
            origins = origins | {key[2:]: at for key, at in origins.items() if key[:2] == ("stages", stage.name)}
        ordered = _in_order(split[0], [part for parts in split[1:] for part in parts], origins)
        ordered += [stage.wiring] if stage else []
    else:
        ordered = _in_order(layers[:1], layers[1:], origins)
    return _built(ordered, origins, command, str(path or "settings")), origins


def _built(layers: Sequence[Layer], origins: Origins, command: str, where: str) -> Config:
    """The settings that layers over the defaults give, the winning layer last."""
    merged: object = dataclasses.asdict(Config())
    for layer in layers:
        merged = lay_over(merged, layer, Config, (), origins)
    refuse_unknown(merged, Config, (), origins)
    used = SECTIONS[command]
    for name, value in entries(merged):
        if name in used:
            refuse_missing(value, (name,), where, OPTIONAL.get(command, ()))
    values = resolved(merged, origins, used)
    defaults = dataclasses.asdict(Config())
    known = {
        name: value if name in used or is_resolved(value) else defaults[str(name)] for name, value in entries(values)
    }
    config = build_section(Config, known, (), origins)
    config.grpo.denominator_tokens = config.grpo.denominator_tokens or config.rollout.max_response_tokens
    return config


def _parts(layer: Layer, stage: str) -> list[Layer]:
    """A layer of a recipe's settings: what all stages share, then what the stage sets by itself."""
    shared = {name: value for name, value in layer.items() if name != "stages"}
    stages = layer.get("stages")
    own = stages.get(stage) if isinstance(stages, dict) else None
    return [shared, own] if isinstance(own, dict) else [shared]


def _refuse_wired(split: Sequence[Sequence[Layer]], stage: OfStage, origins: Origins) -> None:
    """Refuses a stage's own value for a setting that the recipe sets."""
    wired = flat(stage.wiring)
    for own in (parts[1] for parts in split if len(parts) > 1):
        if both := wired.keys() & flat(own).keys():
            key = ("stages", stage.name, *min(both, key=dotted))
            raise ConfigError(
                f"{origin_of(key, origins)}{dotted(key)} is set by the recipe, which connects its stages; leave it out"
            )


def read_run_and_model(path: Path) -> tuple[RunConfig, ModelConfig]:
    """Sections `run` and `model` of a run's config.yaml; variables that only other sections need may be unset.

    Raises:
        ConfigError: the file is damaged, or a value in these sections is wrong.
    """
    values, origins = _read_file(path, Config)
    needed = {"run": RunConfig, "model": ModelConfig}
    merged = {
        name: lay_over(dataclasses.asdict(kind()), values.get(name, {}), kind, (name,), origins)
        for name, kind in needed.items()
    }
    for name, kind in needed.items():
        refuse_unknown(merged[name], kind, (name,), origins)
        refuse_missing(merged[name], (name,), str(path))
    found = resolved(values | merged, origins, needed)
    return (
        build_section(RunConfig, found["run"], ("run",), origins),
        build_section(ModelConfig, found["model"], ("model",), origins),
    )


def _read_file(path: Path, schema: type) -> tuple[Layer, dict[Key, str]]:
    values, places = read_file(path, schema)
    if values is None:
        return {}, places
    if not isinstance(values, dict):
        got = f"a list of {len(values)}" if isinstance(values, list) else repr(values)
        raise ConfigError(f"{path}:1: must hold sections such as `run:` and `model:`, got {got}")
    return values, places


def _dropped(layers: list[Layer], given: Sequence[Override]) -> list[Layer]:
    """The file's layer and one for each override, each without what a later override drops."""
    for override in given:
        layers = drop(override, layers) if override.drops else [*layers, override.layer]
    return layers


def _in_order(file: list[Layer], overrides: list[Layer], origins: Origins) -> list[Layer]:
    """The layers over the defaults, the winning one last; `file` are those of the launch file."""
    chosen = [preset for override in overrides if (preset := _preset_in(override, origins)) is not None]
    if chosen:
        return [*file, {"grpo": preset_values(chosen[-1])}, *overrides]
    named = [preset for layer in file if (preset := _preset_in(layer, origins)) is not None]
    return [{"grpo": preset_values(named[-1] if named else "")}, *file, *overrides]


def _preset_in(values: Layer, origins: Origins) -> str | None:
    """The preset that a layer names; None if it names none."""
    section = values.get("grpo")
    if not isinstance(section, dict) or "preset" not in section:
        return None
    filled = resolved({"grpo": {"preset": section["preset"]}}, origins)["grpo"]
    return str(dict(entries(filled))["preset"])
