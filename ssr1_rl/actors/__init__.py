"""Typed handles of Ray actors and the waits for them; the actors' own classes are in rollout, rewards and trainer."""
