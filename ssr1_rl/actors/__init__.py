"""Typed handles of Ray actors and the waits for them; the actors' own classes lie in rollout, rewards and trainer."""
