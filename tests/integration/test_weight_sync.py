"""Engines and learners of one system: log-probs agree before and after a sync, and requests in flight are kept."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssr1_rl.algorithm.step_batch import train_group
from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.faults.guards import GuardTripped, check_weights
from ssr1_rl.probe import SyncProbe
from ssr1_rl.rollout.engine import Sampling, distribution_of
from ssr1_rl.rollout.worker import RolloutWorker
from ssr1_rl.system import System
from ssr1_rl.types import Distribution, GroupId, PreparedQuestion, RolloutGroup, ScoredGroup

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def sample(system: System, prepared: list[PreparedQuestion], **changes: Any) -> list[RolloutGroup]:
    defaults = {"num_completions": 4, "max_response_tokens": 24, "distribution": distribution_of(system.config)}
    sampling = Sampling(**(defaults | changes))
    calls = [
        system.pool.generate(GroupId(0, str(index)), question, sampling) for index, question in enumerate(prepared)
    ]
    return await asyncio.gather(*calls)


async def train(system: System, prepared: list[PreparedQuestion], groups: list[RolloutGroup]) -> dict[str, float]:
    """One update on made-up advantages; its metrics compare engine and learner before the update."""
    batch = [
        replace(
            train_group(ScoredGroup(group, (0.0,) * 4, {}), question, GrpoConfig()),
            advantages_G=(1.5, -0.5, -0.5, -0.5),
        )
        for group, question in zip(groups[:4], prepared[:4], strict=True)
    ]
    return await system.learners.update(batch, kl_coefficient=0.0)


async def test_logprobs_agree_before_and_after_a_sync(system: System, prepared: list[PreparedQuestion]) -> None:
    metrics = await train(system, prepared, await sample(system, prepared))
    assert metrics["comparable_tokens"] > 50
    assert metrics["logprob_abs_diff_max"] < 1e-4

    # The policy has moved far (learning rate 0.01) and the engines have not: without a sync they disagree.
    stale = [RolloutGroup(g.id, g.question, g.completions, submitted_version=1) for g in await sample(system, prepared)]
    metrics = await train(system, prepared, stale)
    assert metrics["logprob_abs_diff_max"] > 1e-2

    await system.sync_weights(2, audit=True)
    groups = await sample(system, prepared)
    assert {span.policy_version for g in groups for c in g.completions for span in c.versions} == {2}
    metrics = await train(system, prepared, groups)
    assert metrics["comparable_tokens"] > 50
    assert metrics["logprob_abs_diff_max"] < 1e-4


async def test_requests_in_flight_are_kept(system: System, prepared: list[PreparedQuestion]) -> None:
    # 8 groups of 32 long responses: the syncs happen during their generation.
    flying = asyncio.create_task(sample(system, prepared, num_completions=32, max_response_tokens=150))
    while not system.waits.describe():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    await system.sync_weights(3)
    groups = await flying
    completions = [completion for group in groups for completion in group.completions]
    assert len(completions) == 8 * 32
    for completion in completions:
        assert completion.finish_reason in ("stop", "length")
        assert completion.versions[0].start == 0
        assert completion.versions[-1].end == len(completion.token_ids) == len(completion.logprobs)
    versions = {span.policy_version for completion in completions for span in completion.versions}
    assert 3 in versions, "the sync came before the responses were done"
    assert 2 in versions, "the responses had begun before the sync"


async def test_the_audit_finds_a_tensor_that_differs(system: System) -> None:
    for worker in system.workers:
        await worker.call(RolloutWorker.start_weight_audit)
    await system.sync_weights(4)
    reports = [await worker.call(RolloutWorker.finish_weight_audit) for worker in system.workers]
    held = await system.learners.weight_digests()
    check_weights(held, reports)
    name = sorted(held)[3]
    with pytest.raises(GuardTripped, match=f"differ on arrival, for example {name}"):
        check_weights(held | {name: "0" * 16}, reports)


async def test_what_is_sampled_depends_on_the_question_and_not_on_the_engine(
    system: System, prepared: list[PreparedQuestion]
) -> None:
    sampling = Sampling(4, 24, Distribution(1.0))

    async def tokens(question_id: str, worker: int) -> list[tuple[int, ...]]:
        group = await system.pool.generate(GroupId(0, question_id), prepared[0], sampling, worker)
        return [completion.token_ids for completion in group.completions]

    first, again, other = await asyncio.gather(tokens("a", 0), tokens("a", 1), tokens("b", 1))
    assert first == again, "a group issued again to another engine is the same group"
    assert first != other, "two questions with the same prompt do not share their noise"
    assert len(set(first)) > 1, "nor do two responses of a group"


async def test_a_response_ends_after_a_stop_text(system: System, prepared: list[PreparedQuestion]) -> None:
    unstopped = await sample(system, prepared)
    words = [c.text.split()[1] for g in unstopped for c in g.completions if len(c.text.split()) > 2]
    stop = max(words, key=words.count)
    groups = await sample(system, prepared, stop=(stop,), max_response_tokens=60)
    ended = [c for g in groups for c in g.completions if stop in c.text]
    assert ended, "the most frequent word is sampled again"
    for completion in ended:
        assert completion.text.index(stop) + len(stop) >= len(completion.text.rstrip()), "nothing follows the stop text"
        assert completion.finish_reason == "stop"
        assert len(completion.token_ids) == len(completion.logprobs)


async def test_the_probe_compares_both_sides_at_one_version(system: System, prepared: list[PreparedQuestion]) -> None:
    probe = SyncProbe(system.pool, system.learners, Sampling(4, 24, distribution_of(system.config)))
    assert await probe.finish() == {}, "no sync, nothing to compare"
    await train(system, prepared, await sample(system, prepared))
    await system.sync_weights(5)
    probe.start(prepared[0], 5)
    figures = await probe.finish()
    assert figures["comparable_tokens"] >= 2
    assert figures["logprob_abs_diff_max"] < 1e-4
    # The learners train on, and the engines are not told.
    await train(system, prepared, await sample(system, prepared))
    probe.start(prepared[0], 5)
    assert (await probe.finish())["logprob_abs_diff_max"] > 1e-2


async def test_work_goes_to_both_engines(system: System, prepared: list[PreparedQuestion]) -> None:
    before = system.pool.busy_s()
    await sample(system, prepared)
    assert all(after > was for after, was in zip(system.pool.busy_s(), before, strict=True))


async def test_settings_load_again(system_config: Config, tmp_path: Path) -> None:
    from ssr1_rl.config.written import config_to_yaml

    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(system_config))
    assert load_config(path) == system_config
