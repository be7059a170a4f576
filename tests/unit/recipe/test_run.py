"""Which stages of a recipe run, and what is kept, with stages that only write a file."""

import contextlib
import dataclasses
import json
import shutil

import pytest

from ssr1_rl.errors import ConfigError, UserError
from ssr1_rl.recipe import run
from ssr1_rl.recipe.folder import RecipeFolder
from ssr1_rl.recipe.run import read_recipe, run_recipe
from ssr1_rl.recipe.stages import STAGES
from tests.documented_commands import ROOT

FILE = """\
run: {name: r, dir: DIR, device: cpu}
model: {path: ROOT/base, dtype: float32}
data:
  train: {format: jsonl, path: ROOT/train.jsonl}
  validation: {test: {format: jsonl, path: ROOT/test.jsonl}}
teacher: {model: ROOT/teacher, dtype: float32}
verifier: {model: ROOT/verifier, dtype: float32}
evaluation: {dtype: float32}
"""
QUESTION = json.dumps({"id": "1", "question": "Who?", "answer": "a"}) + "\n"
NAMES = ["generate", "verify", "sft", "grpo", "evaluate"]


class Killed(BaseException):
    pass


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Runs the recipe with stages that write their outputs; returns the names of those that ran."""
    monkeypatch.setattr(run, "connected", contextlib.nullcontext)
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(QUESTION)
    for model in ("base", "teacher", "verifier"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text("{}")
    path, folder = tmp_path / "recipe.yaml", RecipeFolder(tmp_path / "out")
    path.write_text(FILE.replace("DIR", str(folder.path)).replace("ROOT", str(tmp_path)))

    def start(*overrides, dies_in=""):
        ran = []

        def fake(stage):
            def work(config):
                ran.append(stage.name)
                for output in stage.outputs(folder):
                    output.parent.mkdir(parents=True, exist_ok=True)
                    if output.suffix:
                        output.write_text(f"{stage.name} {config.run.seed} {config.learner.learning_rate}")
                    else:
                        output.mkdir(exist_ok=True)
                        (output / "weights").write_text(f"{config.learner.learning_rate}")
                if stage.name == dies_in:
                    raise Killed
                return f"{stage.name} was made"

            return dataclasses.replace(stage, run=work, check=lambda config: None)

        stages = tuple(fake(stage) for stage in STAGES)
        with contextlib.suppress(Killed):
            run_recipe(path, overrides, stages)
        return ran

    start.folder, start.path = folder, path
    return start


def test_every_stage_runs_once_in_order_and_none_again(recipe, capsys):
    assert recipe() == NAMES
    assert recipe() == []
    told = capsys.readouterr().out
    assert "[3/5] sft: unchanged; sft was made" in told
    assert recipe.folder.results.read_text() == recipe.folder.table.read_text()


def test_a_killed_stage_runs_again_and_the_finished_ones_do_not(recipe, capsys):
    assert recipe(dies_in="sft") == ["generate", "verify", "sft"]
    assert recipe() == ["sft", "grpo", "evaluate"]
    assert "[3/5] sft: not finished" in capsys.readouterr().out
    assert not (recipe.folder.path / "set_aside").exists(), "an unfinished stage goes on in its folder"


def test_a_changed_setting_runs_the_stages_that_depend_on_it_and_keeps_what_was_there(recipe, capsys):
    recipe()
    assert recipe("stages.sft.learner.learning_rate=0.5") == ["sft", "grpo", "evaluate"]
    told = capsys.readouterr().out
    assert "[3/5] sft: changed: learner.learning_rate (1e-06 before, 0.5 now)" in told
    assert "[4/5] grpo: changed: model of the student after SFT" in told
    kept = recipe.folder.path / "set_aside" / "sft_001" / "export" / "weights"
    assert kept.read_text() == "1e-06"


def test_a_stage_whose_input_comes_out_the_same_is_not_run_again(recipe):
    recipe()
    # This stage writes the same file whatever the teacher's temperature is.
    assert recipe("teacher.temperature=0.1") == ["generate"]


def test_a_split_that_a_stage_does_not_read_does_not_run_it_again(recipe, tmp_path):
    recipe()
    (tmp_path / "test.jsonl").write_text(QUESTION.replace("Who", "What"))
    assert recipe() == ["sft", "grpo", "evaluate"], "SFT and GRPO validate on it"


def test_a_copy_of_the_folder_goes_on_as_the_folder_itself(recipe, tmp_path):
    recipe()
    shutil.copytree(recipe.folder.path, tmp_path / "copy")
    assert recipe(f"run.dir={tmp_path}/copy") == []


def test_changed_data_is_noticed(recipe, tmp_path):
    recipe()
    (tmp_path / "train.jsonl").write_text(QUESTION.replace("Who", "What"))
    assert recipe()[0] == "generate"


def test_a_missing_output_is_made_again(recipe, capsys):
    recipe()
    recipe.folder.verified.unlink()
    assert recipe() == ["verify"]
    assert "verified.parquet is missing" in capsys.readouterr().out


def test_labels_need_neither_teacher_nor_verifier(recipe, capsys):
    assert recipe("sft.responses=labels") == ["sft", "grpo", "evaluate"]
    assert "[1/5] generate: not needed with sft.responses=labels" in capsys.readouterr().out
    assert recipe("stages.sft.sft.responses=kept")[:2] == ["generate", "sft"]
    _, configs = read_recipe(recipe.path, ["stages.sft.sft.responses=kept"])
    assert configs["sft"].sft.chains == str(recipe.folder.chains)


def test_an_error_in_the_settings_of_the_last_stage_is_told_before_the_first_one_runs(recipe):
    with pytest.raises(ConfigError, match=r"evaluation\.num_samples"):
        recipe("stages.evaluate.evaluation.num_samples=-1")
    assert not recipe.folder.of("generate").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("base/config.json", r"model\.path .*/base holds no config\.json.* To get it: make it$"),
        ("teacher/config.json", r"teacher\.model .*/teacher holds no config"),
        ("verifier/config.json", r"verifier\.model .*/verifier holds no config"),
        ("train.jsonl", r"train\.jsonl .* To get it: make it$"),
        ("test.jsonl", r"test\.jsonl .* To get it: make it$"),
    ],
)
def test_what_is_missing_is_told_before_the_first_stage_runs(recipe, tmp_path, missing, message):
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=message):
        recipe("run.setup=make it")
    assert not recipe.folder.path.exists()


def test_a_damaged_state_is_no_reason_to_forget_what_is_done(recipe):
    recipe()
    (recipe.folder.path / "recipe.json").write_text("{")
    with pytest.raises(UserError, match=r"recipe\.json cannot be read"):
        recipe()


def test_the_state_holds_no_secret_of_the_environment(recipe, monkeypatch):
    monkeypatch.setenv("WORD", "hush-hush-123")
    recipe("data.system_prompt=${oc.env:WORD}")
    state = (recipe.folder.path / "recipe.json").read_text()
    assert (
        "hush-hush-123" not in state
        and "${oc.env:WORD}" in json.loads(state)["sft"]["fingerprint"]["data.system_prompt"]
    )


def test_the_full_recipe_chooses_nothing_by_the_splits_of_its_table():
    _, configs = run.read_recipe(ROOT / "launch" / "recipe.yaml", [])
    trained = configs["generate"].data.train
    for stage in ("sft", "grpo"):
        data = configs[stage].data
        (held_out,) = data.validation.values()
        assert data.train == trained and held_out.path == trained.path
        assert 0 < held_out.max_questions <= trained.skip_questions and not held_out.skip_questions
    table = configs["evaluate"].data.validation
    assert [(split.format, split.path.rpartition("/")[2]) for split in table.values()] == [
        ("avqa", "val_qa.json"),
        ("mmau", "mmau-test-mini.json"),
    ]
    assert not any(split.max_questions or split.skip_questions for split in table.values()), "each is whole"
