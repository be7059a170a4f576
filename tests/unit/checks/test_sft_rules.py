"""Settings of SFT that contradict each other are refused, with the place, the value and the fix."""

import pytest

from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.errors import ConfigError

START = ["run.name=x", "model.path=m", "data.train.path=q.json"]


def load(*overrides):
    return load_sft(None, [*START, *overrides])


def test_labels_need_no_chains_and_sections_of_other_commands_need_nothing():
    assert load("sft.responses=labels").sft.chains == ""
    assert load("sft.chains=verified.parquet").sft.responses == "validated"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"sft\.chains is empty: give the file that `ssr1-rl distill verify` wrote, or set sft\.responses=labels"),
        (["sft.responses=kept"], r"sft\.chains is empty: .*`ssr1-rl distill generate`"),
        (
            ["sft.responses=labels", "sft.label_template=answer"],
            r"override 'sft\.label_template=answer': sft\.label_template must hold \{answer\}.*got 'answer'",
        ),
        (
            ["sft.responses=labels", "sft.questions_per_step=2", "learner.num_workers=3"],
            r"sft\.questions_per_step must be at least learner\.num_workers=3, .*got 2",
        ),
        (["sft.responses=labels", "learner.zero_stage=0"], r"learner\.zero_stage must be 1, 2 or 3 with .*bfloat16"),
        (["sft.responses=labels", "sft.responces=labels"], r"unknown setting sft\.responces; did you mean"),
        (["sft.responses=chains"], r"sft\.responses must be one of"),
        (["sft.responses=labels", "sft.validation_share=1"], r"sft\.validation_share must be less than 1"),
        (
            ["sft.responses=labels", "data.validation.v.path=v.json", "evaluation.engines.engine_args={seed: 1}"],
            r"evaluation\.engines\.engine_args\.seed is set by the system itself: use run\.seed",
        ),
        (
            ["sft.responses=labels", "data.validation.answers.path=v.json"],
            r"data\.validation\.answers: the name 'answers' cannot be that of a folder",
        ),
        (
            ["sft.responses=labels", "model.lora.rank=4", "model.lora.target_modules=[]"],
            r"model\.lora\.target_modules must name at least one linear layer",
        ),
    ],
)
def test_a_contradiction_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)
