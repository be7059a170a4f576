"""What a pass costs, against counts by hand and against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssr1_rl.trainer.balance import share_groups
from ssr1_rl.trainer.batching import Row, collate
from ssr1_rl.trainer.pass_cost import PassCost
from ssr1_rl.trainer.policy import Policy
from ssr1_rl.trainer.prefix_packing import PackedGroup
from ssr1_rl.types import GroupId, TrainGroup

COST = PassCost(per_token=1000, per_pair=1, per_response_token=100, per_audio_token=5000)


def group(name, num_audio_tokens, lengths, advantages_G):
    prompt = (1,) * 9 + (2,)
    logprobs = tuple((0.0,) * n for n in lengths)
    responses = tuple((3,) * n for n in lengths)
    return TrainGroup(
        GroupId(0, name), prompt, ("clip",), responses, logprobs, advantages_G, (), 0, (), (), (num_audio_tokens,)
    )


def test_pairs_by_hand():
    # A prompt of 3: 1 + 2 + 3. Each response token sees it, and its response so far.
    assert PackedGroup(3, (2, 1)).num_attended_pairs == 6 + (3 + 1) + (3 + 2) + (3 + 1)
    assert PackedGroup(1, ()).num_attended_pairs == 1


def test_of_a_group_by_hand():
    some = group("a", 250, (4, 6), (1.0, 0.0))
    prompt = 9 + 250
    pairs = prompt * (prompt + 1) // 2 + 4 * prompt + 10
    assert COST.of_group(some, trains_all=False) == 1000 * (prompt + 4) + pairs + 100 * 4 + 5000 * 250
    assert COST.of_group(some, trains_all=True) > COST.of_group(some, trains_all=False)
    assert COST.of_group(group("a", 250, (4, 6), (0.0, 0.0)), trains_all=False) == 0


def test_clips_and_untrained_groups_are_weighed():
    """Equal texts: by their tokens alone the long clips could fall to one rank."""
    long, short, dropped = (
        [group(f"{kind}{i}", n, (5, 5), a) for i in range(2)]
        for kind, n, a in (("long", 750, (1.0, -1.0)), ("short", 25, (1.0, -1.0)), ("dropped", 750, (0.0, 0.0)))
    )
    shares = share_groups([*long, *dropped, *short], 2, lambda g: COST.of_group(g, trains_all=False))
    for share in shares:
        assert sum(g.id.question_id.startswith("long") for g in share) == 1
        assert sum(g.id.question_id.startswith("short") for g in share) == 1


@pytest.fixture
def policy(random_text_model):
    from ssr1_rl.trainer.families import load_model

    return Policy(load_model(str(random_text_model), torch.float32, "sdpa"), 1.0, False)


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
    from ssr1_rl.trainer.families import load_model

    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    frozen, trained = (PassCost.of_policy(Policy(model, 1.0, trains), trains) for trains in (False, True))
    assert frozen.per_audio_token == 0
    tower = model.model.audio_tower
    linear = sum(m.weight.numel() for m in tower.modules() if isinstance(m, torch.nn.Linear))
    assert trained.per_audio_token == 2 * linear > 0
