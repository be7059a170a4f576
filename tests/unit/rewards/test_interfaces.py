"""Reward functions written for TRL and verl are recognised by their parameters and called as there."""

import asyncio
import inspect

import pytest

from ssr1_rl.checks.reward_source import check_reward_source, reward_notes
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.rewards.base import InvalidRewards, is_async
from ssr1_rl.rewards.interfaces import reads_messages, recognised
from ssr1_rl.rewards.load import build_reward_fn, check_reward, read_source
from ssr1_rl.types import AudioRef, Completion, Question

METADATA = {"solution": "$dog$", "level": 3, "extra_info": {"split": "train"}}
QUESTION = Question("q7", "What barks?", "dog", ("cat", "dog"), (AudioRef("a.wav"),), "sound", metadata=METADATA)
COMPLETIONS = [
    Completion((1, 2), (0.0, 0.0), " I hear </think> dog", "stop", prefill="<think>"),
    Completion((3,), (0.0,), "cat", "stop"),
]
FULL = ["<think> I hear </think> dog", "cat"]

REWARDS_FILE = """
import asyncio

CALLS = []

def trl_all(prompts, completions, **kwargs):
    CALLS.append((prompts, completions, kwargs))
    return [1.0, None]

def trl_some(completions, solution, level):
    return [float(s.strip("$") in c) * n for c, s, n in zip(completions, solution, level)]

def trl_messages(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]

async def trl_async(prompts, completions, completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [float(len(ids)) for ids in completion_ids]

def trl_column(completions, target, **kwargs):
    return [0.0 for _ in completions]

def trl_trainer(completions, trainer_state, **kwargs):
    return [0.0 for _ in completions]

class TrlJudge:
    def __init__(self, bonus):
        self.bonus = bonus
    def __call__(self, prompts, completions, **kwargs):
        return [self.bonus for _ in completions]

def verl(data_source, solution_str, ground_truth, extra_info=None):
    CALLS.append((data_source, solution_str, ground_truth, extra_info))
    return float(ground_truth in solution_str)

def verl_dict(data_source, solution_str, ground_truth, extra_info, bonus=0.0):
    return {"score": float(ground_truth in solution_str) + bonus, "acc": 1}

def verl_without_score(solution_str, ground_truth):
    return {"acc": 1.0}

def verl_short(solution_str, ground_truth):
    return float(ground_truth in solution_str)

async def verl_async(data_source, solution_str, ground_truth, extra_info, **kwargs):
    await asyncio.sleep(0)
    return {"score": float(ground_truth in solution_str)}

def verl_batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [{"score": float(g in s)} for s, g in zip(solution_strs, ground_truths)]

def openrlhf(queries, prompts, labels):
    return {"rewards": [0.0 for _ in queries]}

def ours(question, completions, prompts="file", solution_str="x"):
    return [float(len(c.text)) for c in completions]
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "r.py").write_text(REWARDS_FILE)
    monkeypatch.chdir(tmp_path)


def user(function, **settings):
    return RewardConfig(path=f"r.py:{function}", **settings)


def rewards_of(config):
    reward_fn = build_reward_fn(read_source(config))
    values = reward_fn(QUESTION, COMPLETIONS)
    assert is_async(reward_fn) == inspect.isawaitable(values)
    return asyncio.run(awaited(values)) if inspect.isawaitable(values) else values


async def awaited(values):
    return await values


@pytest.mark.parametrize(
    ("function", "settings", "expected"),
    [
        ("trl_all", {}, [1.0, None]),
        ("trl_some", {}, [3.0, 0.0]),
        ("trl_some", {"options": {"level": [7, 7]}}, [7.0, 0.0]),
        ("trl_messages", {}, [27.0, 3.0]),
        ("trl_messages", {"interface": "trl_messages"}, [27.0, 3.0]),
        ("trl_async", {}, [2.0, 1.0]),
        ("TrlJudge", {"options": {"bonus": 0.5}}, [0.5, 0.5]),
        ("verl", {}, [1.0, 0.0]),
        ("verl_dict", {}, [1.0, 0.0]),
        ("verl_dict", {"options": {"bonus": 0.25}}, [1.25, 0.25]),
        ("verl_short", {}, [1.0, 0.0]),
        ("verl_async", {}, [1.0, 0.0]),
        ("verl_batch", {}, [1.0, 0.0]),
        ("ours", {}, [20.0, 3.0]),
    ],
)
def test_it_is_called_as_its_parameters_say(file, function, settings, expected):
    config = user(function, **settings)
    check_reward_source(config, "rewards[0]")
    assert check_reward(config).is_async == ("async" in function)
    assert rewards_of(config) == expected


def test_trl_s_functions_get_texts_and_every_column(file):
    reward_fn = build_reward_fn(read_source(user("trl_all")))
    reward_fn(QUESTION, COMPLETIONS)
    module = inspect.getmodule(build_reward_fn(read_source(user("ours"))))
    (prompts, completions, columns) = module.CALLS.pop()
    assert (prompts, completions) == (["What barks?"] * 2, FULL)
    assert columns["completion_ids"] == [[1, 2], [3]]
    assert columns["solution"] == ["$dog$"] * 2, "the row's own column wins"
    assert columns["answer"] == columns["ground_truth"] == ["dog"] * 2
    assert (columns["choices"], columns["audio"], columns["level"]) == ([["cat", "dog"]] * 2, [["a.wav"]] * 2, [3, 3])


def test_verl_s_functions_get_the_row_as_extra_info(file):
    build_reward_fn(read_source(user("verl")))(QUESTION, COMPLETIONS)
    module = inspect.getmodule(build_reward_fn(read_source(user("ours"))))
    (_, (source, solution, truth, extra)) = module.CALLS.pop(), module.CALLS.pop()
    assert (source, solution, truth) == ("sound", FULL[0], "dog")
    assert (extra["split"], extra["level"], extra["question"]) == ("train", 3, "What barks?")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("trl_column", "it takes 'target', and the question has no column of this name: it has answer, audio, "),
        ("verl_without_score", "it returned a dict without 'score': it has acc"),
    ],
)
def test_what_a_question_lacks_is_named(file, function, error):
    with pytest.raises(InvalidRewards, match=error):
        rewards_of(user(function))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (user("openrlhf"), r"written for OpenRLHF \(queries, prompts, labels\), which is not served; write a function"),
        (user("openrlhf"), r"return openrlhf\(\[question.text \+ c.text for c in completions\], "),
        (user("trl_trainer"), "its parameter 'trainer_state' comes from TRL's trainer, which is not here"),
        (user("trl_some", interface="verl"), "it takes none of solution_str, solution_strs, with which verl calls a"),
        (user("verl_short", interface="trl"), "it takes none of completion_ids, completions, with which trl calls"),
        (user("trl_some", options={"levl": 1}), "options has no 'levl'; did you mean 'level'"),
        (user("TrlJudge"), "cannot be called as .*missing a required argument: 'bonus'"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(file, config, message):
    with pytest.raises(ValueError, match=message):
        check_reward(config)


def test_the_dry_run_refuses_openrlhf_s_functions_and_tells_how_others_are_called(file):
    with pytest.raises(ValueError, match=r"rewards\[1\]\.path 'r.py:openrlhf' is written for OpenRLHF"):
        check_reward_source(user("openrlhf"), "rewards[1]")
    functions = ("ours", "verl_async", "TrlJudge", "missing")
    notes = reward_notes([RewardConfig(name="accuracy"), *map(user, functions)])
    assert [note.split(", as its")[0] for note in notes] == [
        "rewards[2].path r.py:verl_async is called as verl does",
        "rewards[3].path r.py:TrlJudge is called as TRL does, with texts",
    ]
    with pytest.raises(ValueError, match=r"rewards\[0\]\.interface=trl is for functions of your own"):
        check_reward_source(RewardConfig(name="accuracy", interface="trl"), "rewards[0]")


@pytest.mark.parametrize(
    ("parameters", "trainer"),
    [
        (["question", "completions"], "ssr1"),
        (["q", "cs"], "ssr1"),
        (["question", "completions", "prompts", "solution_str"], "ssr1"),
        (["args", "kwargs"], "ssr1"),
        ([], "ssr1"),
        (["prompts", "responses"], "ssr1"),
        (["completions", "kwargs"], "trl"),
        (["completion_ids", "kwargs"], "trl"),
        (["prompts", "completions", "answer"], "trl"),
        (["solution_str", "ground_truth"], "verl"),
        (["data_source", "solution_str", "ground_truth", "extra_info"], "verl"),
        (["data_sources", "solution_strs", "ground_truths", "extra_infos"], "verl"),
        (["queries", "prompts", "labels"], "openrlhf"),
    ],
)
def test_recognised(parameters, trainer):
    assert recognised(parameters) == trainer


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('def f(c): return [x[0]["content"] for x in c]', True),
        ('def f(c): return c[0][-1]["content"]', True),
        ('def f(c): return c[0].get("content", "")', True),
        ('def text(c): return c[0]["content"]\ndef f(c): return list(map(text, c))', True),
        ('class f:\n def __call__(self, c): return c[0]["content"]', True),
        ('def text(c): return c[0]["content"]\ndef f(c): return f(c)', False),
        ('def f(c): return r.json()["choices"][0]["message"]["content"]', False),
        ('def f(c): return {"role": "user", "content": c[0]}', False),
        ("def f(c): return c.content[0]", False),
        ("", False),
    ],
)
def test_a_function_that_reads_messages(code, expected):
    assert reads_messages(code, "f") is expected
