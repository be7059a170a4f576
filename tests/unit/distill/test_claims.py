"""Which claims a chain of thought makes: one sentence or list at a time, and what makes none."""

import pytest

from ssr1_rl.distill.verification.claims import split_claims
from ssr1_rl.distill.verification.sentences import sentences

LISTS = [
    ("I hear a dog, a car and a horn.", ["I hear a dog", "I hear a car", "I hear a horn"]),
    ("I hear a dog, a car, and a horn.", ["I hear a dog", "I hear a car", "I hear a horn"]),
    ("We can clearly hear wind and rain", ["We can clearly hear wind", "We can clearly hear rain"]),
    ("There are no birds, no cars and no voices.", ["There are no birds", "There are no cars", "There are no voices"]),
    ("I hear footsteps, a door creaking and wind.", ["I hear footsteps", "I hear a door creaking", "I hear wind"]),
    (
        "The audio features a steady hum, a series of beeps, and a woman's voice.",
        [
            "The audio features a steady hum",
            "The audio features a series of beeps",
            "The audio features a woman's voice",
        ],
    ),
    (
        "A dog, a cat and a bird can be heard in the yard.",
        ["A dog can be heard in the yard", "a cat can be heard in the yard", "a bird can be heard in the yard"],
    ),
    ("The sound is loud and harsh.", ["The sound is loud", "The sound is harsh"]),
    ("The sounds are: hiss, buzzer, hiss.", ["The sounds are: hiss", "The sounds are: buzzer"]),
    ("I hear:\n- a dog\n- a car", ["I hear: a dog", "I hear: a car"]),
    ("**I hear:**\n\n1. a dog\n2. a car", ["I hear: a dog", "I hear: a car"]),
]

ORDER = [
    (
        "I hear a dog then a car then a horn.",
        ["I hear a dog", "I hear a dog then a car", "I hear a car then a horn"],
    ),
    (
        "I hear hiss then hiss then buzzer then rattle . after hiss comes buzzer",
        [
            "I hear hiss",
            "I hear hiss then hiss",
            "I hear hiss then buzzer",
            "I hear buzzer then rattle",
            "after hiss comes buzzer",
        ],
    ),
    (
        "I hear a dog and a car, then a horn and a bell.",
        ["I hear a dog", "I hear a car", "I hear a dog and a car, then a horn", "I hear a dog and a car, then a bell"],
    ),
    (
        "First, a dog barks. Then a car passes. Finally, a horn honks.",
        ["First, a dog barks", "First, a dog barks. Then a car passes", "a car passes. Finally, a horn honks"],
    ),
    (
        "The guitar plays first, then the drums join in, and finally a singer begins.",
        [
            "The guitar plays first",
            "The guitar plays first, then the drums join in",
            "the drums join in, and finally a singer begins",
        ],
    ),
    ("A dog barks. This is followed by a horn.", ["A dog barks", "A dog barks. This is followed by a horn"]),
    ("A dog barks, while a car passes.", ["A dog barks", "A dog barks, while a car passes"]),
    ("The dog barks before the car passes.", ["The dog barks before the car passes"]),
    (
        "I hear a dog and a car at the same time.",
        ["I hear a dog", "I hear a car", "I hear a dog and a car at the same time"],
    ),
    (
        "The sounds in order are: hiss, buzzer.",
        ["The sounds in order are: hiss", "The sounds in order are: buzzer", "The sounds in order are: hiss, buzzer"],
    ),
    ("Then a car passes.", ["Then a car passes"]),
]

WHOLE = [
    "I hear a man and woman talking",
    "I hear a dog barking, whining and growling",
    "I hear a loud, harsh and metallic sound",
    "It sounds like a dog or a cat",
    "Neither a dog nor a cat is heard",
    "The music then stops",
    "While a dog barks, a car passes",
    "The dog barks at 3.5 s, 4.2 s and 5 s",
    "A person answers the phone and is talking",
    "I heard file.wav at 3.5 kHz, e.g. a tone, by Mr. Smith and Dr. Who",
    'He says "Stop. Now." and leaves',
    "J'entends un chien, puis une voiture",
]

