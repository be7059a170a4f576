"""Reward functions, and the actor groups that run them: RolloutGroup -> ScoredGroup."""
