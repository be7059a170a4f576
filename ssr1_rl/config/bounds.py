"""Whether every number lies within the bounds that the schema gives it."""

import dataclasses
import math

from ssr1_rl.config.schema import Config
from ssr1_rl.config.setting import HOLDS
from ssr1_rl.config.values import Key, Origins, entries, refused


def check_bounds(config: Config, origins: Origins) -> None:
    """Raises `ConfigError` for the first number that is not finite or is out of its bounds."""
    _check(config, (), origins, None)


def _check(value: object, key: Key, origins: Origins, spec: "dataclasses.Field[object] | None") -> None:
    """Checks every number in `value` against its field, `spec`; None in a mapping whose entries are free."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _check(getattr(value, field.name), (*key, field.name), origins, field)
    for name, inner in entries(value):
        _check(inner, (*key, name), origins, None if isinstance(value, dict) else spec)
    if spec is None or isinstance(value, bool) or not isinstance(value, int | float):
        return
    if math.isnan(value) or (math.isinf(value) and spec.default != value):
        raise refused(key, origins, f"must be a finite number, got {value!r}", value)
    for words, limit in spec.metadata.get("bounds", {}).items():
        if not HOLDS[words](value, limit):
            why = f" ({spec.metadata['why']})" if spec.metadata["why"] else ""
            raise refused(key, origins, f"must be {words} {limit:g}, got {value!r}{why}", value)
