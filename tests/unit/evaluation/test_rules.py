"""Each benchmark's official rule on the cases that break naive matching, beside the accuracy reward's rule."""

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.evaluation.rules import AccuracyRule, AvqaRule, MmauRule, MusicAvqaRule, final_answer, rules_of
from ssr1_rl.types import Completion, Question

DOGS = ("dog", "dog barking", "cat", "a small dog")
NOTES = ("A minor", "B minor", "C# major")
NUMBERS = ("two", "three", "20")


def question(ground_truth, choices=(), **more):
    return Question("q", "?", ground_truth, tuple(choices), **more)


def response(text, finish_reason="stop", prefill=""):
    return Completion((), (), text, finish_reason, prefill=prefill)


def right(rule, answer, ground_truth, choices):
    return rule.read(
        question(ground_truth, choices), response(f"<think> x </think> <answer>{answer}</answer>")
    ).is_right


ALL = ("avqa", "mmau", "accuracy")


@pytest.mark.parametrize(
    ("answer", "ground_truth", "choices", "rules_that_say_right"),
    [
        # choices that contain one another
        ("dog", "dog", DOGS, ALL),
        ("dog barking", "dog", DOGS, ()),
        ("dog", "dog barking", DOGS, ()),
        ("a small dog", "a small dog", DOGS, ALL),
        ("small dog", "dog", DOGS, ()),
        # negations
        ("not a cat", "cat", ("cat", "dog"), ("mmau",)),  # the official rule looks at words only
        ("it is not the dog, but the cat", "cat", ("cat", "dog"), ()),
        ("not dog", "cat", ("cat", "dog"), ()),
        # letters, with and without the text
        ("B", "dog", ("cat", "dog"), ALL),
        ("(b)", "dog", ("cat", "dog"), ALL),
        ("B) dog", "dog", ("cat", "dog"), ALL),
        ("B) cat", "dog", ("cat", "dog"), ()),
        ("E", "dog", ("cat", "dog"), ()),
        # nothing, and nothing readable
        ("", "dog", ("cat", "dog"), ()),
        ("...", "dog", ("cat", "dog"), ()),
        ("?", "?", ("?", "!"), ("avqa", "accuracy")),  # no word tokens: wrong by the official rule
        # several answers
        ("cat and dog", "dog", ("cat", "dog"), ()),
        ("A, B", "dog", ("cat", "dog"), ()),
        ("dog dog", "dog", ("cat", "dog"), ("mmau",)),
        # an option's letter inside the text
        ("A minor", "A minor", NOTES, ALL),
        ("a minor", "B minor", NOTES, ()),
        ("B minor", "A minor", NOTES, ()),
        ("the answer is a dog", "dog", ("cat", "dog"), ALL),
        # a letter that is itself a choice is that choice
        ("B", "C#", ("C", "C#", "A", "B"), ()),
        ("(B) C#", "C#", ("C", "C#", "A", "B"), ALL),
        ("B", "B", ("C", "C#", "A", "B"), ALL),
        # the official rule drops the sharp of C#, and "C major" names no option
        ("C major", "C# major", NOTES, ("mmau",)),
        # repeated choices are the same answer
        ("A", "dog", ("dog", "dog", "cat"), ALL),
        ("B", "dog", ("dog", "dog", "cat"), ALL),
        ("dog", "dog", ("dog", "Dog", "cat"), ALL),
        # numbers
        ("2", "two", NUMBERS, ALL),
        ("two", "20", NUMBERS, ()),
        ("2", "20", NUMBERS, ()),
        # a reason beside the answer
        ("dog, since it barks", "dog", ("cat", "dog"), ("mmau",)),
        ("dog, since a cat meows", "dog", ("cat", "dog"), ()),
    ],
)
def test_answers_by_each_rule(answer, ground_truth, choices, rules_that_say_right):
    rules = (AvqaRule(), MmauRule(), AccuracyRule(require_tags=True))
    found = tuple(rule.name for rule in rules if right(rule, answer, ground_truth, choices))
    assert found == rules_that_say_right


