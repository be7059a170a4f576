"""Labels, the figures of a calibration by hand, and its files."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.distill.calibrate import calibrate
from ssr1_rl.distill.verification.calibration_files import sentences
from ssr1_rl.distill.verification.dry_run import print_calibrate_dry_run
from ssr1_rl.distill.verification.labels import thoughts_of
from ssr1_rl.errors import ConfigError, RunError, UserError
from ssr1_rl.inference.request import Answer
from tests.unit.distill.listening import Listener, make_run

THOUGHTS = [["I hear a dog.", "!I hear a car."], ["I hear a ghost."], ["I hear a bell."]]


class Scorer:
    """Gives claims the probability of `supported` that their text names: "I hear 0.8" is supported with 0.8."""

    def __init__(self):
        self.num_asked = 0

    def answers(self, rows, to_request):
        import math

        for row in rows:
            self.num_asked += 1
            supported = float(row["claim"].split()[-1])
            letters = to_request(row).allowed_token_ids
            values = (supported, (1 - supported) * 0.75, (1 - supported) * 0.25)
            yield [Answer(row["key"], first_logprobs=dict(zip(letters, map(math.log, values), strict=True)))]


@pytest.fixture
def launch(tmp_path, random_audio_model) -> Path:
    return make_run(tmp_path, THOUGHTS, random_audio_model, f"  labels: {tmp_path}/labels.jsonl\n")


def label(launch, rows):
    (launch.parent / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def scored(question, value, grounded, **more):
    """A labelled chain of two claims; the lower one decides by the rule "all"."""
    text = f"I hear {value}. I hear 0.96."
    return {"question_id": str(question), "text": text, "grounded": grounded, **more}


SAMPLE = [
    scored(0, 0.95, True),
    scored(1, 0.85, True),
    scored(2, 0.85, False),
    scored(0, 0.35, False),
    scored(1, 0.25, True),
    {"question_id": 2, "text": "<think> So the answer is b. </think> <answer> b </answer>", "grounded": False},
]


def test_the_figures_of_a_sample(launch, capsys):
    label(launch, SAMPLE)
    result = calibrate(load_distill(launch, ["verifier.target_precision=0.66"], "calibrate"), backend=Scorer())
    assert (result.num_labelled, result.num_grounded, dict(result.unjudged)) == (6, 3, {"no claims": 1})
    strict = result.rules["all"]
    found = [(p.threshold, p.result.num_kept, p.result.num_kept_grounded) for p in strict.points]
    assert found == [(0.0, 5, 3), (0.3, 4, 2), (0.8, 3, 2), (0.9, 1, 1)]
    assert strict.at_target.threshold == 0.8 and strict.at_target.result.recall == pytest.approx(2 / 3)
    assert strict.at_setting.num_kept == 3 and strict.best_f1.threshold == 0.0
    assert [p.threshold for p in result.rules["mean"].points] == [0.0, 0.65, 0.9, 0.95]
    assert [p.threshold for p in result.rules["none_contradicted"].points] == [0.0, 0.5, 0.8, 0.9]
    assert result.best[0] == "all", "all rules keep the same chains here, and the first is told"
    run = launch.parent / "run"
    written = json.loads((run / "calibration.json").read_text())
    assert written["best"]["threshold"] == 0.8 and written["rules"]["all"]["curve"][3]["precision"] == 1.0
    assert written["rules"]["all"]["curve"][2]["precision_low"] == pytest.approx(0.207660, abs=1e-6)
    rows = list(csv.DictReader((run / "calibration.csv").open()))
    assert len(rows) == 12 and rows[2] | {"rule": "all", "threshold": "0.8", "num_kept": "3"} == rows[2]
    assert (run / "calibration.png").read_bytes().startswith(b"\x89PNG")
    said = sentences(result)
    assert said[0] == "3 of 6 labelled chains are grounded"
    assert said[1] == "1 chains could not be judged, and no threshold keeps them: no claims (1)"
    assert said[2].startswith(
        "verifier.rule=all verifier.threshold=0.8 keeps 3 chains, 2 of them grounded: precision 0.667"
    )
    assert said[2] in capsys.readouterr().out


def test_the_threshold_that_is_told_keeps_in_verify_what_it_kept_here(launch):
    label(launch, [scored(0, 0.7012345678, True), scored(1, 0.7012345677, False)])
    result = calibrate(load_distill(launch, stage="calibrate"), backend=Scorer())
    threshold = float(sentences(result)[1].split("threshold=")[1].split()[0])
    assert 0.7012345677 < threshold <= 0.7012345678


def test_a_precision_that_no_threshold_reaches_is_told(launch):
    label(launch, [scored(0, 0.7, True), scored(1, 0.8, False)])
    result = calibrate(load_distill(launch, stage="calibrate"), backend=Scorer())
    assert result.best is None and result.rules["all"].at_target is None
    assert sentences(result)[1].startswith("no threshold reaches a precision of 0.9; the best is 0.500.")
    assert json.loads((launch.parent / "run" / "calibration.json").read_text())["best"] is None


def test_chains_by_their_number_parquet_and_labels_of_claims(launch):
    claims = [{"text": "I hear a dog", "verdict": "supported"}, {"text": "another  wording", "verdict": "cannot tell"}]
    rows = [
        {"question_id": "0", "chain": 0, "text": None, "grounded": True, "claims": claims},
        {"question_id": "0", "chain": 1, "text": None, "grounded": False, "claims": None},
        {"question_id": "1", "chain": None, "text": "I hear a ghost.", "grounded": False, "claims": None},
    ]
    path = launch.parent / "labels.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    config = load_distill(launch, [f"verifier.labels={path}"], "calibrate")
    listener = Listener(contradicted=["ghost", "dog"])
    result = calibrate(config, backend=listener)
    assert listener.claims == ["I hear a dog", "I hear a car", "I hear a ghost"]
    assert result.claims.num_labelled == 2 and result.claims.num_found == 1 and result.claims.accuracy == 0.0
    assert result.claims.confusion["supported"] == {"supported": 0, "contradicted": 1, "cannot_tell": 0}
    assert "1 labelled claims are worded as no claim of their chain is, and were left out" in sentences(result)


def test_a_second_start_asks_nothing_again(launch):
    label(launch, SAMPLE)
    scorer = Scorer()
    calibrate(load_distill(launch, stage="calibrate"), backend=scorer)
    calibrate(load_distill(launch, ["verifier.target_precision=0.5"], "calibrate"), backend=scorer)
    assert scorer.num_asked == 8, "five chains of two claims, on three clips: 0.96 is asked once of each"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question_id": "9", "text": "a", "grounded": True}, "row 2: question_id: data.train has no question '9'"),
        ({"question_id": "0", "grounded": True}, "row 2: text: give the chain either as `text` or as `chain`"),
        ({"question_id": "0", "text": "a", "chain": 0, "grounded": True}, "row 2: text: give the chain either"),
        ({"question_id": "0", "chain": 7, "grounded": True}, "row 2: chain: the table of chains has no chain 7 of"),
        ({"question_id": "0", "text": "a", "grounded": "yes"}, "row 2: grounded: expected true or false, got 'yes'"),
        ({"question_id": "0", "text": "a", "grounded": 1}, "row 2: grounded: expected true or false, got 1"),
        ({"question_id": "0", "text": " ", "grounded": True}, "row 2: text: expected the text of a chain"),
        ({"question_id": "0", "text": "a", "gruonded": True}, "row 2: gruonded: is no field of a label"),
        ({"question_id": "0", "text": "a", "grounded": True, "claims": [{"text": "a"}]}, "row 2: claims: expected map"),
        (SAMPLE[0], "row 2: text: the same chain is labelled in row 1"),
        ([], r"row 2: row: expected an object with question_id, text or chain, and grounded, got \[\]"),
    ],
)
def test_a_wrong_label_is_named(launch, row, error):
    label(launch, [SAMPLE[0], row, SAMPLE[2]])
    with pytest.raises(UserError, match=f"1 of 3 rows are wrong:\n  {error}"):
        calibrate(load_distill(launch, stage="calibrate"), backend=Scorer())


def test_samples_that_say_nothing_are_refused(launch):
    label(launch, [SAMPLE[0], SAMPLE[1]])
    with pytest.raises(UserError, match="all of its 2 chains are grounded"):
        calibrate(load_distill(launch, stage="calibrate"), backend=Scorer())
    label(launch, [SAMPLE[5], {**SAMPLE[5], "question_id": "0", "grounded": True}])
    with pytest.raises(RunError, match="none of the 2 labelled chains could be judged; 2 of them: no claims"):
        calibrate(load_distill(launch, stage="calibrate"), backend=Scorer())
    with pytest.raises(UserError, match=r"verifier.labels nowhere.jsonl is not a file"):
        calibrate(load_distill(launch, ["verifier.labels=nowhere.jsonl"], "calibrate"), backend=Scorer())
    with pytest.raises(ConfigError, match=r"verifier.labels is empty"):
        load_distill(launch, ["verifier.labels="], "calibrate")
    with pytest.raises(ConfigError, match=r"verifier.method=none gives no scores to calibrate"):
        load_distill(launch, ["verifier.method=none"], "calibrate")


def test_the_dry_run_counts(launch, capsys):
    label(launch, SAMPLE)
    print_calibrate_dry_run(load_distill(launch, stage="calibrate"))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "labelled chains 6" in shown and "of these, grounded 3" in shown and "requests 8" in shown


def test_thoughts_are_what_is_inside_the_tags():
    assert thoughts_of("<think> a b </think> <answer> c </answer>") == "a b"
    assert thoughts_of(" a b ") == "a b" and thoughts_of("<think> a") == "a"
