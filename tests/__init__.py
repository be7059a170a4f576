"""Checks shapes and types of the pure tensor functions wherever tests run, in the processes that they start as well."""

from jaxtyping import install_import_hook

# Before anything imports them: afterwards it is too late.
install_import_hook(
    [*(f"ssr1_rl.algorithm.{name}" for name in ("importance", "kl", "loss")), "ssr1_rl.trainer.model.logprobs"],
    "beartype.beartype",
)
