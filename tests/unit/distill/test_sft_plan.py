"""The steps of SFT: every epoch has every question once, ranks share a step, and a checkpoint's plan is recognised."""

from collections import Counter

import pytest

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.distill.finetuning.plan import Plan
from ssr1_rl.errors import UserError
from ssr1_rl.types import Question


def example(number, responses=("yes",)):
    return Example(Question(str(number), "Is it?", "yes"), responses)


EXAMPLES = [example(number) for number in range(10)]


def plan(examples=EXAMPLES, seed=0, **sft):
    return Plan(examples, SftConfig(**{"questions_per_step": 4} | sft), seed)


def ids(planned):
    return [(one.epoch, one.example.question.id) for one in planned]


def test_an_epoch_has_every_question_once_and_steps_run_over_its_end():
    two = plan(num_epochs=2)
    assert two.num_steps == 5
    steps = [ids(two.step(step)) for step in range(1, 6)]
    assert [len(step) for step in steps] == [4, 4, 4, 4, 4]
    asked = [one for step in steps for one in step]
    assert Counter(epoch for epoch, _ in asked) == {0: 10, 1: 10}
    assert len(set(asked)) == 20
    assert [epoch for epoch, _ in steps[2]] == [0, 0, 1, 1]
    assert [id for epoch, id in asked if epoch == 0] != [id for epoch, id in asked if epoch == 1], "reshuffled"


def test_the_last_step_may_be_smaller_and_steps_may_be_limited():
    assert [len(plan().step(step)) for step in (1, 2, 3)] == [4, 4, 2]
    assert plan().num_steps == 3
    assert plan(max_steps=2).num_steps == 2
    assert plan(max_steps=7).num_steps == 3


def test_a_step_does_not_depend_on_what_was_asked_before_or_on_the_order_of_rows():
    whole, late = plan(num_epochs=3), plan(EXAMPLES[::-1], num_epochs=3)
    assert ids(late.step(7)) == ids(whole.step(7))
    assert ids(whole.step(2)) == ids(late.step(2))
    assert ids(plan(seed=1).step(1)) != ids(plan().step(1))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
def test_ranks_share_a_step_and_some_may_have_none(num_ranks):
    shares = [plan().share(1, rank, num_ranks) for rank in range(num_ranks)]
    assert sorted(one for share in shares for one in ids(share)) == sorted(ids(plan().step(1)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_are_even_by_the_length_of_responses():
    long, *short = example(0, ("x" * 9000,)), *(example(number) for number in range(1, 6))
    shares = [plan([long, *short], questions_per_step=6).share(1, rank, 2) for rank in (0, 1)]
    assert sorted(map(len, shares)) == [1, 5]


def test_a_checkpoint_of_the_same_plan_passes_also_with_more_epochs_or_ranks():
    plan(num_epochs=5, max_steps=3).check(plan().state_dict(), "c")
    plan(EXAMPLES[::-1]).check(plan().state_dict(), "c")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 3}, r"checkpoint c cannot be resumed: run\.seed was 0 when it was written and is 3 now"),
        ({"questions_per_step": 5}, r"sft\.questions_per_step was 4 when it was written and is 5 now"),
        ({"examples": EXAMPLES[:9]}, r"what is learned changed since\. It was 10 questions .*, it is 9 with"),
        ({"examples": [*EXAMPLES[:9], example(9, ("no",))]}, r"what is learned changed since"),
    ],
)
def test_a_checkpoint_of_another_plan_is_refused(other, message):
    with pytest.raises(UserError, match=message):
        plan(**other).check(plan().state_dict(), "c")


def test_text_that_is_no_unicode_has_a_fingerprint():
    assert plan([example(0, ("\ud800",))]).state_dict()["fingerprint"]
