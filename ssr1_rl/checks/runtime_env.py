"""`rewards[].runtime_env`: what Ray would ignore, or refuse only when an actor starts. Nothing is started here."""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError

_BY_CONSTRUCTOR = {"nsight", "rocprof_sys"}
_SHIPPED_WITH_THE_JOB = (
    "Ray uploads folders only with a job (`ray job submit --working-dir`); name an archive by its address "
    "(https://, s3://, gs:// …/name.zip), or install the package on every node"
)


def check_runtime_env(config: RewardConfig, field: str) -> None:
    """Refuses a field that Ray does not know, and values that Ray refuses.

    Raises:
        ConfigError: with the field and the fix. Values of env_vars are not shown, because they may be secrets.
    """
    if not config.runtime_env:
        return
    place = f"{field}.runtime_env"
    _check_names(config.runtime_env, place)
    _check_env_vars(config.runtime_env.get("env_vars"), f"{place}.env_vars")
    _check_paths(config.runtime_env, place)
    if "pip" in config.runtime_env and not importlib.util.find_spec("virtualenv"):
        raise ConfigError(f"{place}.pip needs the package virtualenv on every node, and it is missing here: install it")
    from ray.runtime_env import RuntimeEnv

    try:
        RuntimeEnv(**config.runtime_env)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place} is refused by Ray: {' '.join(str(error).split())}") from error


def _check_names(runtime_env: Mapping[str, object], place: str) -> None:
    from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig

    fields = {name for name in RuntimeEnv.known_fields if not name.startswith("_")} | _BY_CONSTRUCTOR | _plugins()
    of_config = runtime_env.get("config")
    config_names = list(of_config) if isinstance(of_config, Mapping) else []
    for names, known, where in (
        (list(runtime_env), fields, place),
        (config_names, set(RuntimeEnvConfig.known_fields), f"{place}.config"),
    ):
        for name in names:
            if name not in known:
                near = nearest(str(name), known, cutoff=0.5)
                fix = f"did you mean {near}?" if near else f"known: {', '.join(sorted(known))}"
                raise ConfigError(f"{where} has no {name!r}, which Ray would ignore; {fix}")


def _plugins() -> set[str]:
    """Names of further fields, which Ray's plugins define: `RAY_RUNTIME_ENV_PLUGINS` names their classes as JSON."""
    try:
        classes = [entry["class"] for entry in json.loads(os.environ.get("RAY_RUNTIME_ENV_PLUGINS", "[]"))]
        found = [getattr(importlib.import_module(c.rpartition(".")[0]), c.rpartition(".")[2]) for c in classes]
    except (ValueError, TypeError, KeyError, ImportError, AttributeError):
        return set()
    return {str(plugin.name) for plugin in found}


def _check_env_vars(env_vars: object, place: str) -> None:
    if env_vars is None:
        return
    if not isinstance(env_vars, Mapping):
        raise ConfigError(f"{place} must hold names and texts, got a {type(env_vars).__name__}")
    for name, value in env_vars.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigError(f"{place} has the name {name!r}, which cannot be that of a variable")
        if not isinstance(value, str):
            raise ConfigError(
                f'{place}.{name} must be text, got a {type(value).__name__}: quote the value, as in {name}: "4"'
            )


def _check_paths(runtime_env: Mapping[str, object], place: str) -> None:
    modules = runtime_env.get("py_modules") or []
    paths = [("working_dir", runtime_env.get("working_dir"))]
    paths += [(f"py_modules[{i}]", module) for i, module in enumerate(modules if isinstance(modules, list) else [])]
    for name, path in paths:
        if isinstance(path, str) and path and "://" not in path:
            missing = "" if os.path.exists(path) else f", and there is none in {os.getcwd()} either"
            raise ConfigError(
                f"{place}.{name} {path!r} is a folder or file of this machine{missing}: {_SHIPPED_WITH_THE_JOB}"
            )
    for name in ("pip", "uv"):
        file = runtime_env.get(name)
        if isinstance(file, str) and not os.path.isfile(file):
            raise ConfigError(
                f"{place}.{name} {file!r} is no file of requirements in {os.getcwd()}; "
                f"for packages write a list: [{file}]"
            )
