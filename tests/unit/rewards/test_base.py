"""Finding a reward function, and checking what one returns."""

import math
import os
import subprocess
import sys
import traceback
from fractions import Fraction

import numpy as np
import pytest

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.rewards.base import InvalidRewards, check_rewards, is_async
from ssr1_rl.rewards.format import Format
from ssr1_rl.rewards.load import build_reward_fn, check_reward, read_source
from ssr1_rl.rewards.source import reward_name
from ssr1_rl.types import Completion, Question

QUESTION = Question(id="q", text="?", ground_truth="dog")
COMPLETIONS = [
    Completion(token_ids=(1, 2), logprobs=(-0.5, -0.5), text=text, finish_reason="stop") for text in ("ab", "abcd")
]

REWARDS_FILE = """
from __future__ import annotations
import threading
from dataclasses import dataclass

LOCK = threading.Lock()  # cannot be pickled

def brevity(question, completions, per_char=1.0):
    with LOCK:
        return [-per_char * len(c.text) for c in completions]

def positional(question, completions, /, scale=1.0):
    return [scale for _ in completions]

async def slow(question, completions):
    return [1.0 for _ in completions]

@dataclass
class Judge:
    bonus: float = 0.5
    def __call__(self, question, completions):
        return [self.bonus] * len(completions)

class AsyncJudge:
    async def __call__(self, question, completions):
        return [2.0] * len(completions)

class Broken:
    def __init__(self):
        raise OSError("no model here")

judge = Judge(bonus=3.0)
number = 3
def no_arguments():
    return []
"""


@pytest.fixture
def rewards_file(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(REWARDS_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my_rewards.py"


def load(config: RewardConfig):
    return build_reward_fn(read_source(config))


def user(path: str, **settings) -> RewardConfig:
    return RewardConfig(path=path, **settings)


def test_built_in_by_name_with_options():
    assert isinstance(load(RewardConfig(name="accuracy", options={"match": "mmau"})), Accuracy)
    assert isinstance(load(RewardConfig(name="format", options={"partial_credit": True})), Format)


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        ("brevity", {}, [-2.0, -4.0]),
        ("brevity", {"per_char": 0.5}, [-1.0, -2.0]),
        ("positional", {"scale": 3.0}, [3.0, 3.0]),
        ("Judge", {}, [0.5, 0.5]),
        ("Judge", {"bonus": 1.5}, [1.5, 1.5]),
        ("judge", {}, [3.0, 3.0]),
    ],
)
def test_users_own_from_a_file(rewards_file, function, options, expected):
    reward_fn = load(user(f"my_rewards.py:{function}", options=options))
    assert reward_fn(QUESTION, COMPLETIONS) == expected


def test_users_own_from_an_absolute_path(rewards_file, monkeypatch):
    monkeypatch.chdir("/")
    assert load(user(f"{rewards_file}:brevity"))(QUESTION, COMPLETIONS) == [-2.0, -4.0]


def test_users_own_from_a_module(rewards_file, monkeypatch):
    package = rewards_file.parent / "reward_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    rewards_file.rename(package / "mod.py")
    monkeypatch.syspath_prepend(str(rewards_file.parent))
    assert load(user("reward_pkg.mod:brevity"))(QUESTION, COMPLETIONS) == [-2.0, -4.0]


def test_file_travels_as_source_text(rewards_file):
    source = read_source(user("my_rewards.py:brevity"))
    rewards_file.unlink()  # as on another node
    assert build_reward_fn(source)(QUESTION, COMPLETIONS) == [-2.0, -4.0]


def test_file_is_compiled_without_our_own_future_imports(rewards_file):
    rewards_file.write_text("def f(question, completions) -> 3: ...\ndef g(q, c): return [f.__annotations__['return']]")
    assert load(user("my_rewards.py:g"))(QUESTION, COMPLETIONS) == [3]


def test_traceback_shows_the_line_of_a_file_that_is_not_here(rewards_file):
    source = read_source(user("my_rewards.py:brevity"))
    rewards_file.unlink()
    reward_fn = build_reward_fn(source)
    try:
        reward_fn(QUESTION, [None])  # type: ignore[list-item]
    except AttributeError as error:
        assert "return [-per_char * len(c.text) for c in completions]" in "".join(traceback.format_exception(error))
    else:
        pytest.fail("None has no text")


