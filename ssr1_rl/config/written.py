"""The settings as they are shown and saved: what came from the environment as it was written, secrets hidden."""

import dataclasses
import re
from typing import Any

from ssr1_rl.config.environment import MIN_SECRET_CHARACTERS, as_written
from ssr1_rl.config.kinds import Key, dotted, flat
from ssr1_rl.config.schema import Config
from ssr1_rl.config.yaml_text import read_plain, write

HIDDEN = "(not shown)"

_SECRET = re.compile(r"(^|[_-])(key|api_?key|token|password|passwd|secret|credentials?)$", re.IGNORECASE)


def config_to_yaml(config: Config) -> str:
    """The settings as a launch file, every default included; see `ssr1_rl.config.environment` for the environment."""
    return write(as_written(dataclasses.asdict(config)))


def shown_settings(config: Config) -> dict[str, Any]:
    """The settings for the eyes of others, such as a tracker's: also without literal values that look like secrets."""
    written = as_written(dataclasses.asdict(config))
    # Other settings may take a secret over: again: ${rewards[0].options.api_key}
    secrets = [str(value) for key, value in flat(written).items() if _is_secret(key, value)]
    return _without_secrets(written, (), [secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS])


def shown_yaml(config: Config) -> str:
    """`shown_settings` as YAML."""
    return write(shown_settings(config))


def literal_secrets(config: Config) -> list[str]:
    """Names of settings that hold a secret as a literal value, by their names: `rewards[0].options.api_key`."""
    settings = flat(as_written(dataclasses.asdict(config)))
    return [dotted(key) for key, value in settings.items() if _is_secret(key, value)]


def changes(before: str, now: str) -> list[str]:
    """A line for each setting that differs between two texts of `config_to_yaml`.

    Raises:
        ConfigError: `before` is damaged.
    """
    old, new = flat(read_plain(before)), flat(read_plain(now))
    lines = []
    for key in sorted(old.keys() | new.keys(), key=dotted):
        values = [old.get(key), new.get(key)]
        if values[0] != values[1]:
            # A value that an interpolation replaces, or that replaces one, may be the secret itself.
            hides = any(_is_secret(key, value) for value in values) or any(map(_is_interpolation, values))
            first, second = (
                HIDDEN if hides and not _is_interpolation(v) and v is not None else repr(v) for v in values
            )
            lines.append(f"{dotted(key)}: {first} before, {second} now")
    return lines


def _without_secrets(value: object, key: Key, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return HIDDEN if _is_secret(key, value) or any(secret in value for secret in secrets) else value
    if isinstance(value, list):
        return [_without_secrets(inner, (*key, i), secrets) for i, inner in enumerate(value)]
    return {n: _without_secrets(v, (*key, n), secrets) for n, v in value.items()} if isinstance(value, dict) else value


def _is_secret(key: Key, value: object) -> bool:
    """Whether a literal text looks like a secret by its name. Only entries of free mappings can be named so."""
    if not key or not isinstance(value, str) or not value or value.startswith("<") or _is_interpolation(value):
        return False
    return len(key) > 2 and bool(_SECRET.search(str(key[-1])))


def _is_interpolation(value: object) -> bool:
    return isinstance(value, str) and re.search(r"(?<!\\)(\\\\)*\$\{", value) is not None
