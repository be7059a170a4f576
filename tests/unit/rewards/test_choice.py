"""The rule "choice": how models write the right option, and what must never count as it."""

import random

import pytest

from ssr1_rl.rewards.choice import choice_match, named_choice

ANIMALS = ("a cat", "a dog", "a dog barking", "the wind")


@pytest.mark.parametrize(
    "answer",
    [
        *("The chosen option is (B) a dog", "the chosen option is (b).", "Final answer: (B) a dog", "Answer: B"),
        *(r"\boxed{B}", r"\boxed{\text{B}}", r"$\boxed{B}$", r"\[\boxed{\mathrm{(B)}}\]", r"\text{a dog}", "$B$"),
        *("a dog (B)", "a dog [b]", "dog (B).", "The answer is a dog (B)", "a dog, option B", "**a dog** (B)"),
        *("dog", "the dog", "Dog.", "A dog", "a  dog", "(B) dog", "B. The dog", "B: a dog", "Option B: a dog"),
        *("**B**", "__B__", "*(B)*", "`B`", "**(B) a dog**", "# B", "> B", "“B”", "‘a dog’", "«B»"),
        *("(a dog)", "[a dog]", "The answer is (a dog)", "the answer is “a dog”", "a “dog”"),
        *("（Ｂ）", "Ｂ", "【B】", "Ⓑ", "ｄｏｇ", "B\N{ZERO WIDTH SPACE}", "a\N{ZERO WIDTH SPACE} dog\N{WORD JOINER}"),
        *("\N{ZERO WIDTH NO-BREAK SPACE}B", "B\N{SOFT HYPHEN}", "\N{LEFT-TO-RIGHT MARK}(B)"),
        *("Option B", "option (b)", "the option (b)", "choice B", "letter B", "B)", "(B", "B!", "B,", "B;", "B…"),
        *("\n(B)\na dog\n", "B\n", "Answer:\nB", "(B)\ta dog", "B -- a dog", "B — a dog", "b.) a dog"),
        *("I choose B", "I would go with (B) a dog", "My final answer is B", "So the answer is B", "It is a dog"),
        *("The correct answer is: B", "The best option is B.", "the answer I choose is B", "the answer is option B"),
        *("B is correct", "(B) a dog is the correct answer", "Option B is the right choice", '{"answer": "B"}'),
        *("Therefore, the correct option is (B): a dog.", "the answer is \\boxed{B}", "2", "option 2", "2) a dog"),
    ],
)
def test_every_way_in_which_models_write_the_right_option_is_read(answer):
    assert choice_match(answer, "a dog", ANIMALS)
    assert named_choice(answer, ANIMALS) == "a dog"
    for other in ("a cat", "a dog barking", "the wind"):
        assert not choice_match(answer, other, ANIMALS)


@pytest.mark.parametrize(
    "answer",
    [
        *("not B", "It is not a dog", "The answer is not B", "it isn't a dog", "not a dog (B)", "a dog is not correct"),
        *("B is incorrect", "B is not the correct answer", "anything but B", "neither", "no dog", "never a dog"),
        *("A or B", "B or C", "A, B", "(A) (B)", "(A) a cat (B) a dog", "B and C", "either B or C", "a cat or a dog"),
        *("(A) a cat (B) a dog (C) a dog barking (D) the wind", "a dog, a cat", r"\boxed{A} \boxed{B}", "B/C", "BC"),
        *("a dog (C)", "a dog barking (B)", "(C) a dog", "A) a dog", "(A) dog", "A. dog", "A: a dog", "**A** dog"),
        *("`A` dog", "A - dog", "Option A: dog", "the answer is (A) dog"),
        *("dogs", "hot dog", "a big dog", "dog barking loudly", "the dog barks", "a", "an", "the", "a the dog"),
        *("the answer", "I choose", "is", "B because I hear barking", "B?A", "\\boxed{}", "\\boxed{\\text{", "$", "$$"),
        *("the answer is", "is the correct answer", "correct", "option", "(", ")", "the", "E", "(E)", "0", "5", "B1"),
    ],
)
def test_what_does_not_clearly_name_the_right_option_is_wrong(answer):
    assert not choice_match(answer, "a dog", ANIMALS)
    assert named_choice(answer, ANIMALS) != "a dog"


def test_without_choices_none_is_named():
    assert named_choice("a dog", ()) is None


