"""An inner limit is shorter than the one around it, so that the error that knows more comes first."""

import os
from datetime import timedelta

import deepspeed
import pytest

from ssr1_rl.actors.limits import inner_limit_s
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.rewards.actor_group import START_TIMEOUT_S
from ssr1_rl.trainer.deepspeed_setup import RankSpec, join_peers


@pytest.mark.parametrize("outer_s", [0.01, 1.0, 300.0, 1e6])
def test_an_inner_limit_is_shorter(outer_s):
    assert 0 < inner_limit_s(outer_s) < outer_s


def test_a_collective_of_the_learners_ends_before_the_update_around_it(monkeypatch):
    given = {}
    monkeypatch.setattr(deepspeed, "init_distributed", lambda backend, **options: given.update(options))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    config = LearnerConfig(update_timeout_s=600.0)
    join_peers(RankSpec(0, 1, "127.0.0.1", 5, "cpu"), config)
    assert given["timeout"] == timedelta(seconds=inner_limit_s(600.0)) < timedelta(seconds=config.update_timeout_s)


def test_the_defaults_nest():
    rollout = RolloutConfig()
    assert inner_limit_s(rollout.sync_timeout_s) < rollout.sync_timeout_s < rollout.generate_timeout_s
    assert RewardConfig(name="accuracy").timeout_s < START_TIMEOUT_S
