"""A second start asks only for what is missing, and for what a changed setting concerns."""

import json
import signal
import subprocess
import sys

import pytest

from ssr1_rl.checks.eval_preflight import read_validation
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.evaluation.evaluate import evaluate_models
from tests.unit.evaluation.answering import CHOICES, Model, tagged


def test_killed_and_started_again_it_asks_nothing_twice(make):
    for name in "1234":
        make.row(name)
    make.config.evaluation.num_samples = 2
    texts = dict.fromkeys("1234", tagged("dog"))
    first, second, third = Model(texts, stop_after=5), Model(texts), Model(texts)
    with pytest.raises(BaseException, match="answers so far are kept"):
        make.evaluate(base=first)
    results = make.evaluate(base=second)
    keys = [row["key"] for row in first.asked + second.asked]
    assert len(first.asked) == 5 and len(keys) == len(set(keys)) == 12
    assert results.accuracy("base", "mini") == 1.0
    assert make.evaluate(base=third).as_json() == results.as_json()
    assert third.asked == []


def asked(make, **settings):
    """The samples that are asked for after these settings have changed."""
    for name, value in settings.items():
        section, _, setting = name.partition("__")
        setattr(getattr(make.config, section), setting, value)
    model = Model(dict.fromkeys("12", tagged("dog")))
    make.evaluate(base=model)
    return [row["key"].split("/")[1] for row in model.asked]


def test_only_what_a_changed_setting_concerns_is_asked_again(make):
    make.row("1").row("2")
    assert asked(make) == ["greedy"] * 2
    assert asked(make, evaluation__num_samples=1) == ["0"] * 2
    assert asked(make, evaluation__num_samples=2) == ["1"] * 2
    assert asked(make, evaluation__temperature=0.5) == ["0", "1"] * 2
    assert asked(make, run__seed=1) == ["0", "1"] * 2
    assert asked(make, evaluation__num_resamples=500) == []
    assert asked(make, evaluation__num_samples=1) == []
    assert asked(make, data__instruction="Answer.") == ["greedy", "0"] * 2
    make.rows[0]["question"] = "Which?"
    assert asked(make) == ["greedy", "0"]


def test_every_sample_has_a_seed_of_its_own(make):
    make.row("1").row("2")
    make.config.evaluation.num_samples = 3
    model = Model(dict.fromkeys("12", tagged("dog")))
    make.evaluate(base=model)
    seeds = [row["seed"] for row in model.asked if row["temperature"]]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**62 for seed in seeds)
    assert [row["temperature"] for row in model.asked[:4]] == [0.0, 1.0, 1.0, 1.0], (
        "the samples of a prompt stay together"
    )
    assert all("dog" not in (row["source"], *row["audio"]) and "ground_truth" not in row for row in model.asked)


KILLED = """
import os, signal, sys
from pathlib import Path
import tests.unit.evaluation.test_resume as t

class Killed(t.Model):
    def answers(self, rows, to_request):
        for answers in super().answers(rows, to_request):
            with open(sys.argv[1], "a") as log:
                log.write(self.asked[-1]["key"] + "\\n")
            if len(self.asked) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield answers

t.small_evaluation(Path(sys.argv[2]), Killed(dict.fromkeys("1234", t.tagged("dog"))))
"""


def small_evaluation(folder, model):
    """Evaluates one model on four questions."""
    rows = [
        {"id": name, "audio_id": "a.wav", "question": "?", "choices": CHOICES, "answer": "dog", "task": "sound"}
        for name in "1234"
    ]
    (folder / "a.wav").write_bytes(b"sound")
    (folder / "mini.json").write_text(json.dumps(rows))
    config = Config()
    config.evaluation.num_samples = 1
    config.data.validation = {"mini": DatasetConfig(format="mmau", path=str(folder / "mini.json"))}
    splits = read_validation(config.data)
    return evaluate_models({"base": "m"}, splits, config, folder / "run", backend_of=lambda path: model)


def test_after_a_sigkill_no_finished_row_is_asked_again_and_none_is_lost(tmp_path):
    log = tmp_path / "asked"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(log), str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = log.read_text().split()
    second = Model(dict.fromkeys("1234", tagged("dog")))
    results = small_evaluation(tmp_path, second)
    after = [row["key"] for row in second.asked]
    assert len(before) == 4 and not set(before[:3]) & set(after)
    assert len(set(before + after)) == 8 and len(after) == 5, "the fourth was killed before it was stored"
    assert results.accuracy("base", "mini") == 1.0
