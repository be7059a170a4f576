"""What a run needs of the cluster, and the error if the cluster has less. No Ray runs here."""

import pytest

from ssr1_rl.cluster import ClusterTooSmall, check_fits, make_plan
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.rewards import RewardConfig


def config(device, **sections):
    config = Config(rewards=[RewardConfig(name="accuracy", num_actors=4, num_cpus=0.5), RewardConfig(name="format")])
    config.run.device = device
    for section, values in sections.items():
        for name, value in values.items():
            setattr(getattr(config, section), name, value)
    return config


GPUS = {
    "rollout": {"num_workers": 2, "tensor_parallel_size": 2, "num_cpus": 4.0},
    "learner": {"num_workers": 3, "num_cpus": 2.0},
}


def test_a_gpu_run_asks_for_every_device():
    plan = make_plan(config("cuda", **GPUS))
    assert (plan.rollout_bundle, plan.num_rollout_workers) == ({"CPU": 4.0, "GPU": 2.0}, 2)
    assert (plan.learner_bundle, plan.num_learners) == ({"CPU": 2.0, "GPU": 1.0}, 3)
    assert plan.total == {"CPU": pytest.approx(4 * 0.5 + 0.1 + 2 * 4 + 3 * 2), "GPU": 7.0}
    assert plan.rows() == [
        ("rollout worker", 2, "2 GPUs and 4 CPUs"),
        ("learner rank", 3, "1 GPU and 2 CPUs"),
        ("reward actors", 1, "2.1 CPUs together"),
    ]


def test_a_cpu_run_asks_for_no_gpu():
    plan = make_plan(config("cpu", rollout={"tensor_parallel_size": 2}))
    assert "GPU" not in plan.total
    assert plan.total["CPU"] == pytest.approx(4.1)


@pytest.mark.parametrize(
    ("rewards", "num_gpus"),
    [
        ([(1, 0.5)], 1),
        ([(4, 0.25)], 1),
        ([(3, 0.6)], 3),
        ([(10, 0.1)], 1),
        ([(3, 1 / 3)], 1),
        ([(2, 0.6), (2, 0.4)], 2),
        ([(1, 2.0), (1, 0.5)], 3),
        ([(2, 1.0)], 2),
    ],
)
def test_reward_actors_with_parts_of_gpus_need_whole_ones_that_nothing_else_uses(rewards, num_gpus):
    with_gpus = config("cuda", **GPUS)
    with_gpus.rewards = [RewardConfig(name="accuracy", num_actors=n, num_cpus=0.5, num_gpus=g) for n, g in rewards]
    plan = make_plan(with_gpus)
    assert plan.reward_bundle["GPU"] == num_gpus
    assert plan.total["GPU"] == 7 + num_gpus
    gpus = "1 GPU" if num_gpus == 1 else f"{num_gpus} GPUs"
    assert plan.rows()[-1][2].startswith(f"{gpus} and ")
    check_fits(plan, {"CPU": 64.0, "GPU": 7.0 + num_gpus})
    with pytest.raises(ClusterTooSmall, match=r"learner\.num_workers or rewards\[\*\]\.num_gpus$"):
        check_fits(plan, {"CPU": 64.0, "GPU": 6.0 + num_gpus})


def test_a_cpu_run_may_have_a_reward_model_on_a_gpu():
    on_cpus = config("cpu")
    on_cpus.rewards[0].num_gpus = 0.25
    assert make_plan(on_cpus).total["GPU"] == 1
    with pytest.raises(ClusterTooSmall, match="no GPU at all"):
        check_fits(make_plan(on_cpus), {"CPU": 64.0})


def test_a_cluster_that_is_just_large_enough_will_do():
    plan = make_plan(config("cuda", **GPUS))
    check_fits(plan, {"CPU": 16.1, "GPU": 7.0, "memory": 1e9})
    check_fits(make_plan(config("cpu")), {"CPU": 4.1})


@pytest.mark.parametrize("there", [{"CPU": 64.0}, {"CPU": 64.0, "GPU": 0.0}])
def test_without_any_gpu_the_cpu_recipe_is_named(there):
    with pytest.raises(ClusterTooSmall, match=r"needs 7 GPUs and 16\.1 CPUs .*no GPU at all.*launch/local\.yaml"):
        check_fits(make_plan(config("cuda", **GPUS)), there)


@pytest.mark.parametrize(
    ("device", "there", "message"),
    [
        (
            "cuda",
            {"CPU": 64.0, "GPU": 4.0},
            r"has 4 GPUs and 64 CPUs: lower rollout\.num_workers, .*learner\.num_workers$",
        ),
        (
            "cuda",
            {"CPU": 8.0, "GPU": 8.0},
            r"has 8 GPUs and 8 CPUs: lower rollout\.num_cpus, .*reservations, not threads",
        ),
        ("cuda", {"CPU": 8.0, "GPU": 1.0}, r"lower rollout\.num_cpus.* and lower rollout\.num_workers"),
        (
            "cpu",
            {"CPU": 2.0},
            r"needs 16\.1 CPUs \(2 x rollout worker: 4 CPUs; 3 x learner rank: 2 CPUs; .*the cluster has 2 CPUs",
        ),
        ("cpu", {}, r"the cluster has nothing"),
    ],
)
def test_what_is_lacking_is_named_with_the_settings_to_lower(device, there, message):
    with pytest.raises(ClusterTooSmall, match=message):
        check_fits(make_plan(config(device, **GPUS)), there)
