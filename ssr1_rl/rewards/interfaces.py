"""Reward functions written for other trainers: recognised by their parameters, and called as those trainers call them.

| interface | called with | returns |
|---|---|---|
| `ssr1` | (question, completions) | a list of numbers or None |
| `trl` | prompts, completions, completion_ids and every column of the row, as keywords; texts | the same |
| `trl_messages` | the same, with prompts and completions as lists of messages | the same |
| `verl` | data_source, solution_str, ground_truth, extra_info, for each completion | a number, or a dict with "score" |
| | or the plurals of these names, once for all completions | a list of them |

A completion's text includes the tags that the prompt has opened. The columns are the entries of `question.metadata`,
and besides, unless an entry has the same name: `id`, `question`, `choices`, `kind`, `audio`, `ground_truth`, and the
latter also as `answer` and `solution`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ssr1_rl.rewards.base import InvalidRewards, RewardFn, is_async
from ssr1_rl.types import Completion, Question

Values: TypeAlias = Mapping[str, object]

_TRL_FIRST = ("prompts", "completions", "completion_ids")
_OF_TRL_S_TRAINER = ("trainer_state", "log_extra", "log_metric", "environments")
_VERL_PLURAL = {
    "data_source": "data_sources",
    "solution_str": "solution_strs",
    "ground_truth": "ground_truths",
    "extra_info": "extra_infos",
}


INTERFACES_IN_WORDS = {
    "trl": "as TRL does, with texts",
    "trl_messages": "as TRL does, with lists of messages",
    "verl": "as verl does",
}
"""For notes: how functions that are written for other trainers are called."""


def recognised(parameters: Sequence[str]) -> str:
    """The trainer that a function with these parameters is written for: ssr1, trl, verl or openrlhf."""
    names = set(parameters)
    if not parameters or parameters[0] == "question":
        return "ssr1"
    if "queries" in names and names & {"prompts", "labels"}:
        return "openrlhf"
    if names & {"solution_str", "solution_strs"}:
        return "verl"
    return "trl" if parameters[0] in _TRL_FIRST and names & {"completions", "completion_ids"} else "ssr1"


def reads_messages(code: str | bytes, function: str) -> bool:
    """Whether a function of a file reads `x[0]["content"]`, as those do to which TRL hands lists of messages.

    It may do so itself, or in the functions and classes of the file that it names.
    """
    definitions = {
        node.name: node
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    seen, to_do = set[str](), [function]
    while to_do:
        name = to_do.pop()
        if name in definitions and name not in seen:
            seen.add(name)
            nodes = list(ast.walk(definitions[name]))
            if any(map(_reads_content_of_a_message, nodes)):
                return True
            to_do += [node.id for node in nodes if isinstance(node, ast.Name)]
    return False


def _reads_content_of_a_message(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        value, key = node.func.value, node.args[0]
    elif isinstance(node, ast.Subscript):
        value, key = node.value, node.slice
    else:
        return False
    return isinstance(key, ast.Constant) and key.value == "content" and _is_indexed(value)


def openrlhf_refused(field: str, path: str, parameters: Sequence[str]) -> str:
    """The error for a function that is written for OpenRLHF, with the wrapper to write."""
    name = path.rpartition(":")[2]
    return (
        f"{field}.path {path!r} is written for OpenRLHF ({', '.join(parameters)}), which is not served; "
        f"write a function that calls it, and name that: def reward(question, completions): "
        f"return {name}([question.text + c.text for c in completions], [question.text] * len(completions), "
        '[question.ground_truth] * len(completions))["rewards"].tolist()'
    )


def parameters_of(target: RewardFn | type[RewardFn]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a call, of an object of it if `target` is a class; empty if Python cannot tell."""
    try:
        found = inspect.signature(target.__call__ if isinstance(target, type) else target).parameters
    except ValueError:  # functions written in C may have no signature
        return {}
    return dict(list(found.items())[1:]) if isinstance(target, type) else found


