"""The estimate of GPU-hours, against sums made by hand."""

import pytest
import torch
from safetensors.torch import save_file

from ssr1_rl.config.schema import Config
from ssr1_rl.recipe.estimate import PEAK, SHARE_OF_PEAK, Work, estimate, num_parameters


def test_work_is_operations_over_what_the_gpu_does_in_that_kind_of_work():
    seconds = (
        2 * 7e9 * 1000 / (PEAK * SHARE_OF_PEAK["prefill"])
        + 2 * 7e9 * 500 / (PEAK * SHARE_OF_PEAK["decode"])
        + 4 * 7e9 * 250 / (PEAK * SHARE_OF_PEAK["train"])
    )
    assert Work(7e9, 1000, 500, 250, 4.0).gpu_hours == pytest.approx(seconds / 3600)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2-Audio-7B-Instruct", 7e9),
        ("Qwen/Qwen2.5-VL-32B-Instruct", 32e9),
        ("org/model-0.5b", 0.5e9),
        ("Qwen/Qwen3-Omni-30B-A3B", 30e9),
        ("openai/whisper-large", None),
        ("org/4bit-model", None),
    ],
)
def test_the_size_of_a_model_is_in_its_name(name, size):
    assert num_parameters(name) == size


def test_the_size_of_a_folder_is_counted(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    assert num_parameters(str(tmp_path)) == 17


def test_twice_the_questions_take_twice_the_time_and_labels_need_no_teacher():
    config = Config()
    config.teacher.model, config.verifier.model = "t-32B", "v-7B"
    config.evaluation.models = {"before": "m-7B", "after": "out/export"}
    stages = dict.fromkeys(("generate", "verify", "sft", "grpo", "evaluate"), config)
    once, twice = estimate(stages, "m-7B", 1000, 100), estimate(stages, "m-7B", 2000, 200)
    for name in ("generate", "verify", "sft", "evaluate"):
        assert twice[name] == pytest.approx(2 * once[name]), name
    assert twice["grpo"] == once["grpo"], "its steps do not depend on the number of questions"
    assert once["generate"] > once["verify"], "the teacher is larger and writes whole chains"


def test_a_model_of_unknown_size_and_a_server_have_no_estimate():
    config = Config()
    config.teacher.model, config.verifier.model = "t-32B", "some-verifier"
    config.teacher.endpoint.url = "https://host/v1"
    stages = dict.fromkeys(("generate", "verify", "sft"), config)
    found = estimate(stages, "no-size", 10, 10)
    assert found == {"generate": None, "verify": None, "sft": None}
