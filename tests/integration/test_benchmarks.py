"""The benchmark programs start, and write the figures that they document. Nothing is timed here.

Whole programs run in `make soak`.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from end_to_end import HERE as BENCHMARKS
from end_to_end import TRL_PYTHON
from text_task import make_text_task

PROGRAMS = ("end_to_end", "gpu_learner", "logprob_head", "prefix_packing", "rollout_overhead", "trl_step")
CIRCUMSTANCES = {"program", "machine", "versions", "date", "command"}
FIGURES = {
    "samples_per_s",
    "rollout_tokens_per_s",
    "learner_tokens_per_s",
    "learner_computed_tokens_per_s",
    "weight_sync_s",
    "idle_share",
}


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{program}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def run_tiny(program: str, results: Path, *arguments: str) -> dict:
    """The JSON of the last line. Checks that the file holds the same JSON and that there is a plot."""
    printed = json.loads(run(program, "--tiny", "--results", str(results), *arguments).splitlines()[-1])
    assert printed == json.loads((results / f"{program}.json").read_text())
    assert printed.keys() >= CIRCUMSTANCES
    assert printed["program"] == program
    assert (results / f"{program}.png").read_bytes().startswith(b"\x89PNG")
    assert printed["versions"].keys() == {"python", "torch", "vllm", "ray", "deepspeed", "transformers"}
    return printed


@pytest.fixture
def answer(monkeypatch, capsys):
    """Runs a program that only reads its arguments in this process, which has imported torch already."""

    def answer(program: str, *arguments: str) -> tuple[object, str, str]:
        """Exit code, stdout and stderr."""
        monkeypatch.setattr("sys.argv", [program, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / f"{program}.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return answer


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help(program, answer):
    code, printed, _ = answer(program, "--help")
    assert code == 0
    assert "--seed" in printed


@pytest.mark.soak
def test_end_to_end_gives_its_figures(tmp_path):
    result = run_tiny("end_to_end", tmp_path, "--models", "text", "--steps", "1")
    text = result["text"]
    assert text.keys() >= FIGURES
    assert text["idle_share"].keys() == {"rollout_0", "rollout_1", "learner"}
    assert text["response_tokens_mean"] == 8, "the end-of-sequence token is never sampled"
    assert text["prompt_tokens"] == 40
    assert (text["learner_ranks"], text["threads_per_learner_rank"]) == (2, 1)
    assert (text["engines"], text["threads_per_engine"]) == (2, 1)
    assert text["learner_computed_tokens_per_s"] < text["learner_tokens_per_s"], "prompts are computed once"
    assert text["logprob_abs_diff_max"] < 1e-4, "engine and learner agree"
    assert "ratio_vs_trl" not in result, "no peer was asked for"


@pytest.mark.soak
def test_rollout_overhead_gives_its_ratio(tmp_path):
    result = run_tiny("rollout_overhead", tmp_path, "--rounds", "1", "--threads", "1")
    assert result["ratio_vs_bare"] == result["pool_tokens_per_s"] / result["bare_tokens_per_s"]


@pytest.mark.soak
def test_gpu_learner_runs_without_a_gpu_and_says_so(tmp_path):
    result = run_tiny("gpu_learner", tmp_path, "--device", "cpu", "--rounds", "1")
    assert (result["device"], result["measures_a_gpu"]) == ("cpu", False)
    assert result["sides"].keys() == {"packed_sdpa", "repeated_sdpa"}
    packed, repeated = (result["sides"][way] for way in ("packed_sdpa", "repeated_sdpa"))
    assert packed["tflops_needed"] < repeated["tflops_needed"]
    assert packed["mfu"] is None, "no peak is known of a CPU"
    assert result["packed_speedup"]["sdpa"] == repeated["seconds"] / packed["seconds"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "measures nothing and needs --tiny"),
        (["--tiny", "--hidden-size", "200"], "--hidden-size must be a multiple of 128, got 200"),
        (["--tiny", "--clip-frames", "3001"], "--clip-frames must be at most 3000, got 3001"),
    ],
)
def test_gpu_learner_refuses_what_it_cannot_measure(options, message, answer):
    code, _, refusal = answer("gpu_learner", "--device", "cpu", *options)
    assert code == 2
    assert message in refusal


@pytest.mark.soak
def test_prefix_packing_gives_its_figures(tmp_path):
    result = run_tiny("prefix_packing", tmp_path, "--rounds", "1", "--threads", "1")
    assert 0 < result["max_grad_rel_diff"] <= 1e-5, "both sides compute the same"
    trained, frozen = result["cases"]
    assert (trained["train_tower"], frozen["train_tower"]) == (True, False)
    assert (result["speedup_trained_tower"], result["speedup_frozen_tower"]) == (trained["speedup"], frozen["speedup"])
    assert result["share_of_floor"] == min(trained["share_of_floor"], frozen["share_of_floor"])
    for case in result["cases"]:
        assert case["share_of_floor"] == pytest.approx(case["speedup"] / case["speedup_allowed"])
        assert case["tera_operations"]["repeated"] > 2 * case["tera_operations"]["packed"]
        assert case["peak_mib"]["repeated"] > case["peak_mib"]["packed"] > 0


@pytest.mark.soak
def test_logprob_head_gives_its_figures(tmp_path):
    result = run_tiny("logprob_head", tmp_path, "--threads", "1")
    assert [case["tokens"] for case in result["cases"]] == [32, 64]
    few, many = (case["plain"]["checksum"] for case in result["cases"])
    assert few != many, "each case has its own number of tokens"
    assert result["speedup"] == result["cases"][-1]["speedup"] > 0
    assert result["memory_ratio"] == result["cases"][-1]["memory_ratio"] > 0


def test_the_peer_gets_the_text_model_or_a_clear_refusal(answer):
    code, _, refusal = answer("end_to_end", "--peer", "trl", "--models", "lalm")
    assert code == 2
    assert "add text to --models" in refusal


@pytest.mark.skipif(not TRL_PYTHON.is_file(), reason="no .venv-trl here; `make venv-trl` makes it")
def test_trl_takes_the_text_task_and_gives_its_figures(tmp_path):
    task = make_text_task(tmp_path, "tiny", num_questions=4, prompt_tokens=40, seed=0)
    sizes = {"num-questions": 2, "group-size": 2, "max-new-tokens": 8, "steps": 1, "warmup-steps": 1}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [TRL_PYTHON, BENCHMARKS / "trl_step.py", "--model", task.model, "--prompts", task.prompts, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["samples_per_s"] == pytest.approx(2 * 2 / figures["step_times_s"][1])
    assert (len(figures["step_times_s"]), figures["response_tokens"], figures["threads"]) == (2, 8, 2)
    assert figures["versions"].keys() == {"python", "torch", "transformers", "trl"}


@pytest.mark.soak
def test_gpu_smoke_runs_its_checks_as_far_as_a_cpu_can(tmp_path: Path) -> None:
    """Those with engines are left out: tests/integration has the same comparisons on the CPU."""
    report = tmp_path / "report.json"
    checks = ("attention_sdpa", "attention_flash", "zero", "weight_sync")
    text = run("gpu_smoke", "--device", "cpu", "--report", str(report), "--only", *checks)
    statuses = {result["check"]: result["status"] for result in json.loads(report.read_text())["results"]}
    assert statuses == dict.fromkeys(checks, "passed") | {"attention_flash": "not possible"}
    assert "3 passed, 0 failed, 1 not possible" in text
