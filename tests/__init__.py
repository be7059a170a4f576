"""Checks shapes and types of the pure tensor functions in all test processes, and in the processes that they start."""

from jaxtyping import install_import_hook

# Must run before anything imports these functions.
install_import_hook(
    [*(f"ssr1_rl.algorithm.{name}" for name in ("importance", "kl", "loss")), "ssr1_rl.trainer.model.logprobs"],
    "beartype.beartype",
)
