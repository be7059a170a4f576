"""The mathematics of GRPO and its variants: advantages, loss, importance weights, KL. No Ray, vLLM or DeepSpeed."""
