"""A verifier of the user's: how it is loaded, what it may return, and what its errors become. No Ray."""

import math

import numpy as np
import pytest

from ssr1_rl.checks.verifier_rules import CUSTOM, check_verifier, custom_as_reward
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.verifier import CustomVerifierConfig, VerifierConfig
from ssr1_rl.distill.verification.claim_questions import ToJudge
from ssr1_rl.distill.verification.custom_verifier import (
    InvalidVerdict,
    _VerifierActor,
    as_judgement,
    from_answer,
    load_verifier,
    rows_for,
    to_json,
)
from ssr1_rl.distill.verification.depends_on import verdicts_of_the_user
from ssr1_rl.distill.verification.verdicts import Judgement, Verdict
from ssr1_rl.errors import ConfigError
from ssr1_rl.inference.request import Answer
from ssr1_rl.rewards.load import read_source
from ssr1_rl.types import AudioRef, Question

CODE = """
def share(question, waveforms, chain, factor=1.0):
    return factor * len(waveforms) / (1 + len(waveforms)) if "dog" in chain else 0

def breaks(question, waveforms, chain):
    return [][1]

def leaves(question, waveforms, chain):
    raise SystemExit("bye")

class Judge:
    def __init__(self, level):
        self.level = level + 0.0
    def __call__(self, question, waveforms, chain):
        return [{"text": chain, "supported": self.level, "cannot_tell": 1 - self.level}]

async def later(question, waveforms, chain):
    return 1.0

def short(question, chain):
    return 1.0

NUMBER = 3
"""
QUESTION = Question("7", "What?", "a", ("a", "b"), audio=(AudioRef("a.wav"),))


@pytest.fixture
def source(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)

    def of(function, **settings):
        config = custom_as_reward(CustomVerifierConfig(path=f"mine.py:{function}", **settings))
        return read_source(config, CUSTOM)

    return of


def test_functions_and_classes_are_called_with_question_clips_and_thoughts(source):
    clip = np.zeros(400, np.float32)
    share = load_verifier(source("share", options={"factor": 0.5}))
    assert share(QUESTION, [clip], "a dog") == 0.25 and share(QUESTION, [clip], "a cat") == 0
    judge = load_verifier(source("Judge", options={"level": 0.75}))
    found = as_judgement(judge(QUESTION, [clip], "a dog"))
    assert found.verdicts == (Verdict("a dog", 0.75, 0.0, 0.25),) and found.score("mean") == 0.75


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        ("share", {"fctor": 1}, "has no 'fctor'; did you mean 'factor'"),
        ("short", {}, r"cannot be called as \(question, waveforms, chain, \*\*options\)"),
        ("Judge", {}, r"cannot be called as \(\*\*options\).*level"),
        ("Judge", {"level": "x"}, "verifier.custom.path 'mine.py:Judge' cannot be built: TypeError"),
        ("later", {}, "is async; write it as a plain def"),
        (
            "NUMBER",
            {},
            r"cannot be called; it has to be a function or an object with __call__\(question, waveforms, chain",
        ),
        ("Jugde", {}, "has no 'Jugde'; did you mean 'Judge'"),
    ],
)
def test_what_cannot_be_called_so_is_refused(source, function, options, error):
    with pytest.raises(ConfigError, match=error):
        load_verifier(source(function, options=options))


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.array(0.5)])
def test_a_score_is_a_number(value):
    assert as_judgement(value) == Judgement(own_score=float(value))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, "it returned nan, which is not in"),
        (1.01, "it returned 1.01, which is not in"),
        (-0.1, "it returned -0.1"),
        (None, "it returned None; return a score"),
        (True, "it returned True; return a score"),
        ("0.5", "it returned '0.5'; return a score"),
        (np.zeros(3), "no number in"),
        ([], "an empty list of verdicts"),
        ([0.5], "its verdict 0 is 0.5; return mappings with text, supported, contradicted, cannot_tell"),
        ([{"text": "a"}], "its verdict 0 is"),
        ([{"supported": 1, "suported": 0}], "its verdict 0 is"),
        ([{"supported": 1}, {"supported": 0.5}], "the probabilities of its verdict 1 add up to 0.5, not to 1"),
        ([{"supported": math.nan}], "its verdict 0 has supported = nan"),
    ],
)
def test_what_is_no_score_and_no_verdict_is_refused(value, error):
    with pytest.raises(InvalidVerdict, match=error):
        as_judgement(value)


def test_judgements_survive_the_store():
    verdicts = (Verdict("a", 0.1, 0.2, 0.7),)
    for judgement in (Judgement(own_score=0.3), Judgement(verdicts)):
        assert from_answer(Answer("k", text=to_json(judgement))) == judgement
    failed = from_answer(Answer("k", error="lost"))
    assert failed.is_failed and failed.error == "lost"


def judged(source, chain):
    actor = object.__new__(_VerifierActor)
    actor._source, actor._data, actor._chains = source, DataConfig(), {"7/0": chain}
    try:
        actor._verifier = load_verifier(source)
    except ConfigError as error:
        actor._verifier = error
    return actor({"key": np.array(["7/0"])})


def test_errors_of_the_user_s_code_name_the_line_and_end_no_actor(source):
    silent = ToJudge("7/0", Question("7", "What?", "a"), "a dog")
    assert judged(source("breaks"), silent)["error"] == [
        "IndexError: list index out of range (mine.py, line 6, in breaks)"
    ]
    assert judged(source("leaves"), silent)["error"] == ["SystemExit: bye (mine.py, line 9, in leaves)"]
    assert "cannot be built: TypeError" in judged(source("Judge", options={"level": "x"}), silent)["error"][0]
    wrong = judged(source("share", options={"factor": -1}), ToJudge("7/0", QUESTION, "a dog"))["error"][0]
    assert wrong == "a.wav: no such audio file; add it, or fix data's audio_dir"
    assert judged(source("share"), silent) == {
        "key": ["7/0"],
        "text": ['{"score": 0.0, "verdicts": []}'],
        "error": [""],
    }


def test_rows_and_fingerprint_change_with_what_judgements_depend_on(source, tmp_path):
    row = rows_for([ToJudge("7/0", QUESTION, "a dog")])[0]
    assert row != rows_for([ToJudge("7/0", QUESTION, "a cat")])[0]
    assert row != rows_for([ToJudge("7/0", Question("7", "Who?", "a"), "a dog")])[0]
    source("share")
    config = Config()
    config.verifier = VerifierConfig(method="custom", custom=CustomVerifierConfig("mine.py:share", {"key": "s3cret"}))
    check_verifier(config.verifier, "verify")
    before = verdicts_of_the_user(config)
    config.verifier.custom.options["key"] = "other"
    after = verdicts_of_the_user(config)
    assert before != after and "s3cret" not in str(before)
    (tmp_path / "mine.py").write_text(CODE + "# changed")
    assert verdicts_of_the_user(config) != after
