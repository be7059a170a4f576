"""What a run needs of the cluster, and what happens if the cluster has less. No Ray runs here."""

import asyncio

import pytest

from ssr1_rl import cluster
from ssr1_rl.cluster import ClusterTooSmall, check_fits, make_plan, reserve
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


@pytest.mark.parametrize(("address", "hint"), [("", False), ("10.0.0.1:6379", True)])
def test_a_cluster_that_may_grow_is_given_the_setting_that_waits_for_it(monkeypatch, address, hint):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterTooSmall) as caught:
        check_fits(make_plan(config("cuda", **GPUS)), {"CPU": 64.0, "GPU": 4.0})
    assert str(caught.value).endswith("if nodes join later, set run.wait_for_resources_s") == hint


class Growing:
    """A cluster whose resources are the next of `there` at each look, and which reserves what fits."""

    def __init__(self, monkeypatch, *there):
        self._there, self.now, self.released, self.asked = list(there), 0.0, [], []
        self.holds = False  # whether other jobs hold everything
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(cluster.ray, "cluster_resources", self.look)
        monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"CPU": 0.0})
        monkeypatch.setattr(cluster.ray.util, "remove_placement_group", self.released.append)
        monkeypatch.setattr(cluster, "placement_group", self.group)
        monkeypatch.setattr(cluster.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(cluster.asyncio, "sleep", self.sleep)

    def look(self):
        return self._there.pop(0) if len(self._there) > 1 else self._there[0]

    def group(self, bundles, strategy):
        self.asked.append(bundles)
        found = self

        class Group:
            bundle_specs = bundles

            def wait(self, timeout_s):
                assert timeout_s == 0, "it would block the event loop"
                return not found.holds

        return Group()

    async def sleep(self, seconds):
        self.now += seconds


PLAN = {"rollout": {"num_workers": 2, "num_cpus": 4.0}, "learner": {"num_workers": 1, "num_cpus": 2.0}}
SMALL, LARGE = {"CPU": 2.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}


def phases():
    said = []
    return said, said.append


async def test_a_small_cluster_is_refused_at_once_by_default(monkeypatch):
    growing = Growing(monkeypatch, SMALL, LARGE)

    with pytest.raises(ClusterTooSmall, match="the cluster has 1 GPU and 2 CPUs"):
        await reserve(make_plan(config("cuda", **PLAN)), 0.0, phases()[1])
    assert (growing.now, growing.asked) == (0.0, []), "no demand is left in the cluster"


async def test_nodes_that_join_late_are_waited_for_and_what_is_missing_is_said(monkeypatch):
    growing = Growing(monkeypatch, *[SMALL] * 30, {"CPU": 64.0, "GPU": 2.0}, LARGE)
    said, on_phase = phases()
    await reserve(make_plan(config("cuda", **PLAN)), 300.0, on_phase)
    assert growing.now > 5
    of_rewards = [{"CPU": 0.5}] * 4 + [{"CPU": 0.1}]
    assert growing.asked == [[{"CPU": 4.0, "GPU": 1.0}] * 2, [{"CPU": 2.0, "GPU": 1.0}], of_rewards], (
        "an autoscaler sees them"
    )
    assert "the cluster has 1 GPU and 2 CPUs" in said[1]
    assert "of at most 300 s" in said[1]
    assert [group.bundle_specs for group in growing.released] == [of_rewards], "the reward actors start outside of it"


async def test_reward_actors_that_need_nothing_ask_for_nothing(monkeypatch):
    growing = Growing(monkeypatch, LARGE)
    plan = config("cuda", **PLAN)
    for reward in plan.rewards:
        reward.num_cpus = 0.0
    await reserve(make_plan(plan), 300.0, phases()[1])
    assert (len(growing.asked), growing.released) == (2, [])


async def test_a_wait_for_nodes_in_vain_ends_with_what_is_missing_and_takes_its_demand_back(monkeypatch):
    growing = Growing(monkeypatch, SMALL)
    with pytest.raises(ClusterTooSmall, match="the cluster has 1 GPU and 2 CPUs: lower"):
        await reserve(make_plan(config("cuda", **PLAN)), 90.0, phases()[1])
    assert 90 <= growing.now < 92
    assert len(growing.released) == 3


async def test_resources_that_other_jobs_hold_are_waited_for_a_minute(monkeypatch):
    growing = Growing(monkeypatch, LARGE)
    growing.holds = True
    with pytest.raises(
        ClusterTooSmall, match=r"2 x 1 GPU and 4 CPUs for the rollout workers .* within 60 s.*ray status"
    ):
        await reserve(make_plan(config("cuda", **PLAN)), 0.0, phases()[1])
    assert 60 <= growing.now < 62


async def test_the_wait_for_resources_can_be_stopped(monkeypatch):
    growing = Growing(monkeypatch, SMALL)

    async def sleep(seconds):
        await asyncio.Event().wait()

    monkeypatch.setattr(cluster.asyncio, "sleep", sleep)
    waiting = asyncio.create_task(reserve(make_plan(config("cuda", **PLAN)), 900.0, phases()[1]))
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(growing.released) == 3
