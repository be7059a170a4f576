"""Loads a launch file and checks the rules between its settings; each rule is a function named as a sentence.

Every error names the field, its value and the fix.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.checks.algorithm_rules import check_algorithm
from ssr1_rl.checks.deepspeed_options import check_deepspeed_options
from ssr1_rl.checks.engine_options import refuse_owned
from ssr1_rl.checks.template_options import refuse_owned_variables
from ssr1_rl.config.kinds import dotted
from ssr1_rl.config.load import read_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.values import Origins
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.load import check_built_in
from ssr1_rl.rewards.source import reward_name
from ssr1_rl.trainer.attention.choice import what_is_missing


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the launch file at `path` (None: only the defaults) and applies `overrides` such as `grpo.group_size=16`.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of
            bounds, a missing required setting, or settings that contradict each other.
    """
    config, origins = read_settings(path, overrides)
    try:
        check_rules(config)
    except ConfigError as error:
        raise ConfigError(places(str(error), origins) + str(error)) from error
    return config


def check_rules(config: Config) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    _every_rank_has_a_group_of_each_minibatch(config.grpo, config.learner.num_workers)
    _rewards_are_named_once(config.rewards)
    _reward_actors_get_a_part_of_a_gpu_or_whole_ones(config.rewards)
    check_training(config)
    refuse_owned(config.rollout)
    _groups_can_differ(config.rollout)
    check_algorithm(config.grpo)
    if config.run.device == "cpu" and config.rollout.engine_args.get("enable_chunked_prefill"):
        raise ConfigError(
            "rollout.engine_args.enable_chunked_prefill=true does not work on CPUs, where vLLM then cannot give each "
            "response a seed of its own; leave it out"
        )
    if config.run.device == "cpu" and config.rollout.weight_transfer == "nccl":
        raise ConfigError("rollout.weight_transfer=nccl needs run.device=cuda; set it to auto or gloo")


def check_training(config: Config) -> None:
    """Refuses settings of model, learners, prompts and trackers that contradict each other, for GRPO and SFT.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    _trackers_are_named_once(config.telemetry.trackers)
    check_deepspeed_options(config.learner)
    _state_can_be_offloaded(config.learner)
    _adapters_have_targets(config.model)
    refuse_owned_variables(config.data.chat_template_kwargs)
    _attention_suits_device_and_dtype(config.run, config.model)
    if config.model.dtype == "bfloat16" and config.learner.zero_stage == 0:
        raise ConfigError(
            "learner.zero_stage must be 1, 2 or 3 with model.dtype=bfloat16 (only ZeRO keeps float32 masters), got 0"
        )


def places(message: str, origins: Origins) -> str:
    """Where the settings that an error names were set: "launch.yaml:4 and override 'grpo.num_minibatches=3': "."""
    by_name = {dotted(key): origin for key, origin in origins.items()}
    named = re.findall(r"[a-z_]+(?:\.[\w-]+|\[\d+\])+", message)
    places = dict.fromkeys(by_name[name] for name in named if name in by_name)
    return f"{' and '.join(places)}: " if places else ""


def _every_rank_has_a_group_of_each_minibatch(grpo: GrpoConfig, num_ranks: int) -> None:
    questions, minibatches = grpo.questions_per_step, grpo.num_minibatches
    if questions % minibatches:
        near = max(1, round(questions / minibatches)) * minibatches
        raise ConfigError(
            f"grpo.questions_per_step must be divisible by grpo.num_minibatches={minibatches}, got {questions}; "
            f"the nearest that fits is {near}"
        )
    if questions // minibatches < num_ranks:
        raise ConfigError(
            f"grpo.questions_per_step must be at least learner.num_workers x grpo.num_minibatches "
            f"({num_ranks} x {minibatches} = {num_ranks * minibatches}), a question for every learner rank in every "
            f"mini-batch, got {questions}"
        )


def _rewards_are_named_once(rewards: Sequence[RewardConfig]) -> None:
    if not rewards:
        raise ConfigError("rewards must name at least one reward function, got an empty list")
    names = [reward_name(reward) for reward in rewards]
    for index, (reward, name) in enumerate(zip(rewards, names, strict=True)):
        if not reward.path:
            check_built_in(reward.name, f"rewards[{index}]")
        if name in names[:index]:
            raise ConfigError(f"rewards[{index}].name {name!r} is used twice; give one of them another name")


def _groups_can_differ(rollout: RolloutConfig) -> None:
    if rollout.top_k == 1 or rollout.min_p == 1:
        name, value = ("top_k", "1") if rollout.top_k == 1 else ("min_p", "1")
        raise ConfigError(
            f"rollout.{name}={value} leaves only the likeliest token, so that the responses of a group are all the "
            f"same: set rollout.{name} to {'0 (all tokens) or more than 1' if name == 'top_k' else 'less than 1'}"
        )
    for index, text in enumerate(rollout.stop):
        if not text:
            raise ConfigError(f"rollout.stop[{index}] is empty; give the text that ends a response, or leave it out")


def _reward_actors_get_a_part_of_a_gpu_or_whole_ones(rewards: Sequence[RewardConfig]) -> None:
    for index, reward in enumerate(rewards):
        if reward.num_gpus > 1 and reward.num_gpus % 1:
            raise ConfigError(
                f"rewards[{index}].num_gpus must be a whole number if it is more than 1, got {reward.num_gpus:g}: "
                "an actor gets a part of one GPU, or whole ones"
            )


def _trackers_are_named_once(trackers: Sequence[str]) -> None:
    for name in trackers:
        if trackers.count(name) > 1:
            raise ConfigError(f"telemetry.trackers names {name} twice; remove one of them")


def _state_can_be_offloaded(learner: LearnerConfig) -> None:
    if learner.offload_optimizer != "none" and learner.zero_stage == 0:
        raise ConfigError(
            f"learner.offload_optimizer={learner.offload_optimizer} needs learner.zero_stage 1, 2 or 3, got 0"
        )
    if learner.offload_parameters != "none" and learner.zero_stage != 3:
        raise ConfigError(
            f"learner.offload_parameters={learner.offload_parameters} needs learner.zero_stage=3 (only it shards the "
            f"parameters), got {learner.zero_stage}"
        )


def _adapters_have_targets(model: ModelConfig) -> None:
    if model.lora.rank and not model.lora.target_modules:
        raise ConfigError(
            f"model.lora.target_modules must name at least one linear layer with model.lora.rank={model.lora.rank}, "
            "got []; set model.lora.rank=0 to train the whole policy"
        )


def _attention_suits_device_and_dtype(run: RunConfig, model: ModelConfig) -> None:
    wanted = model.attn_implementation
    if wanted != "auto" and (missing := what_is_missing(wanted, run.device, model.dtype)):
        raise ConfigError(f"model.attn_implementation={wanted} cannot run: {missing}; set it to auto")
