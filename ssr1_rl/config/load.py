"""Reads a launch file, applies presets and overrides, and records where each value was set.

A later layer wins over an earlier one: defaults, the file's preset, the file's values, the command line's preset,
the other values of the command line. A preset on the command line also replaces the file's.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.config.environment import resolved
from ssr1_rl.config.kinds import Key, entries
from ssr1_rl.config.overrides import Layer, Override, drop, parse_override
from ssr1_rl.config.presets import preset_values
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.values import Origins, build_section, lay_over, refuse_missing, refuse_unknown
from ssr1_rl.config.yaml_text import read_file
from ssr1_rl.errors import ConfigError


def read_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> tuple[Config, Origins]:
    """The launch file at `path` (None: only the defaults) with `overrides` applied, and where each value was set.

    Rules between several settings are checked by `ssr1_rl.checks.rules.load_config`, which calls this.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of
            bounds, or a missing required setting.
    """
    file, places = _read_file(Path(path)) if path is not None else ({}, {})
    given = [parse_override(text) for text in overrides]
    origins = places | {key: origin for override in given for key, origin in override.origins.items()}
    merged: object = dataclasses.asdict(Config())
    for layer in _in_order(_dropped([file], given), origins):
        merged = lay_over(merged, layer, Config, (), origins)
    refuse_unknown(merged, Config, (), origins)
    refuse_missing(merged, (), str(path or "settings"))
    config = build_section(Config, resolved(merged, origins), (), origins)
    config.grpo.denominator_tokens = config.grpo.denominator_tokens or config.rollout.max_response_tokens
    return config, origins


def read_run_and_model(path: Path) -> tuple[RunConfig, ModelConfig]:
    """Sections `run` and `model` of a run's config.yaml; variables that only other sections need may be unset.

    Raises:
        ConfigError: the file is damaged, or a value in these sections is wrong.
    """
    values, origins = _read_file(path)
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


def _read_file(path: Path) -> tuple[Layer, dict[Key, str]]:
    values, places = read_file(path, Config)
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


def _in_order(layers: list[Layer], origins: Origins) -> list[Layer]:
    """The layers over the defaults, the winning one last."""
    file, *overrides = layers
    chosen = [preset for override in overrides if (preset := _preset_in(override, origins)) is not None]
    if chosen:
        return [file, {"grpo": preset_values(chosen[-1])}, *overrides]
    return [{"grpo": preset_values(_preset_in(file, origins) or "")}, file, *overrides]


def _preset_in(values: Layer, origins: Origins) -> str | None:
    """The preset that a layer names; None if it names none."""
    section = values.get("grpo")
    if not isinstance(section, dict) or "preset" not in section:
        return None
    filled = resolved({"grpo": {"preset": section["preset"]}}, origins)["grpo"]
    return str(dict(entries(filled))["preset"])
