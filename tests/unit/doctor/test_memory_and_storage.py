"""What does not fit is an error with the settings to change."""

from dataclasses import fields
from pathlib import Path

import pytest

from ssr1_rl.checks.memory import MemoryEstimate
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.doctor.memory import check_gpu_memory, check_host_memory, checkpoint_bytes, learner_bytes
from ssr1_rl.doctor.storage import check_space, check_speed, existing_parent, measure

GIB = 2**30
KV = 512 * 1024


def estimate(**parts):
    empty = {spec.name: 0 for spec in fields(MemoryEstimate)}
    return MemoryEstimate(**(empty | parts))


def levels(config, found, gpu_gib=80):
    return [finding.level for finding in check_gpu_memory(config, found, KV, gpu_gib * GIB)]


def test_a_rank_is_the_sum_of_its_parts_without_what_is_offloaded():
    parts = estimate(
        learner_weights=1, learner_gradients=2, learner_optimizer=4, learner_reference=8, engine_weights=99
    )
    assert learner_bytes(parts, LearnerConfig()) == 15
    assert learner_bytes(parts, LearnerConfig(offload_optimizer="cpu")) == 11
    assert learner_bytes(parts, LearnerConfig(offload_optimizer="cpu", offload_parameters="cpu")) == 2


@pytest.mark.parametrize(("gib", "level"), [(50, "ok"), (75, "warning"), (83, "error")])
def test_a_learner_that_does_not_fit_is_an_error(gib, level):
    assert levels(Config(), estimate(learner_weights=gib * GIB, engine_weights=15 * GIB))[0] == level


@pytest.mark.parametrize(("gib", "level"), [(15, "ok"), (60, "warning"), (68, "error"), (90, "error")])
def test_an_engine_without_room_for_a_sequence_or_a_group(gib, level):
    assert levels(Config(), estimate(engine_weights=gib * GIB))[1] == level


def test_on_cpus_all_roles_share_the_memory():
    config = Config()
    config.rollout.num_workers, config.rollout.kv_cache_gib = 2, 4
    assert check_host_memory(config, estimate(learner_weights=GIB), 10 * GIB).level == "ok"
    assert check_host_memory(config, estimate(learner_weights=GIB), 8 * GIB).level == "error"


def test_a_checkpoint_holds_masters_moments_and_frozen_weights():
    config = Config()
    assert checkpoint_bytes(config, estimate(num_parameters=100, num_trained=60)) == 12 * 60 + 2 * 40
    config.model.lora.rank = 8
    assert checkpoint_bytes(config, estimate(num_parameters=100, num_trained=6)) == 12 * 6


def test_checkpoints_that_do_not_fit_are_an_error():
    assert check_space(Path("/runs"), 400 * 10**9, 94 * 10**9, 4).level == "ok"
    found = check_space(Path("/runs"), 300 * 10**9, 94 * 10**9, 4)
    assert (found.level, found.what) == ("error", "no space for 4 checkpoints of 94 GB; /runs has 300 GB free")


def test_a_slow_disk_is_a_warning():
    assert check_speed(Path("/runs"), 1e9, 94 * 10**9).level == "ok"
    found = check_speed(Path("/runs"), 1e8, 94 * 10**9)
    assert (found.level, "takes 100 MB/s; a checkpoint of 94 GB takes 940 s" in found.what) == ("warning", True)


def test_measuring_leaves_nothing_behind(tmp_path):
    speed, free = measure(tmp_path, 2**20)
    assert speed > 0 and free > 0
    assert list(tmp_path.iterdir()) == []
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