@pytest.mark.parametrize(
    ("answer", "ground_truth", "official", "ours"),
    [
        ("yes", "yes", True, True),
        (" Yes ", "yes", True, True),
        ("no", "yes", False, False),
        ("yes and no", "yes", False, False),
        ("not yes", "yes", False, False),
        ("two", "two", True, True),
        ("2", "two", False, True),  # 2 is none of the 42 answers
        ("two.", "two", False, True),
        ("twos", "two", False, False),
        ("acoustic_guitar", "acoustic_guitar", True, True),
        ("acoustic guitar", "acoustic_guitar", True, True),
        ("guitar", "acoustic_guitar", False, False),
        ("more than ten", "more than ten", True, True),
        ("ten", "more than ten", False, False),
        ("", "yes", False, False),
    ],
)
def test_music_avqa_compares_the_word(answer, ground_truth, official, ours):
    assert right(MusicAvqaRule(), answer, ground_truth, ()) is official
    assert right(AccuracyRule(True), answer, ground_truth, ()) is ours


def test_music_avqa_with_the_answers_as_choices():
    choices = ("yes", "no", "acoustic_guitar")
    assert right(MusicAvqaRule(), "(C)", "acoustic_guitar", choices)
    assert right(MusicAvqaRule(), "Acoustic guitar", "acoustic_guitar", choices)
    assert not right(MusicAvqaRule(), "(A)", "acoustic_guitar", choices)


@pytest.mark.parametrize(
    ("text", "finish_reason", "answer"),
    [
        ("<think> a dog </think> <answer> B </answer>", "stop", "B"),
        ("<answer>A</answer> no, <answer>B</answer>", "stop", "B"),
        ("a dog barks", "stop", "a dog barks"),
        ("<think> cat </think> dog", "stop", "dog"),
        ("<think> it may be a dog", "length", ""),
        ("<think> it may be a dog", "stop", ""),
        ("<think> it is </think> <answer>do", "length", ""),
        ("<think> it is </think> <answer>dog", "stop", "dog"),
        ("<think> it is </think> <answer></answer>", "stop", ""),
        ("<think> I write <answer> first </think> dog", "stop", "dog"),
        ("a dog and then a", "length", "a dog and then a"),
        ("", "stop", ""),
    ],
)
def test_the_answer_of_a_response(text, finish_reason, answer):
    assert final_answer(response(text, finish_reason)) == answer


def test_tags_that_the_prompt_has_opened_count_as_opened():
    assert final_answer(response("dog</answer>", prefill="<answer>")) == "dog"
    assert final_answer(response("I hear a dog", "length", prefill="<think>\n")) == ""


def test_an_official_rule_needs_no_tags_and_ours_does_as_set():
    barks, plain = question("dog", ("cat", "dog")), response("B) dog")
    assert AvqaRule().read(barks, plain).is_right and MmauRule().read(barks, plain).is_right
    assert not AccuracyRule(require_tags=True).read(barks, plain).is_right
    assert AccuracyRule(require_tags=False).read(barks, plain).is_right


def test_what_is_read_is_the_option_s_text():
    reading = MmauRule().read(question("dog", ("cat", "dog")), response("<answer>(B)</answer>"))
    assert (reading.answer, reading.vote) == ("dog", "dog")
    reading = MmauRule().read(question("dog", ("cat", "dog")), response("<answer>A or B</answer>"))
    assert (reading.answer, reading.is_right) == ("A or B", False)


def test_the_official_rule_of_a_format_comes_first():
    formats = ("avqa", "mmau", "music_avqa", "jsonl")
    names = {name: [rule.name for rule in rules_of(DatasetConfig(format=name), True)] for name in formats}
    assert names == {
        "avqa": ["avqa", "accuracy"],
        "mmau": ["mmau", "accuracy"],
        "music_avqa": ["music_avqa", "accuracy"],
        "jsonl": ["accuracy"],
    }
    in_parquet = DatasetConfig(format="parquet", official_rule="mmau")
    assert [rule.name for rule in rules_of(in_parquet, True)] == ["mmau", "accuracy"]
