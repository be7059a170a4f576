"""What SFT learns from: which chains, which labels, which questions are held out; bad files are refused."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.distill.chains import Chain, write_chains
from ssr1_rl.distill.finetuning.examples import choose_examples
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.types import Question

QUESTIONS = [Question(str(number), f"What is {number}?", f"answer {number}") for number in range(10)]


def chain(question, number, kept=True, text=""):
    return Chain(question, number, text or f"chain {number} of {question}", kept=kept)


def choose(sft, share=0.0, seed=0, questions=QUESTIONS):
    return choose_examples(questions, sft, share, seed)


def learned(examples):
    return {example.question.id: example.responses for example in examples.train}


@pytest.fixture
def kept(tmp_path):
    """Settings that learn kept chains, all of which are trained on; the caller writes the file."""
    return SftConfig(responses="kept", chains=str(tmp_path / "chains.parquet"), validation_share=0.0)


def write(config, *chains):
    from pathlib import Path

    write_chains(Path(config.chains), chains)


def test_labels_are_put_into_their_template():
    template = "<think> none </think> <answer> {answer} </answer> {x}"
    found = choose(SftConfig(responses="labels", label_template=template, validation_share=0.0))
    assert learned(found)["3"] == ("<think> none </think> <answer> answer 3 </answer> {x}",)
    assert (len(found.train), found.held_out, found.notes) == (10, [], [])


def test_kept_chains_are_learned_behind_their_questions_in_the_order_of_the_data(kept):
    write(kept, chain("7", 1), chain("7", 0), chain("2", 0), chain("2", 1, kept=False), chain("4", 0, kept=False))
    found = choose(kept)
    assert list(learned(found).items()) == [("2", ("chain 0 of 2",)), ("7", ("chain 0 of 7", "chain 1 of 7"))]
    assert found.num_responses == 3
    assert found.notes == ["3 of 5 chains are kept, of 2 of 10 questions; questions without one are not learned"]


def test_no_more_chains_of_a_question_than_allowed(kept):
    write(kept, *(chain("7", number) for number in range(5)), chain("2", 0))
    kept.max_chains_per_question = 2
    assert learned(choose(kept)) == {"2": ("chain 0 of 2",), "7": ("chain 0 of 7", "chain 1 of 7")}


def test_validated_chains_need_the_verifier_s_column(kept):
    write(kept, chain("7", 0), chain("2", 0))
    kept.responses = "validated"
    with pytest.raises(UserError, match=r"has no column validated .*run `ssr1-rl distill verify`.*sft\.responses=kept"):
        choose(kept)
    rows = [dataclasses.asdict(chain("7", 0)) | {"validated": False, "score": 0.1}]
    rows += [dataclasses.asdict(chain("2", 0, kept=False)) | {"validated": True, "score": 0.9}]
    pq.write_table(pa.Table.from_pylist(rows), kept.chains)
    assert learned(choose(kept)) == {"2": ("chain 0 of 2",)}


def test_a_chain_without_text_is_not_learned(kept):
    write(kept, chain("7", 0, text=" "), chain("2", 0))
    assert learned(choose(kept)) == {"2": ("chain 0 of 2",)}


def test_nothing_to_learn_says_why(kept):
    write(kept, chain("7", 0, kept=False), chain("2", 0, kept=False))
    with pytest.raises(UserError, match=r"none of 2 chains can be learned with sft\.responses=kept \(kept=false: 2\)"):
        choose(kept)
    write(kept)
    with pytest.raises(UserError, match=r"none of 0 chains .*the file is empty"):
        choose(kept)


def test_a_missing_file_says_which_command_writes_it(kept):
    with pytest.raises(MissingFile, match=r"sft\.chains .*chains\.parquet is not a file .*`ssr1-rl distill generate`"):
        choose(kept)


def test_chains_of_other_questions_are_counted_and_too_many_are_refused(kept):
    write(kept, *(chain(str(number), 0) for number in range(9)), chain("stranger", 0))
    found = choose(kept, share=0.1)
    assert len(found.train) == 9
    assert found.notes[1] == "1 chains belong to no question of data.train and are left out"
    with pytest.raises(UserError, match=r"1 of 10 chains belong to no question .*'stranger' for example.*data\.train"):
        choose(kept, share=0.09)
    write(kept, chain("stranger", 0))
    with pytest.raises(UserError, match="1 of 1 chains belong to no question"):
        choose(kept, share=1.0)


def test_what_is_held_out_depends_on_seed_and_ids_alone():
    sft = SftConfig(responses="labels", validation_share=0.3)
    first = choose(sft)
    held_out = {example.question.id for example in first.held_out}
    assert len(held_out) == 3
    assert held_out.isdisjoint(learned(first))
    assert len(first.train) == 7
    again = choose(sft, questions=QUESTIONS[::-1])
    assert {example.question.id for example in again.held_out} == held_out
    assert {example.question.id for example in choose(sft, seed=1).held_out} != held_out


def test_a_small_share_holds_out_one_and_no_validation_none():
    assert len(choose(SftConfig(responses="labels", validation_share=0.001)).held_out) == 1
    assert choose(SftConfig(responses="labels", validation_share=0.5, validate_every=0)).held_out == []
    with pytest.raises(UserError, match=r"sft\.validation_share=0\.99 holds out all of the 1 questions"):
        choose(SftConfig(responses="labels", validation_share=0.99), questions=QUESTIONS[:1])
