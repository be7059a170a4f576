"""The accuracy reward, case by case: forms of a right answer, and wrong answers."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssr1_rl.data.choices import choice_labels
from ssr1_rl.rewards.accuracy import Accuracy, choice_match, extract_answer, mmau_match
from ssr1_rl.types import Completion, Question

ANIMALS = ("cat", "dog", "Police Siren", "two birds")


def completion(text: str) -> Completion:
    return Completion(token_ids=(1,), logprobs=(-0.5,), text=text, finish_reason="stop")


@pytest.mark.parametrize(
    ("text", "tagged", "untagged"),
    [
        ("<answer>B</answer>", "B", "B"),
        ("<think>x</think>\n<answer>\n B \n</answer>\n", "B", "B"),
        ("<answer>A</answer> no, <answer>B</answer>", "B", "B"),
        ("<answer> hmm <answer>B</answer>", "B", "B"),
        ("<answer>B</answer></answer>", "B", "B"),
        ("<answer>two\nlines</answer>", "two\nlines", "two\nlines"),
        ("<answer></answer>", "", ""),
        ("<think>A or B</think> B", "", "B"),
        ("plain B", "", "plain B"),
        ("<answer>B", "B", "B"),
        ("<answer>A</answer> no: <answer>\nB", "B", "B"),
        ("<think>I write <answer> first</think> B", "", "B"),
        ("", "", ""),
    ],
)
def test_extract_answer(text, tagged, untagged):
    assert extract_answer(text) == tagged
    assert extract_answer(text, require_tags=False) == untagged


def test_an_answer_that_was_cut_at_the_token_limit_is_not_read():
    choices = ("dog", "dog barking")
    question = Question(id="q", text="?", ground_truth="dog", choices=choices)
    cut = [Completion((1,), (-0.5,), text, "length") for text in ("<answer>dog", "<answer>dog</answer>")]
    assert Accuracy()(question, cut) == [0.0, 1.0]
    assert Accuracy(require_tags=False)(question, cut) == [0.0, 1.0]


def test_a_tag_that_the_prompt_has_opened_counts_as_opened():
    question = Question(id="q", text="?", ground_truth="dog", choices=("cat", "dog"))
    opened = Completion((1,), (-0.5,), "B</answer>", "stop", prefill="<answer>")
    assert Accuracy()(question, [opened]) == [1.0]
    assert Accuracy()(question, [completion("B</answer>")]) == [0.0]


@pytest.mark.parametrize(
    "answer",
    [
        *("dog", "Dog", " DOG. ", "**dog**", "“dog”", "d\u006fg"),
        *(
            "B",
            "b",
            "(b)",
            "B.",
            "[B]",
            "`B`",
            "option B",
            "Option: (B)",
            "The answer is B.",
            "the correct choice is b",
        ),
        *("B) dog", "B. Dog", "(B): dog", "B - dog", "Answer: B. dog", "the dog"),
        *("option 2", "2", "2)", "2. dog", "option two"),
    ],
)
def test_choice_is_named_by_letter_number_or_text(answer):
    choices = ("cat", "dog", "police siren", "birds")
    assert choice_match(answer, "dog", choices)
    assert not choice_match(answer, "cat", choices)


@pytest.mark.parametrize(
    "answer",
    [
        *("", " ", ".", "?!", "E", "Z", "0", "9", "-2", "²²²²", "option", "the answer is"),
        *("A and B", "A, B", "AB", "A/B", "cat, dog", "dog or cat", "B) dog, A) cat", "B B", "1 2"),
        *("A) dog", "B) cat", "1. dog", "dogs", "hot dog", "a", "A", "C", "not dog", "dog dog"),
        *("9" * 10_000, "Ⅱ" * 5, "\ud800", "<answer>", "\x00"),
    ],
)
def test_what_is_not_exactly_the_right_choice_is_wrong(answer):
    assert not choice_match(answer, "dog", ("cat", "dog", "police siren", "birds"))


@pytest.mark.parametrize(
    ("answer", "ground_truth", "choices", "is_right"),
    [
        # text: case, white space, punctuation
        ("police   siren", "Police Siren", ANIMALS, True),
        ("police-siren!", "Police Siren", ANIMALS, True),
        ("don't know", "Dont know", ("Dont know", "yes"), True),
        ("cat, dog", "cat, dog", ("cat, dog", "cat"), True),
        ("cat dog", "cat, dog", ("cat, dog", "cat"), True),
        # numbers
        ("2 birds", "two birds", ANIMALS, True),
        ("2", "two", ("one", "two", "three"), True),
        ("Two", "2", ("1", "2", "3"), True),
        ("2.0", "2", ("1", "2", "3"), True),
        ("1,000", "1000", ("10", "1000"), True),
        ("twenty", "20", ("12", "20"), True),
        ("-5", "5", ("5", "7"), False),
        ("−5", "-5", ("-5", "5"), True),
        ("3.5", "35", ("35", "7"), False),
        # a choice that is itself a number wins over the number of an option, for all choices
        ("2", "2", ("3", "2", "1", "4"), True),
        ("2", "3", ("4", "3", "2", "1"), False),
        ("1", "4", ("4", "3", "2"), False),
        ("2", "3 dogs", ("2 dogs", "3 dogs"), False),
        ("B", "3", ("4", "3", "2"), True),
        ("B) 3", "3", ("4", "3", "2"), True),
        # a choice that is itself a letter wins over the letter of an option, for all choices
        ("A", "A", ("D", "A", "C", "B"), True),
        ("A", "D", ("D", "A", "C", "B"), False),
        ("A", "E", ("E", "F", "G"), False),
        ("A) E", "E", ("E", "F", "G"), True),
        ("option 1", "E", ("E", "F", "G"), True),
        # symbols that are part of the answer
        ("C", "C#", ("C#", "D"), False),
        ("c#", "C#", ("C", "C#"), True),
        ("C#", "C", ("C", "D"), False),
        ("5%", "5", ("5", "7"), False),
        ("4/4", "4/4", ("3/4", "4/4"), True),
        # words that lead to an answer may be the answer
        ("right", "right", ("left", "right"), True),
        ("the right", "right", ("left", "right"), True),
        ("answer", "answer", ("answer", "question"), True),
        # equal choices: the same text twice is one answer; choices that are equal only when folded are ambiguous
        ("A", "dog", ("dog", "dog", "cat"), True),
        ("B", "dog", ("dog", "dog", "cat"), True),
        ("Dog", "dog", ("dog", "dog", "cat"), True),
        ("c:4", "C-4", ("C-4", "C 4"), False),
        ("C-4", "C-4", ("C-4", "C 4"), True),
        ("c-4", "C 4", ("C-4", "C 4"), False),
        ("one", "1", ("one", "1"), False),
        # an empty answer does not name a choice that has only punctuation
        ("", "?", ("?", "dog"), False),
        ("?", "?", ("?", "!"), True),
        # other scripts
        ("Café", "cafe\u0301", ("cafe\u0301", "bar"), True),
        ("狗。", "狗", ("猫", "狗"), True),
        ("٣", "3", ("3", "4"), True),
    ],
)
def test_choice_match(answer, ground_truth, choices, is_right):
    assert choice_match(answer, ground_truth, choices) is is_right


@pytest.mark.parametrize(
    ("answer", "ground_truth", "is_right"),
    [
        ("violin", "Violin", True),
        ("the violin.", "violin", True),
        ("3.0", "3", True),
        ("three", "3", True),
        ("3", "three", True),
        ("03", "3", True),
        ("3.10", "3.1", True),
        ("-0.0", "0", True),
        ("12345678901234567890", "12345678901234567891", False),
        ("30", "3", False),
        ("4", "three", False),
        ("viola", "violin", False),
        ("A", "violin", False),
        ("1", "violin", False),
        ("", "violin", False),
        ("yes and no", "yes", False),
    ],
)
def test_open_question(answer, ground_truth, is_right):
    assert choice_match(answer, ground_truth, ()) is is_right


def test_a_question_that_no_answer_could_be_right_for_is_an_error_not_a_zero():
    with pytest.raises(ValueError, match="'cow' is not one of the choices"):
        choice_match("A", "cow", ANIMALS)
    with pytest.raises(ValueError, match="ground_truth is empty"):
        choice_match("A", " ", ())


@pytest.mark.parametrize(
    ("prediction", "ground_truth", "choices", "is_right"),
    [
        ("dog", "Dog", ("Dog", "Cat"), True),
        ("I hear a DOG, barking.", "dog barking", ("dog barking", "cat"), True),
        ("barking dog", "dog barking", ("dog barking", "cat"), True),
        ("dog", "dog barking", ("dog barking", "cat"), False),
        ("not a cat but a dog", "dog", ("dog", "cat"), False),
        # a token that a wrong choice shares with the answer does not make the prediction wrong
        ("the small dog", "small dog", ("small dog", "small cat"), True),
        ("small dog cat", "small dog", ("small dog", "small cat"), False),
        # a bare letter scores nothing, unless the choice's text holds it
        ("(A)", "dog", ("dog", "cat"), False),
        ("(A) dog", "(A) dog", ("(A) dog", "(B) cat"), True),
        ("(A)", "(A)", ("(A)", "(B)"), True),
        ("two", "2", ("2", "3"), False),
        ("man_1", "man 1", ("man 1", "man 2"), False),
        ("", "dog", ("dog", "cat"), False),
        ("...", "dog", ("dog", "cat"), False),
        ("", "?", ("?", "dog"), False),
        ("C", "C#", ("C#", "D"), True),  # \w+ drops the sharp: the official rule, kept as it is
        ("anything", "yes", (), False),
        ("yes it is", "yes", (), True),
    ],
)
def test_mmau_rule(prediction, ground_truth, choices, is_right):
    assert mmau_match(prediction, ground_truth, choices) is is_right


def official_string_match(answer, prediction, choices):
    """MMAU's own rule, as its evaluation.py states it."""

    def tokenize(text):
        return set(re.findall(r"\b\w+\b", text.lower()))

    prediction_tokens, answer_tokens = tokenize(prediction), tokenize(answer)
    if not prediction_tokens:
        return False
    incorrect_tokens = set()
    for choice in choices:
        if tokenize(choice) != answer_tokens:
            incorrect_tokens |= tokenize(choice) - answer_tokens
    return answer_tokens.issubset(prediction_tokens) and prediction_tokens.isdisjoint(incorrect_tokens)


