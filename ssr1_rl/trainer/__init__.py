"""Turns scored groups into policy updates with DeepSpeed ZeRO, and sends the weights on."""
