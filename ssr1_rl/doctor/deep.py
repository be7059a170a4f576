"""`--deep`: one tiny GRPO step and its checkpoint with the real model, in a folder that is removed."""

import dataclasses
from pathlib import Path

from ssr1_rl.config.schema import Config

MAX_RESPONSE_TOKENS = 32


def tiny_step(config: Config, folder: Path) -> Config:
    """The settings of one step on the fewest questions, with short responses; model and placement stay as they are."""
    num_questions = config.learner.num_workers * config.grpo.num_minibatches
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, name="doctor", dir=str(folder), resume="never"),
        data=dataclasses.replace(config.data, validation={}),
        rollout=dataclasses.replace(
            config.rollout, max_response_tokens=min(MAX_RESPONSE_TOKENS, config.rollout.max_response_tokens)
        ),
        grpo=dataclasses.replace(
            config.grpo,
            num_steps=1,
            questions_per_step=num_questions,
            group_size=2,
            max_staleness=0,
            validate_first=False,
            validate_every=0,
            dynamic_sampling=False,
        ),
        telemetry=dataclasses.replace(config.telemetry, tensorboard=False, trackers=[]),
    )
