"""Limits of nodes: each provoked with made-up facts."""

import socket

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.doctor import facts
from ssr1_rl.doctor.facts import DOCKER_S_DEFAULT, Gpu, NodeFacts, gather, parse_gpus
from ssr1_rl.doctor.machine import check_authentication, check_node, check_object_store, check_same_gpus

GPU = Gpu("H100", 80 * 2**30, "580.65.06")
TOPOLOGY = """\tGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV18\tSYS\t0-47\t0
GPU1\tNV18\t X \tSYS\t0-47\t0
GPU2\tSYS\tSYS\t X \t48-95\t1
NIC0\tPIX\tSYS\tSYS
"""


def node(**changes):
    given = {"shared_memory_bytes": 16 * 2**30, "open_files": 65536}
    return NodeFacts("n", "3.11.7", {}, **(given | changes))


def test_a_good_node_has_no_findings():
    assert check_node(node(gpus=(GPU, GPU), links=("NV18",))) == []
    assert check_node(node(open_files=-1)) == [], "-1 is no limit"


def test_docker_s_shared_memory_is_an_error_between_gpus_and_else_a_warning():
    [found] = check_node(node(shared_memory_bytes=DOCKER_S_DEFAULT, gpus=(GPU, GPU)))
    assert (found.level, "64 MiB (Docker's default)" in found.what, "--shm-size" in found.fix) == ("error", True, True)
    [found] = check_node(node(shared_memory_bytes=DOCKER_S_DEFAULT))
    assert found.level == "warning"


def test_few_open_files_a_missing_path_and_a_taken_port_are_named():
    found = check_node(node(open_files=1024, missing_paths=("/models/q",), taken_ports=(29500,)))
    assert [f.level for f in found] == ["warning", "error", "error"]
    assert "1024 files" in found[0].what
    assert "does not see /models/q" in found[1].what
    assert "port 29500 is taken" in found[2].what


def test_gpus_linked_through_the_cpus_are_a_warning():
    assert facts._links(TOPOLOGY) == ("NV18", "SYS", "SYS")
    [found] = check_node(node(links=facts._links(TOPOLOGY)))
    assert "2 of 3 pairs of GPUs are linked through the CPUs (SYS)" in found.what


def test_gpus_are_read_from_nvidia_smi():
    table = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06\nNVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06\n"
    assert parse_gpus(table) == (Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, "580.65.06"),) * 2
    assert parse_gpus("") == parse_gpus("NVIDIA-SMI has failed because it couldn't communicate\n") == ()


def test_gpus_of_several_kinds_are_a_warning():
    assert check_same_gpus([node()]) == []
    assert [f.level for f in check_same_gpus([node(gpus=(GPU,)), node(gpus=(GPU,))])] == ["ok"]
    [found] = check_same_gpus([node(gpus=(GPU,)), node(gpus=(Gpu("A100", 1, "580"),))])
    assert (found.level, "A100, H100" in found.what) == ("warning", True)


def test_clips_that_overflow_the_object_store_are_a_warning():
    config = Config()
    config.data.audio_cache_mib = 4096
    assert [f.level for f in check_object_store(16 * 2**30, config)] == ["ok"]
    [found] = check_object_store(4 * 2**30, config)
    assert (found.level, "lower data.audio_cache_mib to 2457" in found.fix) == ("warning", True)


@pytest.mark.parametrize(
    ("environment", "num_nodes", "levels"),
    [
        ({"RAY_AUTH_MODE": "token"}, 4, ["ok"]),
        ({}, 1, []),
        ({}, 2, ["warning"]),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, 1, ["warning"]),
    ],
)
def test_a_cluster_without_a_token_is_a_warning(environment, num_nodes, levels):
    assert [f.level for f in check_authentication(environment, num_nodes)] == levels


def test_facts_of_this_machine(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = gather([str(tmp_path), str(tmp_path / "none")], [port])
    assert found.packages["torch"].startswith("2.13")
    assert found.missing_paths == (str(tmp_path / "none"),)
    assert found.taken_ports == (port,)
    assert found.memory_bytes > 2**30


def test_a_compiled_package_is_tried_with_the_interpreter_that_runs(monkeypatch):
    monkeypatch.setattr(facts, "_versions", lambda names: {"no-such-package": "1"})
    monkeypatch.setenv("PATH", "")
    [(name, problem)] = facts._unusable(("no-such-package",)).items()
    assert (name, problem) == ("no-such-package", "ModuleNotFoundError: No module named 'no_such_package'")


def test_an_import_that_does_not_end_is_named(monkeypatch):
    monkeypatch.setattr(facts, "_versions", lambda names: {"this": "1"})
    monkeypatch.setattr(facts, "IMPORT_S", 0.001)
    assert facts._unusable(("this",)) == {"this": "no end within 0.001 s"}
