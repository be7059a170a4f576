"""Turns scored groups into policy updates with DeepSpeed ZeRO. The loss is in `ssr1_rl.algorithm`."""
