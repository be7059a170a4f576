"""Notes on settings that make a run on GPUs slow."""

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.learner import LearnerConfig

MIN_OFFLOAD_THREADS = 8
"""AdamW reads and writes 28 bytes per parameter, and a few threads cannot use all of the host memory's bandwidth."""


def gpu_notes(config: Config) -> list[str]:
    """One sentence per such setting, with what to do about it; none for a run on CPUs."""
    if config.run.device == "cpu":
        return []
    return [
        *_notes_on_prefetching(config.learner, config.model.train_audio_tower),
        *_notes_on_offloading(config.learner),
    ]


def _notes_on_prefetching(learner: LearnerConfig, train_audio_tower: bool) -> list[str]:
    """ZeRO-3 learns the order of a pass's weights, and starts anew after a pass of another order."""
    if learner.zero_stage < 3 or train_audio_tower or learner.num_workers == 1:
        return []
    return [
        "learner.zero_stage=3 with a frozen audio tower prefetches no weights in the first passes of an update, "
        "because the tower's own passes come before them: set learner.zero_stage=2 if its memory fits (--dry-run)"
    ]


def _notes_on_offloading(learner: LearnerConfig) -> list[str]:
    threads = learner.num_threads or max(1, round(learner.num_cpus))
    if learner.offload_optimizer == "none" or threads >= MIN_OFFLOAD_THREADS:
        return []
    return [
        f"learner.offload_optimizer={learner.offload_optimizer} runs AdamW on {threads} CPU "
        f"thread{'s' * (threads > 1)} per rank: reserve {MIN_OFFLOAD_THREADS} cores or more with learner.num_cpus"
    ]
