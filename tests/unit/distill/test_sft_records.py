"""What rank 0 keeps: a checkpoint of another stage or another plan is refused, and one process writes at a time."""

import json

import pytest

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.distill.finetuning import records
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.distill.finetuning.plan import Plan
from ssr1_rl.distill.finetuning.records import read_state, sole_writer
from ssr1_rl.errors import RunError, UserError
from ssr1_rl.store.checkpoints import Checkpoint
from ssr1_rl.store.manifest import DamagedCheckpoint
from ssr1_rl.types import Question


def plan(seed=0):
    return Plan([Example(Question("1", "?", "yes"), ("yes",))], SftConfig(), seed)


def checkpoint(folder, content):
    (folder / "controller.json").write_text(content)
    return Checkpoint(folder, 3, None)


def test_the_state_of_the_same_plan_is_read(tmp_path):
    state = {"step": 3, "sft": plan().state_dict(), "skips": {"tried": ["a"], "reasons": {}}}
    assert read_state(checkpoint(tmp_path, json.dumps(state)), plan()) == state
    with pytest.raises(UserError, match=r"run\.seed was 0 when it was written and is 5 now"):
        read_state(checkpoint(tmp_path, json.dumps(state)), plan(seed=5))


def test_a_checkpoint_of_grpo_is_refused_with_what_to_do(tmp_path):
    grpo = json.dumps({"step": 3, "feed": {}, "skips": {}, "kl_coefficient": 0.0})
    with pytest.raises(UserError, match=r"is one of GRPO, which SFT does not resume; set model\.path to the folder"):
        read_state(checkpoint(tmp_path, grpo), plan())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sft": 3}'])
def test_a_damaged_state_is_named(tmp_path, content):
    with pytest.raises(DamagedCheckpoint, match=r"controller\.json"):
        read_state(checkpoint(tmp_path, content), plan())


def test_a_second_writer_waits_for_the_first_and_says_so_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "WAIT_FOR_WRITER_S", 0.3)
    with sole_writer(tmp_path), pytest.raises(RunError, match="ranks of an earlier start still write"):
        sole_writer(tmp_path).__enter__()
    with sole_writer(tmp_path):
        pass
