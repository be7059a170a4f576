"""Which chains are kept, and why others are not: every rule with hand-made answers."""

import pytest

from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.distill.generation.keep import judged
from ssr1_rl.inference.request import Answer
from ssr1_rl.types import Question

DOG = Question("7", "Which animal is it?", "dog", ("cat", "dog", "hot dog", "a cow"))
OPEN = Question("8", "How many barks?", "three")


def said(text, finish_reason="stop", **fields):
    return Answer("", text=text, finish_reason=finish_reason, num_tokens=len(text.split()), **fields)


def chain(answer, thoughts="A bark, then a growl."):
    return said(f"<think>{thoughts}</think>\n<answer>{answer}</answer>")


def judge(answers, question=DOG, **settings):
    return judged(question, answers, TeacherConfig(**settings))


def reasons(answers, question=DOG, **settings):
    return [found.reason for found in judge(answers, question, **settings)]


# --- by the label


def test_right_by_the_label_is_kept_in_the_format_that_a_student_learns():
    [right, wrong] = judge([chain("(B)"), chain("A")])
    assert right.kept and right.reason == "right" and right.is_right is True
    assert right.text == "<think> A bark, then a growl. </think> <answer> dog </answer>"
    assert (right.thoughts, right.answer) == ("A bark, then a growl.", "dog")
    assert (right.question_id, right.chain, right.finish_reason, right.num_tokens) == ("7", 0, "stop", 6)
    assert not wrong.kept and wrong.reason == "wrong answer" and wrong.is_right is False
    assert (wrong.chain, wrong.answer) == (1, "cat")


@pytest.mark.parametrize("answer", ["B", "b) dog", "The answer is dog", "option B", r"\boxed{B}", "Dog."])
def test_answers_are_read_as_the_accuracy_reward_reads_them(answer):
    [found] = judge([chain(answer)])
    assert found.kept and found.answer == "dog" and found.text.endswith("<answer> dog </answer>")


@pytest.mark.parametrize("answer", ["not B", "A or B", "dog, since B is a cat", "", "E", "Banana"])
def test_what_names_no_choice_is_no_answer(answer):
    [found] = judge([chain(answer)])
    assert (found.kept, found.reason, found.answer, found.is_right) == (False, "no answer", "", False)


def test_a_choice_that_contains_another_is_told_from_it():
    assert [found.answer for found in judge([chain("hot dog"), chain("C"), chain("cow")])] == [
        "hot dog",
        "hot dog",
        "a cow",
    ]


def test_an_answer_without_tags_is_none():
    assert reasons([said("A bark. The answer is B")]) == ["no answer"]


# --- by majority


def test_the_majority_is_kept_and_the_label_never_looked_at():
    unlabelled = Question("7", DOG.text, "no label", DOG.choices)  # `choice_match` refuses this label
    chains = judge(
        [chain("A", "one"), chain("B"), chain("(A) cat", "two"), chain("cat", "three")], unlabelled, keep="majority"
    )
    assert [found.reason for found in chains] == ["majority", "minority", "majority", "majority"]
    assert [found.kept for found in chains] == [True, False, True, True]
    assert [found.vote_share for found in chains] == [0.75, 0.25, 0.75, 0.75]
    assert all(found.is_right is None for found in chains)


def test_two_answers_with_equally_many_votes_are_a_tie():
    assert reasons([chain("A"), chain("B"), chain("A"), chain("B"), chain("C")], keep="majority") == [
        *["tie"] * 4,
        "minority",
    ]
    assert reasons([chain(letter) for letter in "ABCD"], keep="majority", min_vote_share=0) == ["tie"] * 4


def test_the_largest_group_may_be_too_small():
    answers = [chain("A", "one"), chain("A", "two"), chain("B"), chain("C"), chain("D")]
    assert reasons(answers, keep="majority")[:3] == ["too few votes", "too few votes", "minority"]
    assert reasons(answers, keep="majority", min_vote_share=0.4)[:3] == ["majority", "majority", "minority"]


def test_chains_without_an_answer_vote_for_nothing_and_still_count():
    answers = [
        chain("A", "one"),
        chain("A", "two"),
        said("<think>hm", "length"),
        said("", error="timed out"),
        said("?"),
    ]
    chains = judge(answers, keep="majority", min_vote_share=0.4)
    assert [found.vote_share for found in chains] == [0.4, 0.4, 0, 0, 0]
    assert [found.kept for found in chains] == [True, True, False, False, False]
    assert not any(found.kept for found in judge(answers, keep="majority", min_vote_share=0.5))


def test_a_chain_that_cannot_be_learnt_votes_with_its_answer():
    answers = [chain("A", "I see a cat"), chain("A", "a meow"), chain("B", "a bark")]
    assert reasons(answers, keep="majority", forbidden_words=["I see"]) == [
        "forbidden word: I see",
        "majority",
        "minority",
    ]


