"""The format reward: strict, and with partial credit."""

import pytest

from ssr1_rl.rewards.format import Format
from ssr1_rl.types import Completion, Question

QUESTION = Question(id="q", text="?", ground_truth="dog")


def score(text: str, partial_credit: bool, prefill: str = "") -> float:
    completion = Completion(token_ids=(1,), logprobs=(-0.5,), text=text, finish_reason="stop", prefill=prefill)
    (reward,) = Format(partial_credit=partial_credit)(QUESTION, [completion])
    return reward


@pytest.mark.parametrize(
    ("text", "strict", "partial"),
    [
        ("<think>a</think><answer>b</answer>", 1.0, 1.0),
        (" \n<think>\na\nb\n</think>\n\n<answer> b </answer>\n", 1.0, 1.0),
        ("<think>a < b</think> <answer>c & d</answer>", 1.0, 1.0),
        # all four tags, but not well-formed
        ("Sure: <think>a</think><answer>b</answer>", 0.0, 0.75),
        ("<think>a</think><answer>b</answer> done", 0.0, 0.75),
        ("<think>a</think> so <answer>b</answer>", 0.0, 0.75),
        ("<think>a<answer>b</answer></think>", 0.0, 0.75),
        ("<answer>b</answer><think>a</think>", 0.0, 0.75),
        ("</think>a<think><answer>b</answer>", 0.0, 0.75),
        ("<think> </think><answer>b</answer>", 0.0, 0.75),
        ("<think>a</think><answer>\n</answer>", 0.0, 0.75),
        # tags missing or repeated
        ("<think>a</think><answer>b", 0.0, 0.75),
        ("<think>a</think>", 0.0, 0.5),
        ("<answer>b</answer>", 0.0, 0.5),
        ("<think>a", 0.0, 0.25),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0, 0.5),
        ("<think><think>a</think></think><answer>b</answer>", 0.0, 0.5),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", 0.0, 0.0),
        ("<think >a</think ><answer>b</answer>", 0.0, 0.5),
        ("b", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_format(text, strict, partial):
    assert score(text, partial_credit=False) == strict
    assert score(text, partial_credit=True) == partial


@pytest.mark.parametrize(
    ("prefill", "text", "strict", "partial"),
    [
        ("<think>\n", "a\n</think>\n<answer>b</answer>", 1.0, 1.0),
        ("<think>\n", "<think>a</think><answer>b</answer>", 0.0, 0.75),
        ("<think>\n", "</think><answer>b</answer>", 0.0, 0.75),
        ("<think>\n", "a <answer>b</answer>", 0.0, 0.75),
        ("<think>\n", "", 0.0, 0.25),
        # Qwen3 with enable_thinking=false: the prompt holds an empty thought
        ("<think>\n\n</think>\n\n", "<answer>b</answer>", 1.0, 1.0),
        ("<think>\n\n</think>\n\n", "<answer></answer>", 0.0, 0.75),
        ("<think>\n\n</think>\n\n", "<think>a</think><answer>b</answer>", 0.0, 0.5),
        ("<answer>", "b</answer>", 0.0, 0.5),
    ],
)
def test_tags_that_the_prompt_has_opened_belong_to_the_response(prefill, text, strict, partial):
    assert score(text, partial_credit=False, prefill=prefill) == strict
    assert score(text, partial_credit=True, prefill=prefill) == partial


def test_wrong_option_is_refused():
    with pytest.raises(ValueError, match="partial_credit must be true or false, got 'false'"):
        Format(partial_credit="false")  # type: ignore[arg-type]
