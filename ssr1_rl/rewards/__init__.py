"""Reward functions and the Ray actors that run them: RolloutGroup -> ScoredGroup. Advantages are in algorithm/."""