def test_answers_to_open_questions_are_equal_as_the_reward_compares_them():
    answers = [chain("3", "a"), chain("Three.", "b"), chain("four", "c"), chain(r"\boxed{3}", "d")]
    assert reasons(answers, OPEN, keep="majority") == ["majority", "majority", "minority", "majority"]
    assert [found.is_right for found in judge(answers, OPEN)] == [True, True, False, True]


# --- all


def test_all_keeps_every_chain_with_an_answer():
    chains = judge([chain("A"), chain("B"), said("no"), chain("D", "")], keep="all")
    assert [(found.kept, found.reason) for found in chains] == [
        (True, "answered"),
        (True, "answered"),
        (False, "no answer"),
        (False, "no thoughts"),
    ]
    assert [found.is_right for found in chains] == [False, True, False, False]


# --- what no rule keeps


def test_a_chain_that_was_cut_off_is_not_kept_even_with_an_answer():
    [found] = judge([said("<think>a bark</think><answer>B</answer> and", "length")])
    assert (found.kept, found.reason, found.finish_reason) == (False, "cut off", "length")


def test_a_failed_request_says_why():
    [found] = judge([said("", "", error="429 Too Many Requests")])
    assert (found.kept, found.reason, found.text) == (False, "failed: 429 Too Many Requests", "")
    assert found.is_right is None, "it is not known, and counts in no share"


@pytest.mark.parametrize(
    ("thoughts", "word"),
    [
        ("The image shows a dog", "image"),
        ("IMAGE of a dog", "image"),
        ("Here I  see\na dog", "I see"),
        ("(frame)", "frame"),
    ],
)
def test_forbidden_words_are_whole_words_in_any_case(thoughts, word):
    assert reasons([chain("B", thoughts)], forbidden_words=["image", "frame", "I see"]) == [f"forbidden word: {word}"]


@pytest.mark.parametrize("thoughts", ["imagery", "I seek", "a frameless door", "We see", "reimage"])
def test_parts_of_words_are_not_forbidden(thoughts):
    assert reasons([chain("B", thoughts)], forbidden_words=["image", "frame", "I see"]) == ["right"]


def test_a_forbidden_word_in_an_answer_is_the_question_s_own():
    question = Question("7", "What is heard?", "a video game", ("a video game", "a dog"))
    assert reasons([chain("A")], question) == ["right"]


def test_forbidden_words_are_no_patterns():
    assert reasons([chain("B", "a b"), chain("B", "a.b")], forbidden_words=["a.b"]) == ["right", "forbidden word: a.b"]
    assert reasons([chain("B")], forbidden_words=[]) == ["right"]


def test_of_equal_texts_the_first_is_kept():
    answers = [
        chain("A", "bark"),
        chain("B", "bark"),
        chain("(B)", "bark"),
        chain("dog", "a  bark"),
        chain("dog", "a bark"),
    ]
    assert reasons(answers) == ["wrong answer", "right", "duplicate", "right", "duplicate"]


def test_tags_inside_the_thoughts_are_malformed():
    texts = [
        "<think>a <answer>A</answer> b</think><answer>B</answer>",
        "<think>a</think> b <think>c</think><answer>B</answer>",
        "<think><think>a</think><answer>B</answer>",
    ]
    assert reasons(list(map(said, texts))) == ["malformed"] * 3


def test_special_tokens_that_are_spelled_out_are_not_learnt():
    assert reasons([chain("B", "a <|AUDIO|> b"), chain("B", "done<|im_end|>")]) == [
        "special token: <|AUDIO|>",
        "special token: <|im_end|>",
    ]


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("A bark.\n<answer>B</answer>", "A bark."),
        ("Sure! <think>\nA bark.\nA growl.\n</think> So: <answer>B</answer>", "A bark.\nA growl."),
        ("A bark.</think><answer>B</answer>", "A bark."),
        ("<think>A bark.<answer>B", "A bark."),
    ],
)
def test_thoughts_with_and_without_tags(text, thoughts):
    [found] = judge([said(text)])
    assert found.kept and found.thoughts == thoughts


def test_tags_that_the_prompt_has_opened_belong_to_the_chain():
    [found] = judge([said("A bark.</think><answer>B</answer>", prefill="<think>\n")])
    assert found.kept and found.text == "<think> A bark. </think> <answer> dog </answer>"


def test_a_megabyte_of_text_is_judged_at_once():
    texts = ["<think>" * 150_000, "x " * 500_000 + "<answer>B</answer>", "<answer>" + "B " * 500_000, "<|" * 500_000]
    assert reasons(list(map(said, texts))) == ["no answer", "right", "no answer", "no answer"]
