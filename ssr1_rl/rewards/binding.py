"""Binds a reward function's options, and calls it by the interface that it is written for."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence

from ssr1_rl.config.environment import plain, without_values
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.base import RewardFn
from ssr1_rl.rewards.interfaces import (
    adapted,
    missing_in,
    openrlhf_refused,
    parameters_of,
    reads_messages,
    recognised,
)
from ssr1_rl.rewards.source import RewardSource, described, in_words, nearest_of

ARGUMENTS = ("question", "completions")
"""What a reward function is called with."""


def check_target(target: RewardFn | type[RewardFn], source: RewardSource) -> None:
    """Raises `ConfigError` if `target` cannot be called, does not take the options, or has an interface not served."""
    check_callable(target, f"{source.field}.path {source.config.path!r}")
    interface = _interface(target, source)
    if isinstance(target, type):
        check_arguments(target, (), source.config.options, source)
    elif interface == "ssr1":
        check_arguments(target, ARGUMENTS, source.config.options, source)
    else:
        _check_options(parameters_of(target), source.config.options, source)


def bound(target: RewardFn | type[RewardFn], source: RewardSource) -> RewardFn:
    """`target` with its options, as a function of (question, completions); builds an object of a class.

    Raises:
        ConfigError: the class cannot be built, or its object cannot be called.
    """
    options = plain(source.config.options)
    if not isinstance(target, type):
        interface = _interface(target, source)
        if interface != "ssr1":
            return adapted(target, interface, options)
        return functools.partial(target, **options) if options else target
    name = described(source)
    try:
        reward_fn = target(**options)
    except (Exception, SystemExit) as error:  # the user's own constructor may raise anything
        cause = without_values(in_words(error), source.config.options)
        raise ConfigError(f"{source.field}.options {source.config.options!r} do not build {name}: {cause}") from error
    check_callable(reward_fn, f"an instance of {name}")
    interface = _interface(reward_fn, source)
    if interface != "ssr1":
        return adapted(reward_fn, interface, {})
    check_arguments(reward_fn, ARGUMENTS, {}, source)
    return reward_fn


def _interface(target: RewardFn | type[RewardFn], source: RewardSource) -> str:
    """How to call `target`, or an object of it if it is a class."""
    config, parameters = source.config, parameters_of(target)
    interface = config.interface
    if not config.path:
        return "ssr1"
    if interface == "auto":
        interface = recognised(list(parameters))
        if interface == "openrlhf":
            raise ConfigError(openrlhf_refused(source.field, config.path, list(parameters)))
        if interface == "trl" and reads_messages(source.code or _source_text(target), config.path.rpartition(":")[2]):
            interface = "trl_messages"
    if interface != "ssr1" and parameters and (problem := missing_in(interface, parameters)):
        raise ConfigError(
            f"{source.field}.path {config.path!r} cannot be called by {source.field}.interface={interface}: {problem}"
        )
    return interface


def _source_text(target: RewardFn | type[RewardFn]) -> str:
    """The source text of the module that defines `target`; empty if there is none."""
    try:
        return inspect.getsource(inspect.getmodule(target) or types)
    except (OSError, TypeError):
        return ""


def check_callable(target: object, name: str, arguments: Sequence[str] = ARGUMENTS) -> None:
    """Raises `ConfigError` if `target` cannot be called at all."""
    if not callable(target):
        raise ConfigError(
            f"{name} is a {type(target).__name__}, which cannot be called; "
            f"it has to be a function or an object with __call__({', '.join(arguments)})"
        )


def check_arguments(
    target: Callable[..., object], arguments: Sequence[str], options: Mapping[str, object], source: RewardSource
) -> None:
    """Raises `ConfigError` if `target` cannot be called with so many positional arguments and the options."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # functions written in C may have none
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        _check_options(dict(list(signature.parameters.items())[len(arguments) :]), options, source)
        called = f"({', '.join([*arguments, '**options'])})"
        raise ConfigError(
            f"{described(source)} cannot be called as {called} with {source.field}.options {dict(options)!r}: "
            f"{error}; its signature is {signature}"
        ) from error


def _check_options(
    parameters: Mapping[str, inspect.Parameter], options: Mapping[str, object], source: RewardSource
) -> None:
    """Raises `ConfigError` for an option that is none of these parameters."""
    kinds = {parameter.kind for parameter in parameters.values()}
    taken = [name for name, parameter in parameters.items() if parameter.kind != inspect.Parameter.POSITIONAL_ONLY]
    unknown = next((option for option in options if option not in taken), "")
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ConfigError(
            f"{source.field}.options has no {unknown!r}{nearest_of(unknown, taken)}; "
            f"{described(source)} takes {', '.join(taken) or 'no options'}"
        )
