"""No number is so large or so small that a run could only fail of it later."""

import dataclasses
import re
import typing

import pytest

from ssr1_rl.config.kinds import dotted
from ssr1_rl.config.schema import Config
from ssr1_rl.errors import ConfigError


def numbers(kind=Config, key=()):
    """Every setting that is a number, by its key, with its type."""
    for name, inner in typing.get_type_hints(kind).items():
        origin, args = typing.get_origin(inner), typing.get_args(inner)
        if inner in (int, float):
            yield (*key, name), inner
        elif dataclasses.is_dataclass(inner):
            yield from numbers(inner, (*key, name))
        elif origin in (list, dict) and dataclasses.is_dataclass(args[-1]):
            yield from numbers(args[-1], (*key, name, 0 if origin is list else "v"))
        elif origin is tuple:
            yield (*key, name, 0), args[0]


NUMBERS = [pytest.param(key, kind, id=dotted(key)) for key, kind in numbers()]


@pytest.mark.parametrize(("key", "kind"), NUMBERS)
def test_absurd_numbers_are_refused(load, key, kind):
    name = dotted(key)
    split = ["data.validation.v.path=q"] if key[:2] == ("data", "validation") else []
    absurd = ["1000000000000000000", "0.5", "1e308"] if kind is int else ["1e300"]
    for value in ["1e20", "-1e20", ".nan", "nan", "-.inf", *absurd]:
        with pytest.raises(ConfigError, match=f"override .*{re.escape(name)} must be"):
            load("", *split, f"{name}={value}")


def test_there_are_many_numbers():
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=4294967295",
        "grpo.clip_high=1e9",
        "guard.max_logprob_abs_diff=.inf",
        "rollout.generate_timeout_s=1e9",
        "learner.port=65535",
        "rewards[0].weight=-2.5",
        "grpo.num_steps=2147483647",
    ],
)
def test_what_can_be_meant_is_accepted(load, override):
    load("", override)


def test_a_bound_is_written_in_full(load):
    with pytest.raises(ConfigError, match=r"run\.seed must be at most 4294967295, got 100000000000000000000"):
        load("", "run.seed=100000000000000000000")


@pytest.mark.parametrize(("num_gpus", "is_right"), [(0, True), (0.25, True), (1, True), (2, True), (1.5, False)])
def test_a_reward_actor_gets_a_part_of_one_gpu_or_whole_ones(load, num_gpus, is_right):
    if is_right:
        load("", f"rewards[0].num_gpus={num_gpus}")
    else:
        with pytest.raises(ConfigError, match=r"rewards\[0\]\.num_gpus must be a whole number .*, got 1\.5"):
            load("", f"rewards[0].num_gpus={num_gpus}")