def test_mmau_rule_equals_the_official_one_on_random_cases():
    rng = random.Random(0)
    words = ["dog", "cat", "Dog", "barking", "(A)", "B", "C#", "2", "two", "a", "the", "man's", "…", "", "é", "x_1"]

    def text(most):
        return rng.choice([" ", ", ", "-"]).join(rng.choices(words, k=rng.randint(0, most)))

    num_right = 0
    for _ in range(20_000):
        choices = [text(3) for _ in range(rng.randint(0, 4))]
        answer, prediction = rng.choice([*choices, text(3)]), rng.choice([*choices, text(5)])
        is_right = official_string_match(answer, prediction, choices)
        assert mmau_match(prediction, answer, choices) is is_right, (prediction, answer, choices)
        num_right += is_right
    assert num_right > 1000


def test_accuracy_scores_each_completion():
    question = Question(id="q", text="What barks?", ground_truth="dog", choices=("cat", "dog"))
    texts = ["<answer>B</answer>", "<answer>cat</answer>", "B", "<answer>I say dog</answer>"]
    completions = [completion(text) for text in texts]
    assert Accuracy()(question, completions) == [1.0, 0.0, 0.0, 0.0]
    assert Accuracy(require_tags=False)(question, completions) == [1.0, 0.0, 1.0, 0.0]
    assert Accuracy(match="mmau")(question, completions) == [0.0, 0.0, 0.0, 1.0]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"match must be one of \['choice', 'mmau'\], got 'exact'"):
        Accuracy(match="exact")
    with pytest.raises(ValueError, match="require_tags must be true or false, got 'no'"):
        Accuracy(require_tags="no")  # type: ignore[arg-type]


