"""How limits nest. An inner limit is shorter than the one around it, because its error knows more.

From the inside out; each line is inside the next:

    one gloo operation of a weight sync             inner_limit_s(rollout.sync_timeout_s)
    a weight sync, joining its group                rollout.sync_timeout_s
    a group's responses, pauses for syncs included  rollout.generate_timeout_s

    one collective of the learner ranks             inner_limit_s(learner.update_timeout_s)
    an update, a pass of the reference              learner.update_timeout_s

    an async reward call, cancelled by its actor    rewards[].timeout_s
    the controller's wait for it                    rewards[].timeout_s and ASYNC_GRACE_S

    Ray's set-up of a runtime_env                   runtime_env.config.setup_timeout_seconds, by default 600 s
    the start of a reward actor                     that and START_TIMEOUT_S

The NCCL broadcast of a weight sync has no limit of its own. If an engine hangs or dies in one, the limit of the sync,
or the engine's error, ends the run; then the processes that still wait in the broadcast are killed with the other
actors.
"""


def inner_limit_s(outer_s: float) -> float:
    """The limit of an operation inside another one of `outer_s`: shorter, so that its error comes first."""
    return 0.8 * outer_s
