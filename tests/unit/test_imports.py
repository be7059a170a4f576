"""Settings, types, reward functions and `ssr1-rl --help` import no torch, no Ray and no vLLM."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed"}
LIGHT = [
    "ssr1_rl.config.schema",
    "ssr1_rl.config.load",
    "ssr1_rl.checks.rules",
    "ssr1_rl.checks.eval_rules",
    "ssr1_rl.types",
    "ssr1_rl.rewards.base",
    "ssr1_rl.rewards.load",
    "ssr1_rl.rewards.accuracy",
    "ssr1_rl.rewards.format",
    "ssr1_rl.faults.budget",
    "ssr1_rl.data.stream",
    "ssr1_rl.data.read",
    "ssr1_rl.algorithm.advantage",
    "ssr1_rl.store.checkpoints",
    "ssr1_rl.faults.guards",
    "ssr1_rl.store.folder",
    "ssr1_rl.store.keeper",
    "ssr1_rl.faults.stop",
    "ssr1_rl.files",
    "ssr1_rl.cli",
]
HELP = (
    "import sys; sys.argv = ['ssr1-rl', '--help']; from ssr1_rl.cli import main\ntry: main()\nexcept SystemExit: pass"
)
SUB_HELP = HELP.replace("'--help'", "'grpo', '--help'")
WRONG = HELP.replace("'--help'", "'grpo', 'no_such_file.yaml', '--dry-run'")


def test_the_learner_s_pass_needs_neither_engines_nor_ray():
    """So it can be measured on a GPU with only torch and transformers."""
    code = (
        "import sys; sys.path.append('benchmarks'); import gpu_learner; "
        "found = {'ray', 'vllm', 'omegaconf', 'deepspeed'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import " + ", ".join(LIGHT), id="modules"),
        pytest.param(HELP, id="help"),
        pytest.param(SUB_HELP, id="grpo help"),
        pytest.param(WRONG, id="wrong file"),
        pytest.param(WRONG.replace("'grpo'", "'eval'"), id="wrong file of eval"),
    ],
)
def test_nothing_heavy_is_imported(code):
    code += f"\nimport sys; heavy = {HEAVY} & set(sys.modules); sys.exit(f'imported {{heavy}}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