@given(
    text=st.text(alphabet=st.characters(codec=None)) | st.from_regex(r"(\(?[a-dA-D1-4]\)?[ .,:-]*(cat|dog)?)*"),
    match=st.sampled_from(["choice", "mmau"]),
    choices=st.sampled_from([ANIMALS, ("cat", "A"), ("cat", "2"), ("cat",), ()]),
)
def test_no_text_of_a_model_crashes_it(text, match, choices):
    question = Question(id="q", text="?", ground_truth="cat", choices=choices)
    rewards = Accuracy(match=match, require_tags=False)(question, [completion(text)])
    assert rewards in ([0.0], [1.0])


@given(index=st.integers(0, 3), other=st.integers(0, 3))
def test_every_way_to_name_a_choice_agrees_with_its_position(index, other):
    letter = "ABCD"[index]
    for answer in (letter, f"({letter.lower()})", f"{letter}) {ANIMALS[index]}", ANIMALS[index].upper()):
        assert choice_match(answer, ANIMALS[other], ANIMALS) is (index == other)


@pytest.mark.parametrize("num_choices", [2, 4, 26, 27, 30, 100])
def test_every_label_of_the_prompt_names_its_choice(num_choices):
    choices = [f"word {'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}" for i in range(num_choices)]
    for label, choice in zip(choice_labels(num_choices), choices, strict=True):
        assert choice_match(f"({label})", choice, choices)
        assert choice_match(f"({label}) {choice}", choice, choices)
        assert not choice_match(f"({label})", choices[0 if choice != choices[0] else 1], choices)