def missing_in(interface: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Why a function cannot be called by this interface; empty if it can."""
    required = [name for name, parameter in parameters.items() if _is_required(parameter)]
    of_trainer = [name for name in required if name in _OF_TRL_S_TRAINER]
    if interface.startswith("trl") and of_trainer:
        return f"its parameter {of_trainer[0]!r} comes from TRL's trainer, which is not here; give it a default"
    takes_any = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    wanted = {"verl": {"solution_str", "solution_strs"}}.get(interface, {"completions", "completion_ids"})
    if not takes_any and not wanted & parameters.keys():
        return f"it takes none of {', '.join(sorted(wanted))}, with which {interface.partition('_')[0]} calls a reward"
    return ""


def adapted(reward_fn: RewardFn, interface: str, options: Values) -> RewardFn:
    """A function of (question, completions) that calls `reward_fn` as the other trainer does."""
    call = _Call(reward_fn, options)
    if interface == "verl":
        plural = "solution_strs" in parameters_of(reward_fn)
        return _verl_in_one_call(call) if plural else _verl(call)
    return _trl(call, as_messages=interface == "trl_messages")


class _Call:
    """Calls a function with those of the values that it takes, and with its options."""

    def __init__(self, reward_fn: RewardFn, options: Values) -> None:
        self._reward_fn: Callable[..., Any] = reward_fn
        self.is_async = is_async(reward_fn)
        self._options = dict(options)
        parameters = parameters_of(reward_fn)
        self._required = [name for name, parameter in parameters.items() if _is_required(parameter)]
        kinds = {parameter.kind for parameter in parameters.values()}
        self._taken = None if inspect.Parameter.VAR_KEYWORD in kinds or not parameters else parameters.keys()

    def __call__(self, values: Values) -> Any:
        given = {**values, **self._options}
        missing = [name for name in self._required if name not in given]
        if missing:
            raise InvalidRewards(
                f"it takes {missing[0]!r}, and the question has no column of this name: it has "
                f"{', '.join(sorted(given))}; add the column to the data, or set it in options"
            )
        taken = self._taken
        return self._reward_fn(**(given if taken is None else {k: v for k, v in given.items() if k in taken}))


def _trl(call: _Call, as_messages: bool) -> RewardFn:
    def values(question: Question, completions: Sequence[Completion]) -> Values:
        texts = [completion.full_text for completion in completions]
        num = len(texts)
        if as_messages:
            prompts = [[{"role": "user", "content": question.text}] for _ in texts]
            answers = [[{"role": "assistant", "content": text}] for text in texts]
        else:
            prompts, answers = [question.text] * num, texts
        columns = {name: [value] * num for name, value in _columns(question).items()}
        ids = [list(completion.token_ids) for completion in completions]
        return {**columns, "prompts": prompts, "completions": answers, "completion_ids": ids}

    async def trl_async(question: Question, completions: Sequence[Completion]) -> Sequence[float | None]:
        return await call(values(question, completions))

    def trl(question: Question, completions: Sequence[Completion]) -> Sequence[float | None]:
        return call(values(question, completions))

    return trl_async if call.is_async else trl


def _verl(call: _Call) -> RewardFn:
    def results(question: Question, completions: Sequence[Completion]) -> list[Any]:
        return [call(_verl_values(question, completion)) for completion in completions]

    async def verl_async(question: Question, completions: Sequence[Completion]) -> list[Any]:
        return list(map(_score, await asyncio.gather(*results(question, completions))))

    async def awaited(found: list[Awaitable[object]]) -> list[Any]:
        return list(map(_score, await asyncio.gather(*found)))

    def verl(question: Question, completions: Sequence[Completion]) -> list[Any] | Awaitable[list[Any]]:
        found = results(question, completions)
        return awaited(found) if found and all(map(inspect.isawaitable, found)) else list(map(_score, found))

    return verl_async if call.is_async else verl


def _verl_in_one_call(call: _Call) -> RewardFn:
    def values(question: Question, completions: Sequence[Completion]) -> Values:
        rows = [_verl_values(question, completion) for completion in completions]
        return {plural: [row[name] for row in rows] for name, plural in _VERL_PLURAL.items()}

    async def verl_async(question: Question, completions: Sequence[Completion]) -> list[Any]:
        return list(map(_score, await call(values(question, completions))))

    def verl(question: Question, completions: Sequence[Completion]) -> list[Any]:
        return list(map(_score, call(values(question, completions))))

    return verl_async if call.is_async else verl


def _verl_values(question: Question, completion: Completion) -> dict[str, object]:
    columns = _columns(question)
    extra = columns.get("extra_info")
    return {
        "data_source": columns.get("data_source", question.kind),
        "solution_str": completion.full_text,
        "ground_truth": columns["ground_truth"],
        "extra_info": {**columns, **(extra if isinstance(extra, Mapping) else {})},
    }


def _score(result: object) -> object:
    """The number in what verl's function returned for one completion."""
    if not isinstance(result, Mapping):
        return result
    if "score" not in result:
        raise InvalidRewards(f"it returned a dict without 'score': it has {', '.join(map(str, result)) or 'nothing'}")
    return result["score"]


def _columns(question: Question) -> dict[str, object]:
    truth = question.ground_truth
    own: dict[str, object] = {"answer": truth, "solution": truth, "ground_truth": truth, "question": question.text}
    own |= {"id": question.id, "kind": question.kind, "choices": list(question.choices)}
    own["audio"] = [clip.path for clip in question.audio]
    return {**own, **{str(name): value for name, value in question.metadata.items()}}


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variadic


def _is_indexed(node: ast.expr) -> bool:
    """Whether an expression is `x[0]` or `x[-1]`."""
    if not isinstance(node, ast.Subscript):
        return False
    index = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
    return isinstance(index, ast.Constant) and isinstance(index.value, int)
