"""runtime_env: what Ray would ignore, or refuse only when an actor starts, is refused at the start."""

import json

import pytest
from ray._private.runtime_env.utils import SubprocessCalledProcessError
from ray.exceptions import RuntimeEnvSetupError
from ray.runtime_env import RuntimeEnv

from ssr1_rl.checks.reward_source import check_reward_source, reward_notes
from ssr1_rl.checks.runtime_env import check_runtime_env
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.rewards.runtime_env import runtime_env_failed, setup_timeout_s
from ssr1_rl.rewards.source import RewardSource


@pytest.mark.parametrize(
    ("runtime_env", "message"),
    [
        ({"pipp": ["x"]}, r"rewards\[1\]\.runtime_env has no 'pipp', which Ray would ignore; did you mean pip\?"),
        ({"envvars": {}}, r"has no 'envvars', .*did you mean env_vars\?"),
        ({"workingdir": "x"}, r"did you mean working_dir\?"),
        ({"_nsight": "x"}, "has no '_nsight', which Ray would ignore; did you mean nsight"),
        ({"packages": ["x"]}, "has no 'packages', which Ray would ignore; "),
        ({"config": {"setup_timeout": 5}}, r"runtime_env\.config has no 'setup_timeout', .* setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": "5"}}, "is refused by Ray: setup_timeout_seconds must be of type int"),
        ({"config": 5}, "is refused by Ray: "),
        ({"env_vars": {"N": 4}}, r'runtime_env\.env_vars\.N must be text, got a int: quote the value, as in N: "4"'),
        ({"env_vars": {"FLAG": True}}, r"env_vars\.FLAG must be text, got a bool"),
        ({"env_vars": {"KEY": None}}, r"env_vars\.KEY must be text, got a NoneType"),
        ({"env_vars": ["A=1"]}, r"env_vars must hold names and texts, got a list"),
        ({"env_vars": {"A=B": "1"}}, r"env_vars has the name 'A=B', which cannot be that of a variable"),
        ({"env_vars": {"": "1"}}, r"env_vars has the name ''"),
        (
            {"working_dir": "nowhere"},
            r"runtime_env\.working_dir 'nowhere' is a folder .*, and there is none in /.* either",
        ),
        (
            {"working_dir": "."},
            r"working_dir '\.' is a folder or file of this machine: Ray uploads folders only with a job",
        ),
        ({"py_modules": ["nowhere"]}, r"py_modules\[0\] 'nowhere' is a folder or file of this machine"),
        ({"py_modules": "x"}, "is refused by Ray: `py_modules` must be a list of strings"),
        (
            {"pip": "requests"},
            r"pip 'requests' is no file of requirements in /.*; for packages write a list: \[requests\]",
        ),
        ({"pip": 5}, r"is refused by Ray: runtime_env\['pip'\] must be of type"),
        ({"pip": {"package": ["x"]}}, r"is refused by Ray: runtime_env\['pip'\] can only have these fields"),
        ({"uv": ["x"], "pip": ["x"]}, "is refused by Ray: The 'pip' field, 'uv' field"),
        ({"image_uri": "x", "pip": ["x"]}, "is refused by Ray: The 'image_uri' field"),
    ],
)
def test_mistakes_are_named(runtime_env, message):
    with pytest.raises(ValueError, match=message):
        check_reward_source(RewardConfig(name="accuracy", runtime_env=runtime_env), "rewards[1]")


@pytest.mark.parametrize(
    "runtime_env",
    [
        {},
        {"pip": ["requests"]},
        {"pip": {"packages": ["requests"], "pip_check": False}},
        {"uv": ["requests"]},
        {"conda": "my_env"},
        {"env_vars": {"A": "1"}, "config": {"setup_timeout_seconds": 1800}},
        {"working_dir": "https://example.org/code.zip"},
        {"nsight": "default"},
        {"image_uri": "registry/image:1", "env_vars": {"A": "1"}},
    ],
)
def test_what_ray_takes_is_accepted(runtime_env):
    check_runtime_env(RewardConfig(runtime_env=runtime_env), "rewards[0]")


def test_every_field_of_ray_is_accepted_by_name():
    values = {"working_dir": "s3://b/c.zip", "config": {}, "env_vars": {}, "pip": [], "uv": [], "py_modules": []}
    for name in RuntimeEnv.known_fields:
        if not name.startswith("_") and name not in ("container", "image_uri", "conda", "excludes"):
            check_runtime_env(RewardConfig(runtime_env={name: values.get(name, "x")}), "rewards[0]")


class Plugin:
    name = "gift"


def test_a_plugin_s_field_is_known(monkeypatch):
    gift = RewardConfig(runtime_env={"gift": "x"})
    with pytest.raises(ValueError, match="has no 'gift'"):
        check_runtime_env(gift, "rewards[0]")
    monkeypatch.setenv("RAY_RUNTIME_ENV_PLUGINS", json.dumps([{"class": f"{__name__}.Plugin"}]))
    with pytest.raises(ValueError, match=r"has no 'gfit', .* did you mean gift"):
        check_runtime_env(RewardConfig(runtime_env={"gfit": "x"}), "rewards[0]")


def test_no_value_of_env_vars_is_shown():
    secret = RewardConfig(name="accuracy", runtime_env={"env_vars": {"KEY": 12345678}, "pip": ["x"]})
    with pytest.raises(ValueError) as error:
        check_runtime_env(secret, "rewards[0]")
    assert "12345678" not in str(error.value)
    assert reward_notes([secret]) == [
        "rewards[0]: Ray sets up its runtime_env (env_vars, pip), which may take minutes, before its actors start"
    ]


def test_the_wait_for_an_actor_is_longer_than_ray_s_own_for_the_set_up():
    assert setup_timeout_s(RewardConfig()) == 600
    assert setup_timeout_s(RewardConfig(runtime_env={"config": {"setup_timeout_seconds": 1800}})) == 1800
    assert setup_timeout_s(RewardConfig(runtime_env={"config": {"setup_timeout_seconds": -1}})) == float("inf")


PIP = """ERROR: Could not find a version that satisfies the requirement no-such-package (from versions: none)
ERROR: No matching distribution found for no-such-package
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            str(SubprocessCalledProcessError(1, ["pip", "install"], output=PIP, cmd_index=3)),
            "ERROR: No matching distribution found for no-such-package",
        ),
        (
            "Failed to install runtime_env within the timeout of 5 seconds. Consider increasing\nTraceback\nERROR: x",
            None,
        ),
        ("Traceback\n  File\nValueError: conda env nope does not exist\n", "ValueError: conda env nope does not exist"),
        ("", "Failed to set up runtime environment."),
    ],
)
def test_the_error_of_a_runtime_env_ends_with_the_installer_s_last_words(text, reason):
    source = RewardSource("rewards[2]", RewardConfig(name="judge", path="j.py:judge", runtime_env={"pip": ["x"]}))
    reason = reason or "Failed to install runtime_env within the timeout of 5 seconds"
    assert runtime_env_failed(source, RuntimeEnvSetupError(text)) == (
        f"the runtime_env of reward function 'judge' could not be set up: {reason}; fix rewards[2].runtime_env (pip)"
    )
