"""The figures of a finished SFT run."""

import json

from ssr1_rl.distill.sft import summarise

SPEED = {"learner/tokens_per_s": 10.0, "time/step_s": 2.0}


def write(folder, *rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_figures_of_steps_and_validations(tmp_path):
    write(
        tmp_path,
        {"step": 0, "validation/loss": 3.0},
        {"step": 1, "train/loss": 2.5, **SPEED},
        {"step": 2, "train/loss": 1.5, "learner/tokens_per_s": 30.0, "time/step_s": 4.0},
        {"step": 2, "validation/loss": 1.0},
        {"step": 3, "validation/loss": 2.0},
    )
    assert summarise(tmp_path, 9.0) == {
        "num_steps": 2.0,
        "wall_s": 9.0,
        "loss_first": 2.5,
        "loss_last": 1.5,
        "tokens_per_s": 20.0,
        "step_s": 3.0,
        "validation_loss_first": 3.0,
        "validation_loss_last": 2.0,
        "validation_loss_best": 1.0,
    }


def test_a_step_of_which_nothing_could_be_learned_has_no_loss(tmp_path):
    write(tmp_path, {"step": 1, **SPEED}, {"step": 2, "train/loss": 1.5, **SPEED}, {"step": 3, **SPEED})
    found = summarise(tmp_path, 1.0)
    assert (found["loss_first"], found["loss_last"], found["num_steps"]) == (1.5, 1.5, 3.0)
    write(tmp_path, {"step": 1, **SPEED})
    assert "loss_first" not in summarise(tmp_path, 1.0)