@pytest.mark.parametrize(
    ("function", "expected"), [("slow", True), ("AsyncJudge", True), ("brevity", False), ("Judge", False)]
)
def test_is_async(rewards_file, function, expected):
    reward_fn = load(user(f"my_rewards.py:{function}"))
    assert is_async(reward_fn) is expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RewardConfig(), r"rewards\[2\]\.name and rewards\[2\]\.path are both empty"),
        (RewardConfig(name="acuracy"), r"rewards\[2\]\.name 'acuracy' is not a built-in .*did you mean 'accuracy'\?"),
        (
            RewardConfig(name="length"),
            r"'length' is not a built-in reward \(built in are accuracy, format; .*path",
        ),
        (RewardConfig(name="accuracy", options={"mach": "mmau"}), r"options has no 'mach'; did you mean 'match'\?"),
        (RewardConfig(name="accuracy", options={"match": "x"}), r"options {'match': 'x'} do not build .*got 'x'"),
        (user("my_rewards.py"), r"path must be 'file.py:function' or .*, got 'my_rewards.py'"),
        (user("my rewards:brevity"), r"path must be 'file.py:function'"),
        (user("my_rewards.py:a-b"), r"path must be 'file.py:function'"),
        (user("missing.py:brevity"), r"rewards\[2\]\.path 'missing.py:brevity': there is no file 'missing.py' in /"),
        (user("my_rewards.py:brevty"), r"my_rewards.py has no 'brevty'; did you mean 'brevity'\?"),
        (user("my_rewards.py:number"), r"is a int, which cannot be called; it has to be a function"),
        (user("my_rewards.py:no_arguments"), r"cannot be called as \(question, completions, .*too many positional"),
        (user("my_rewards.py:brevity", options={"per_chr": 1}), r"has no 'per_chr'; did you mean 'per_char'\?"),
        (user("my_rewards.py:brevity", options={"question": 1}), r"options has no 'question'; .* takes per_char"),
        (user("my_rewards.py:positional", options={"scle": 1}), r"has no 'scle'; did you mean 'scale'\?"),
        (user("my_rewards.py:slow", options={"x": 1}), r"has no 'x'; .* takes no options"),
        (user("my_rewards.py:Judge", options={"bnus": 1}), r"has no 'bnus'; did you mean 'bonus'\?"),
        (user("my_rewards.py:Broken"), r"do not build .*OSError: no model here"),
        (user("no_such_module:brevity"), r"loading no_such_module raised ModuleNotFoundError.*runtime_env"),
        (user("syntax.py:f"), r"syntax.py is not valid Python: "),
        (user("raises.py:f"), r"loading raises.py raised ZeroDivisionError: division by zero"),
        (user("exits.py:f"), r"loading exits.py raised SystemExit: 3"),
    ],
)
def test_mistakes_are_named(rewards_file, config, message):
    (rewards_file.parent / "syntax.py").write_text("def f(:")
    (rewards_file.parent / "raises.py").write_text("1 / 0")
    (rewards_file.parent / "exits.py").write_text("import sys; sys.exit(3)")
    with pytest.raises(ValueError, match=message):
        build_reward_fn(read_source(config, "rewards[2]"))


def test_early_check_runs_no_code_that_has_its_own_runtime_env(rewards_file):
    (rewards_file.parent / "needs_pip.py").write_text("import package_of_its_runtime_env\ndef f(q, c): return []")
    check_reward(user("needs_pip.py:f", runtime_env={"pip": ["package_of_its_runtime_env"]}))
    with pytest.raises(ValueError, match="package_of_its_runtime_env"):
        check_reward(user("needs_pip.py:f"))


def test_early_check_builds_no_class_of_the_user(rewards_file):
    check_reward(user("my_rewards.py:Broken"))
    with pytest.raises(ValueError, match="has no 'brevty'"):
        check_reward(user("my_rewards.py:brevty"))


def test_the_user_s_file_runs_once_in_the_controller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counts.py").write_text(
        "open('runs', 'a').write('x')\ndef f(q, c): return []\ndef g(q, c): return []\n"
    )
    for function in ("f", "g", "f"):
        check_reward(user(f"counts.py:{function}"))
    assert (tmp_path / "runs").read_text() == "x"
    (tmp_path / "counts.py").write_text("def f(q, c): return [1]\n")
    assert load(user("counts.py:f"))(QUESTION, []) == [1], "another text is another module"