CLAUSES = [
    ("A dog barks, and a car passes by; the engine is loud.", ["A dog barks", "a car passes by", "the engine is loud"]),
    ("I hear wind, rain, and thunder, but no car.", ["I hear wind", "I hear rain", "I hear thunder", "I hear no car"]),
    ("There is a dog, but the car is silent.", ["There is a dog", "the car is silent"]),
    ("I hear a whistle. It is long.", ["I hear a whistle", "I hear a whistle. It is long"]),
    ("A bell rings. A bell rings!", ["A bell rings"]),
    ("a dog barks. a cat meows.", ["a dog barks", "a cat meows"]),
    ("It starts at 5 p.m. The dog barks.", ["It starts at 5 p.m", "The dog barks"]),
    ("A dog barks\nin the distance\nA car passes", ["A dog barks in the distance", "A car passes"]),
    ("我听到一只狗在叫。然后汽车经过！", ["我听到一只狗在叫", "然后汽车经过"]),
    ("犬が吠えています。「ワン。」と鳴く。", ["犬が吠えています", "「ワン。」と鳴く"]),
    ("کتا بھونک رہا ہے۔ گاڑی گزری۔", ["کتا بھونک رہا ہے", "گاڑی گزری"]),
    ("Ich höre einen Hund, z.B. einen Terrier. Er bellt.", ["Ich höre einen Hund, z.B. einen Terrier", "Er bellt"]),
]

NO_CLAIMS = [
    "",
    "What comes after the hiss?",
    "Let me listen carefully.",
    "I need to find the sound that comes last.",
    "The question asks for the first sound.",
    "So the answer is (B).",
    "The correct option is C, car.",
    "Therefore, I would choose the dog.",
    "So it is a dog.",
    "The dog could be the answer.",
    "Answer: B",
    "(A)",
    "...",
    "狗在哪里？",
]


@pytest.mark.parametrize(("text", "expected"), LISTS + ORDER + CLAUSES)
def test_a_chain_makes_these_claims(text, expected):
    assert split_claims(text) == expected


@pytest.mark.parametrize("text", WHOLE)
def test_what_may_be_one_thing_stays_one_claim(text):
    assert split_claims(text + ".") == [text]


@pytest.mark.parametrize("text", NO_CLAIMS)
def test_these_claim_nothing(text):
    assert split_claims(text) == []


def test_the_reason_for_a_conclusion_is_a_claim_and_a_conclusion_about_sound_too():
    assert split_claims("The answer is C because the dog barks twice.") == ["the dog barks twice"]
    assert split_claims("Since a dog barks, then growls, the answer is C.") == [
        "a dog barks",
        "a dog barks, then growls",
    ]
    assert split_claims("Because I hear a dog, option B is right.") == ["I hear a dog"]
    assert split_claims("I hear a bell last, so the answer is bell.") == ["I hear a bell last"]
    assert split_claims("Hence, the cheering comes after the bell.") == ["the cheering comes after the bell"]
    assert split_claims("Let me listen: I hear a dog.") == ["I hear a dog"]


def test_a_clause_with_a_verb_of_its_own_does_not_get_the_verb_before_it():
    assert split_claims("There is no dog, but a car passes.") == ["There is no dog", "a car passes"]
    assert split_claims("I hear a dog, but no cars.") == ["I hear a dog", "I hear no cars"]
    assert split_claims("I hear a dog, but also a bus.") == ["I hear a dog", "I hear a bus"]


def test_a_pattern_replaces_the_rules():
    text = "[dog] is heard , and [ a   cat ] . [dog]"
    assert split_claims(text, r"\[(.*?)\]") == ["dog", "a cat"]
    assert split_claims("a1 b2 a1", r"[ab]\d") == ["a1", "b2"]
    assert split_claims("nothing", r"\[(.*?)\]") == []


def test_sentences_keep_their_ends_and_lose_their_bullets():
    text = "# Sounds\n1. A dog. 2. A cat!\n* Is it *loud*?\nStep 3: A bell… and more"
    assert sentences(text) == ["Sounds", "A dog.", "A cat!", "Is it *loud*?", "A bell… and more"]


@pytest.mark.parametrize(
    "text",
    [
        "I hear a dog then ",
        "I hear a dog, ",
        "e.g. ",
        "(",
        '"',
        "so ",
        "answer ",
        "a\n",
        ". ",
        " ",
        "x",
        "it is. ",
        "In a",
    ],
)
def test_hostile_texts_take_no_long_time_and_make_no_more_text_than_they_are(text):
    hostile = text * (60_000 // len(text))
    assert sum(map(len, split_claims(hostile))) <= 3 * len(hostile)
    long_first = "I hear " + "x" * 50_000 + ". Then " + "a dog, " * 5_000
    assert sum(map(len, split_claims(long_first))) < 200_000