@pytest.mark.parametrize(
    ("answer", "ground_truth", "choices", "is_right"),
    [
        # choices that contain one another
        ("dog", "dog", ("dog", "dog barking"), True),
        ("dog barking", "dog", ("dog", "dog barking"), False),
        ("barking", "dog barking", ("dog", "dog barking"), False),
        ("the dog barking (B)", "dog barking", ("dog", "dog barking"), True),
        # an article at the start is one only where this is clear
        ("A dog", "dog", ("cat", "dog"), True),
        ("A dog", "cat", ("cat", "dog"), False),
        ("a cat", "a cat", ("a dog", "a cat"), True),
        ("dog", "a dog", ("a dog", "the dog"), False),
        ("a dog", "a dog", ("a dog", "the dog"), True),
        ("the dog", "dog", ("a dog", "dog"), False),
        ("an owl", "owl", ("owl", "cow"), True),
        ("guitar", "The guitar", ("The guitar", "the piano"), True),
        ("minor", "A minor", ("A minor", "C major"), False),
        ("A minor", "minor", ("major", "minor"), False),
        ("flat", "A flat", ("A flat", "B flat"), False),
        ("side", "A side", ("A side", "B side"), False),
        ("the A minor", "A minor", ("A minor", "C major"), True),
        ("A minor", "A minor", ("C major", "A minor"), True),
        # words of a phrase that are choices themselves
        ("The right answer is left", "left", ("left", "right"), True),
        ("the right answer is right", "right", ("left", "right"), True),
        ("right is left", "left", ("left", "right"), False),
        ("left is right", "left", ("left", "right"), False),
        ("left is right", "right", ("left", "right"), False),
        ("left is correct", "left", ("left", "right"), True),
        ("final answer", "final answer", ("final answer", "b"), True),
        ("It is", "it is", ("it is", "dog"), True),
        # a choice that is another one's letter
        ("A", "A", ("B", "A"), True),
        ("(A) B", "B", ("B", "A"), True),
        ("B (A)", "B", ("B", "A"), False),
        ("B (A)", "A", ("B", "A"), False),
        ("(A)", "B", ("B", "A"), False),
        ("the answer is A", "A", ("B", "A"), True),
        ("vitamin C", "vitamin", ("iron", "zinc", "vitamin"), False),
        ("vitamin C", "vitamin C", ("vitamin B", "vitamin C"), True),
        # LaTeX and currency in the choices themselves
        ("$5", "$5", ("$5", "5"), True),
        ("5", "$5", ("$5", "5"), False),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", (r"\frac{1}{2}", r"\frac{1}{3}"), True),
        ("x", r"\text{x}", (r"\text{x}", r"\text{y}"), True),
        # open questions
        ("The answer is a violin.", "violin", (), True),
        ("violin", "the violin", (), True),
        (r"\boxed{3}", "three", (), True),
        ("not a violin", "violin", (), False),
        ("violin (A)", "violin", (), False),
        ("minor", "A minor", (), False),
    ],
)
def test_choices_that_could_be_mistaken_for_one_another(answer, ground_truth, choices, is_right):
    assert choice_match(answer, ground_truth, choices) is is_right


def test_more_than_26_choices_have_numbers_and_no_letters():
    choices = tuple(f"sound {chr(ord('a') + i % 26)}{i // 26 * 'x'}" for i in range(30))
    assert choice_match("28", choices[27], choices)
    assert choice_match("(28) " + choices[27], choices[27], choices)
    assert choice_match(f"{choices[27]} (28)", choices[27], choices)
    assert not choice_match("B", choices[1], choices)
    years = tuple(str(1980 + i) for i in range(30))
    assert not choice_match("(2)", years[1], years), "a number may be a label or a year"
    assert choice_match("1981", years[1], years)


NAMES = ("cat", "dog", "dog barking", "a man speaking", "The wind", "two birds", "C major", "left", "right", "an owl")
WAYS = (
    "{letter}", "({letter})", "{letter}.", "**{letter}**", "`{letter}`", "({letter}) {text}", "{letter}: {text}",
    "{text} ({letter})", "{text}", "{text}.", "“{text}”", "\\boxed{{{letter}}}", "\\boxed{{\\text{{{letter}}}}}",
)  # fmt: skip
PHRASES = (
    "{}", "The chosen option is {}", "Final answer: {}", "The correct answer is {}.", "I choose {}", "\n{}\n",
    "Option: {}", "{}\N{ZERO WIDTH SPACE}",
)  # fmt: skip


def written(rng, choices, index):
    letter = rng.choice([chr(ord("A") + index), chr(ord("a") + index)])
    text = rng.choice([choices[index], choices[index].upper(), choices[index].lower()])
    return rng.choice(WAYS).format(letter=letter, text=text)


def test_an_option_written_in_any_way_is_that_option_and_no_other():
    rng = random.Random(0)
    for _ in range(1000):
        choices = rng.sample(NAMES, rng.randint(2, 6))
        index = rng.randrange(len(choices))
        answer = rng.choice(PHRASES).format(written(rng, choices, index))
        found = [choice for choice in choices if choice_match(answer, choice, choices)]
        assert found == [choices[index]], (answer, choices)


def test_negations_and_several_options_are_never_right():
    rng = random.Random(1)
    spoilt = (
        "not {0}", "{0} or {1}", "{0} and {1}", "{0}, {1}", "{0}\n{1}", "it is not {0}", "{0} is wrong", "no {0}",
        "{0} is not the answer", "The answer is not {0}", "{0} / {1}", "neither {0} nor {1}", "{0} but maybe {1}",
    )  # fmt: skip
    for _ in range(1000):
        choices = rng.sample(NAMES, rng.randint(2, 6))
        first, second = rng.sample(range(len(choices)), 2)
        pair = written(rng, choices, first), written(rng, choices, second)
        answer = rng.choice(PHRASES).format(rng.choice(spoilt).format(*pair))
        assert not [choice for choice in choices if choice_match(answer, choice, choices)], (answer, choices)


@pytest.mark.parametrize("filler", ["option ", "(", " ", "a dog (", "so ", "the answer is ", "\n", "\\boxed{", "**"])
def test_a_long_answer_is_read_in_a_time_that_grows_with_its_length_and_is_wrong(filler):
    """In the square of its length this would take hours."""
    answer = "not B" + filler * 200_000 + "!"
    assert not choice_match(answer, "a dog", ANIMALS)
    assert not choice_match(f"{answer} B", "a dog", ANIMALS)


def test_a_long_choice_may_be_answered_in_full_with_its_label_and_a_phrase():
    long = "a dog that barks, " * 500 + "and a cat"
    for answer in (long, f"(B) {long}", f"The answer is (B) {long}", f"{long} (B)", " " * 5000 + "B" + "\n" * 5000):
        assert choice_match(answer, long, ("a cat", long))
