"""The cost of a pass, against counts by hand and by torch."""

import asyncio
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.trainer.batches.layout import PackedGroup
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.learner_group import LearnerGroup
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, GroupId, TrainGroup

COST = PassCost(per_token=1000, per_pair=1, per_response_token=100, per_audio_token=5000)


def group(name, num_audio_tokens, lengths, advantages_G):
    prompt = (1,) * 9 + (2,)
    logprobs = tuple((0.0,) * n for n in lengths)
    responses = tuple((3,) * n for n in lengths)
    return TrainGroup(
        GroupId(0, name), prompt, ("clip",), responses, logprobs, advantages_G, 0, (), (), (num_audio_tokens,)
    )


def test_pairs_by_hand():
    # A prompt of 3: 1 + 2 + 3. Each response token sees it, and its response so far.
    assert PackedGroup(3, (2, 1)).num_attended_pairs == 6 + (3 + 1) + (3 + 2) + (3 + 1)
    assert PackedGroup(1, ()).num_attended_pairs == 1


def test_of_a_group_by_hand():
    some = group("a", 250, (4, 6), (1.0, 0.0))
    prompt = 9 + 250
    pairs = prompt * (prompt + 1) // 2 + 4 * prompt + 10
    assert COST.of_group(some, (4,)) == 1000 * (prompt + 4) + pairs + 100 * 4 + 5000 * 250
    assert COST.of_group(some, ()) == 0


class Rank:
    """A double of a learner rank's actor: records its share."""

    def __init__(self):
        self.shares = []
        self.update = self.reference_kl = self

    def remote(self, share, *_):
        self.shares.append(share)
        groups = share[0] if share and isinstance(share[0], list) else share
        return asyncio.sleep(0, [((0.0,),)] * len(groups))


def learners(**settings):
    ranks = [Rank(), Rank()]
    actors = [Actor(rank) for rank in ranks]
    found = LearnerGroup(actors, LearnerConfig(num_workers=2), GrpoConfig(**settings), Waits())
    found._pass_cost = COST
    return found, ranks


def kinds(share):
    return sorted(g.id.question_id for g in share)


async def test_ranks_get_equal_costs_of_what_an_update_trains():
    """The groups have equal text; only clips and advantages differ."""
    trained = [group(f"{name}", n, (5, 5), (1.0, -1.0)) for name, n in (("long", 750), ("mid", 500), ("short", 250))]
    dropped = group("dropped", 750, (5, 5), (0.0, 0.0))
    groups = [trained[2], dropped, trained[0], trained[1]]
    found, ranks = learners()
    await found.update(groups, 0.0)
    # By tokens with the dropped one: long and short, dropped and mid. Without clips: as they come.
    assert [kinds(rank.shares[0][0]) for rank in ranks] == [["dropped", "long"], ["mid", "short"]]
    with_entropy_bonus, others = learners(entropy_bonus=0.1)
    await with_entropy_bonus.update(groups, 0.0)
    shares = [kinds(rank.shares[0][0]) for rank in others]
    assert sorted(shares) == [["dropped", "mid"], ["long", "short"]] or sorted(shares) == [
        ["dropped", "short"],
        ["long", "mid"],
    ], "nothing is dropped"


async def test_the_reference_runs_masked_responses_too_and_ranks_share_them_so():
    masked = [
        replace(group(f"{name}{i}", n, (5, 5), (0.0, 0.0)), loss_mask_G=(False, False))
        for i in range(2)
        for name, n in (("long", 750), ("short", 25))
    ]
    found, ranks = learners(overlong="mask", kl_coefficient=0.1, kl_placement="reward")
    await found.reference_kl(masked)
    # With a cost of 0 they would be assigned in turn: both long ones to the first rank.
    assert [kinds(rank.shares[0]) for rank in ranks] == [["long0", "short0"], ["long1", "short1"]]


@pytest.fixture
def policy(random_text_model):
    from ssr1_rl.trainer.model.families import load_model

    return Policy(load_model(str(random_text_model), torch.float32, "sdpa"), SOFTMAX, False)


def test_of_a_policy_against_what_torch_counts(policy):
    lengths = (11, 3)
    prompt = tuple(range(10, 31))
    rows = [Row(prompt, (), (12,) * n, (0.0,) * n, 1.0, True) for n in lengths]
    batch = collate(rows, -1, lambda clip: pytest.fail("no clips here"), 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy(batch)
    by_operator = {str(operator): n for operator, n in counter.get_flop_counts()["Global"].items()}
    matrices = sum(n for operator, n in by_operator.items() if "mm" in operator)
    cost = PassCost.of_policy(policy, trains_audio_tower=False)
    packed = PackedGroup(len(prompt), lengths)
    assert 2 * (cost.per_token * packed.num_tokens + cost.per_response_token * sum(lengths)) == matrices
    config = policy.model.config
    head_size = config.hidden_size // config.num_attention_heads
    assert cost.per_pair == 2 * config.num_hidden_layers * config.num_attention_heads * head_size


def test_a_frozen_tower_costs_nothing_per_pass(random_audio_model):
    from ssr1_rl.trainer.model.families import load_model

    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    frozen, trained = (PassCost.of_policy(Policy(model, SOFTMAX, trains), trains) for trains in (False, True))
    assert frozen.per_audio_token == 0
    tower = model.model.audio_tower
    linear = sum(m.weight.numel() for m in tower.modules() if isinstance(m, torch.nn.Linear))
    assert trained.per_audio_token == 2 * linear > 0
