"""Answers to the questions of a split -> scores: GRPO's validation, and the comparison of finished models."""
