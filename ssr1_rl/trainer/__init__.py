"""Turns scored groups into policy updates with DeepSpeed ZeRO. What the loss is, is in `ssr1_rl.algorithm`."""
