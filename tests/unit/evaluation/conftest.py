"""A small MMAU file, and the evaluation of models' doubles on it."""

import json

import pytest

from ssr1_rl.checks.eval_preflight import read_validation
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.evaluation.evaluate import evaluate_models
from tests.unit.evaluation.answering import CHOICES


@pytest.fixture
def make(tmp_path):
    """Writes a small MMAU file, and evaluates models on it."""

    class World:
        def __init__(self):
            self.config = Config()
            self.config.run.name, self.config.run.dir = "x", str(tmp_path / "run")
            self.config.data.max_skipped_share = 0.5
            self.config.evaluation.max_failed_share = 0.5
            self.rows, self.notes = [], []
            self.run = tmp_path / "run"

        def row(self, name, answer="dog", task="sound", category="a", difficulty="easy", choices=CHOICES, clip=True):
            if clip:
                (tmp_path / f"{name}.wav").write_bytes(b"sound")
            keys = {"id": name, "audio_id": f"./{name}.wav", "question": "What?", "choices": choices, "answer": answer}
            self.rows.append(keys | {"task": task, "category": category, "difficulty": difficulty, "split": "mini"})
            return self

        def evaluate(self, **models):
            (tmp_path / "mini.json").write_text(json.dumps(self.rows))
            dataset = DatasetConfig(format="mmau", path=str(tmp_path / "mini.json"))
            self.config.data.validation = {"mini": dataset}
            splits = read_validation(self.config.data)
            paths = {name: f"models/{name}" for name in models}
            return evaluate_models(
                paths, splits, self.config, self.run, self.notes.append, lambda path: models[path.split("/")[1]]
            )

        def json(self, name):
            return json.loads((self.run / name).read_text())

    return World()
