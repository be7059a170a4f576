"""From chains of thought to a student that can start GRPO."""
