"""The stage from settings to the table: what it asks, writes, refuses, and does again after a kill. No engine."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.distill.chains import read_chains, read_table, write_chains
from ssr1_rl.distill.verification.dry_run import print_verify_dry_run
from ssr1_rl.distill.verification.verified import VERIFIED_SCHEMA
from ssr1_rl.distill.verifier import verify
from ssr1_rl.errors import ConfigError, Interrupted, MissingFile, UserError
from ssr1_rl.inference.answers import TooManyFailed
from ssr1_rl.store.folder import RunFolderInUse, claim
from tests.unit.distill.listening import Listener, make_run

THOUGHTS = [
    ["I hear a dog then a car.", "I hear a dog.", "!I hear a horn."],
    ["I hear a ghost.", "So the answer is a."],
    ["I hear a dog."],
    ["I hear a dog and a ghost."],
]


@pytest.fixture
def launch(tmp_path, random_audio_model) -> Path:
    return make_run(tmp_path, THOUGHTS, random_audio_model)


def rows_of(launch: Path) -> list[dict]:
    path = launch.parent / "run" / "verified.parquet"
    read_table(path, VERIFIED_SCHEMA)
    return pq.read_table(path).to_pylist()


def words(table: str) -> str:
    return " ".join(table.replace("│", " ").split())


def test_every_chain_gets_its_verdict(launch, capsys):
    listener = Listener(contradicted=["ghost"])
    summary = verify(load_distill(launch, stage="verify"), backend=listener)
    found = rows_of(launch)
    assert [(row["question_id"], row["chain"], row["validated"], row["verdict"]) for row in found] == [
        ("0", 0, True, "score 0.800 ≥ 0.5"),
        ("0", 1, True, "score 0.800 ≥ 0.5"),
        ("0", 2, False, "not kept: wrong answer"),
        ("1", 0, False, "score 0.100 < 0.5: supported with 0.100: I hear a ghost"),
        ("1", 1, False, "no claims"),
        ("2", 0, True, "score 0.800 ≥ 0.5"),
        ("3", 0, False, "score 0.100 < 0.5: supported with 0.100: I hear a ghost"),
    ]
    assert [claim["text"] for claim in found[0]["claims"]] == ["I hear a dog", "I hear a dog then a car"]
    assert found[0]["claims"][0] == pytest.approx(
        {"text": "I hear a dog", "supported": 0.8, "contradicted": 0.1, "cannot_tell": 0.1}
    )
    assert found[0]["score"] == pytest.approx(0.8) and found[2]["score"] is None and found[4]["score"] is None
    chains = read_chains(launch.parent / "run" / "chains.parquet")
    assert [(chain.text, chain.reason) for chain in chains] == [(row["text"], row["reason"]) for row in found]
    assert listener.claims == [
        *("I hear a dog", "I hear a dog then a car", "I hear a ghost"),
        *("I hear a dog", "I hear a dog", "I hear a ghost"),
    ], "a claim about a clip is asked once, and the claims of a clip stand together"
    assert (summary.num_judged, summary.num_unjudgeable, summary.num_failed, summary.num_asked) == (5, 1, 0, 6)
    assert summary.score_histogram == [0, 2, 0, 0, 0, 0, 0, 0, 3, 0]
    assert summary.outcomes == {"supported": 5, "contradicted": 2, "cannot_tell": 0}
    of_all, by_kind = summary.of_all, summary.by_kind
    assert (of_all.num_chains, of_all.num_validated, of_all.num_questions, of_all.num_questions_left) == (6, 3, 4, 2)
    assert {kind: (share.num_validated, share.num_questions_left) for kind, share in by_kind.items()} == {
        "animals": (3, 0),
        "traffic": (0, 2),
    }
    written = json.loads((launch.parent / "run" / "verify_summary.json").read_text())
    assert written["validated_share"] == 0.5 and written["of_all"]["num_validated"] == 3
    shown = words(capsys.readouterr().out)
    assert "validated 3 (50.0%)" in shown and "questions left without a chain 2" in shown


def test_another_rule_and_threshold_ask_nothing_again_but_another_question_does(launch):
    verify(load_distill(launch, stage="verify"), backend=Listener(contradicted=["ghost"]))
    again = Listener()
    verify(load_distill(launch, ["verifier.rule=mean", "verifier.threshold=0.45"], "verify"), backend=again)
    assert not again.claims
    assert [row["validated"] for row in rows_of(launch)] == [True, True, False, False, False, True, True]
    assert rows_of(launch)[6]["score"] == pytest.approx(0.45)
    verify(load_distill(launch, ["verifier.rule=none_contradicted"], "verify"), backend=again)
    assert rows_of(launch)[3]["score"] == pytest.approx(0.2) and not again.claims
    verify(load_distill(launch, ["verifier.question=True? {claim}"], "verify"), backend=again)
    assert len(again.claims) == 6


def test_a_stop_and_a_start_ask_no_claim_twice(launch):
    first, second = Listener(stop_after=4), Listener()
    with pytest.raises(Interrupted, match=r"kept in .*verify; the same command"):
        verify(load_distill(launch, stage="verify"), backend=first)
    assert not (launch.parent / "run" / "verified.parquet").exists()
    verify(load_distill(launch, stage="verify"), backend=second)
    assert (len(first.claims), len(second.claims)) == (4, 2)


def test_three_orders_ask_three_times(launch):
    listener = Listener(contradicted=["ghost"])
    verify(load_distill(launch, ["verifier.num_orders=3"], "verify"), backend=listener)
    assert len(listener.claims) == 18
    assert [row["validated"] for row in rows_of(launch)] == [True, True, False, False, False, True, False]


def test_failed_claims_are_counted_listed_asked_again_and_above_the_share_stop_the_stage(launch):
    config = load_distill(launch, ["verifier.max_failed_share=0.3"], "verify")
    summary = verify(config, backend=Listener(fail=["then"]))
    assert summary.num_failed == 1 and rows_of(launch)[0]["verdict"] == "failed: the clip is lost"
    assert "the clip is lost" in (launch.parent / "run" / "verify" / "failed.jsonl").read_text()
    again = Listener()
    assert verify(config, backend=again).num_failed == 0 and again.claims == ["I hear a dog then a car"]
    with pytest.raises(TooManyFailed, match="the clip is lost"):
        verify(
            load_distill(launch, ["verifier.question=True? {claim}"], "verify"), backend=Listener(fail=["dog", "ghost"])
        )


def test_no_check_keeps_what_the_teacher_kept_and_a_whole_chain_is_one_question(launch):
    summary = verify(load_distill(launch, ["verifier.method=none"], "verify"))
    assert [row["validated"] for row in rows_of(launch)] == [True, True, False, True, True, True, True]
    assert {row["verdict"] for row in rows_of(launch)} == {"not checked", "not kept: wrong answer"}
    assert summary.num_asked == 0 and summary.num_judged == 0
    listener = Listener(contradicted=["ghost"])
    verify(load_distill(launch, ["verifier.method=chain"], "verify"), backend=listener)
    assert listener.claims[0] == "I hear a dog then a car." and len(listener.claims) == 6
    assert [row["validated"] for row in rows_of(launch)] == [True, True, False, False, True, True, False]


def test_no_validated_chain_is_an_error_that_says_where_to_look(launch):
    with pytest.raises(UserError, match=r"no chain is validated.*verified.parquet says why for each.*calibrate"):
        verify(load_distill(launch, ["verifier.threshold=0.9"], "verify"), backend=Listener())
    assert len(rows_of(launch)) == 7


def test_two_stages_in_one_folder_are_refused(launch):
    with claim(launch.parent / "run"), pytest.raises(RunFolderInUse):
        verify(load_distill(launch, stage="verify"), backend=Listener())


def test_tables_and_data_that_do_not_fit_are_refused(launch):
    run = launch.parent / "run"
    chains = read_chains(run / "chains.parquet")
    lines = (launch.parent / "train.jsonl").read_text().splitlines(keepends=True)
    (launch.parent / "train.jsonl").write_text("".join(lines[:3]))
    with pytest.raises(UserError, match=r"1 of 6 kept chains answer questions that data.train .* does not have, '3'"):
        verify(load_distill(launch, stage="verify"), backend=Listener())
    summary = verify(load_distill(launch, ["verifier.max_failed_share=0.2"], "verify"), backend=Listener())
    assert summary.num_failed == 1 and rows_of(launch)[6]["verdict"] == "failed: data.train has no such question"
    write_chains(run / "chains.parquet", [chains[0], chains[0]])
    with pytest.raises(UserError, match="1 chains occur twice, 0/0 for example"):
        verify(load_distill(launch, stage="verify"), backend=Listener())
    write_chains(run / "chains.parquet", [chains[2]])
    with pytest.raises(UserError, match="none of its 1 chains is kept"):
        verify(load_distill(launch, stage="verify"), backend=Listener())
    with pytest.raises(
        MissingFile, match=r"verifier\.chains elsewhere.parquet is not a file .*; give the chains.parquet"
    ):
        verify(load_distill(launch, ["verifier.chains=elsewhere.parquet"], "verify"), backend=Listener())
    (run / "chains.parquet").unlink()
    with pytest.raises(MissingFile, match=r"run `ssr1-rl distill generate` with this run.dir first$"):
        verify(load_distill(launch, ["run.setup=download the clips"], "verify"), backend=Listener())
    (run / "chains.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        verify(load_distill(launch, stage="verify"), backend=Listener())


def test_the_dry_run_shows_claims_and_a_prompt_and_writes_nothing(launch, capsys):
    print_verify_dry_run(load_distill(launch, stage="verify"))
    shown = words(capsys.readouterr().out)
    assert "I hear a dog then a car" in shown and "(C) cannot tell" in shown and "nothing was started" in shown
    assert "requests 6" in shown and "claims of all chains 7" in shown
    assert not (launch.parent / "run" / "verify").exists()


def test_a_model_that_is_not_there_is_refused_before_anything_starts(launch):
    with pytest.raises(MissingFile, match=r"verifier.model /nowhere/model does not exist"):
        verify(load_distill(launch, ["verifier.model=/nowhere/model"], "verify"))


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["verifier.model="], "verifier.model is empty and verifier.method=claims asks it"),
        (["verifier.question=true?"], r"verifier.question must contain \{claim\}"),
        (["verifier.verdicts=[yes,no]"], "verifier.verdicts must be three different texts"),
        (["verifier.verdicts=[yes,no,No]"], "verifier.verdicts must be three different texts"),
        (["verifier.claim_pattern=("], "verifier.claim_pattern '\\(' is no regular expression"),
        (["verifier.claim_pattern=(a)(b)"], "has 2 groups, and the first one is the claim"),
        (["verifier.method=custom"], "verifier.custom.path is empty"),
        (
            ["verifier.method=custom", "verifier.custom.path=no.py:f"],
            "verifier.custom.path 'no.py:f': there is no file",
        ),
        (["verifier.custom.num_gpus=1.5", "verifier.method=custom", "verifier.custom.path=a.b:f"], "whole number"),
        (["verifier.chat_template_kwargs={tokenize: true}"], "verifier.chat_template_kwargs.tokenize cannot be set"),
        (["verifier.threshold=1.5"], "verifier.threshold must be at most 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(launch, overrides, error):
    with pytest.raises(ConfigError, match=error):
        load_distill(launch, overrides, "verify")