def test_the_user_s_file_changes_neither_folder_nor_environment_of_the_controller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEPT", "1")
    (tmp_path / "rude.py").write_text(
        "import os\nos.chdir('/')\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\ndel os.environ['KEPT']\n"
        "print('hello')\ndef f(q, c): return []\n"
    )
    check_reward(user("rude.py:f"))
    assert os.getcwd() == str(tmp_path)
    assert os.environ["KEPT"] == "1" and "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("function", "runtime_env", "expected"),
    [
        ("slow", {}, True),
        ("AsyncJudge", {}, True),
        ("brevity", {}, False),
        ("judge", {}, False),
        ("slow", {"env_vars": {"A": "1"}}, True),
        ("AsyncJudge", {"env_vars": {"A": "1"}}, True),
        ("Judge", {"env_vars": {"A": "1"}}, False),
    ],
)
def test_the_controller_knows_which_functions_are_async(rewards_file, function, runtime_env, expected):
    assert check_reward(user(f"my_rewards.py:{function}", runtime_env=runtime_env)).is_async is expected


def test_name_is_the_functions_unless_set():
    assert reward_name(user("a/b.py:brevity")) == "brevity"
    assert reward_name(user("a/b.py:brevity", name="short")) == "short"
    assert reward_name(RewardConfig(name="accuracy")) == "accuracy"


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.5],
        (1, Fraction(1, 2)),
        [True, 0.5],
        np.array([1.0, 0.5]),
        np.array([1.0, 0.5], dtype=np.float16),
        [np.float32(1.0), np.array(0.5)],
        [np.True_, np.float64(0.5)],
    ],
)
def test_numbers_are_rewards(values):
    rewards = check_rewards(values, 2)
    assert rewards == (1.0, 0.5)
    assert all(type(reward) is float for reward in rewards)


def test_none_means_that_the_reward_does_not_apply():
    assert check_rewards([None, True], 2) == (None, 1.0)
    assert check_rewards(np.array([None, 0.5], dtype=object), 2) == (None, 0.5)


def test_torch_tensors_are_rewards():
    torch = pytest.importorskip("torch")
    assert check_rewards(torch.tensor([1.0, 0.5], requires_grad=True), 2) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, math.nan], "reward 2 of 2 is nan"),
        ([math.inf, 1.0], "reward 1 of 2 is inf"),
        ([1.0, np.float32("nan")], "reward 2 of 2 is .*nan"),
        ([1.0, 10**400], "reward 2 of 2 is 1000"),
        ([1.0], "1 rewards for 2 completions"),
        ([1.0, 1.0, 1.0], "3 rewards for 2 completions"),
        ([], "0 rewards for 2 completions"),
        (["1.0", 1.0], "reward 1 of 2 is '1.0', which is not a number"),
        ([1.0, np.str_("1")], "which is not a number"),
        ([1.0, 1j], "which is not a number"),
        ([[1.0], [1.0]], "which is not a number"),
        (np.ones((2, 1)), "which is not a number"),
        (None, "has to return a list of 2 floats, got None"),
        (1.0, "has to return a list of 2 floats, got 1.0"),
        ("10", "has to return a list of 2 floats, got '10'"),
        ({0: 1.0, 1: 1.0}, "has to return a list of 2 floats, got {0"),
        ({1.0, 2.0}, "has to return a list of 2 floats"),
        ((x for x in (1.0, 1.0)), "has to return a list of 2 floats, got <generator"),
        (np.array(1.0), r"has to return a list of 2 floats, got array\(1"),
    ],
)
def test_anything_else_is_refused(values, message):
    with pytest.raises(InvalidRewards, match=message):
        check_rewards(values, 2)


def test_a_refused_value_that_cannot_be_shown_is_still_refused():
    class Hostile:
        def __repr__(self):
            raise RuntimeError("no repr")

    with pytest.raises(InvalidRewards, match="reward 1 of 1 is <Hostile"):
        check_rewards([Hostile()], 1)


def test_loading_imports_neither_ray_nor_torch():
    code = (
        "import sys, ssr1_rl.rewards.load, ssr1_rl.faults.budget; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
