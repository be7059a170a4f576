"""Sends a run's metrics to Weights & Biases, MLflow and trackio too, each in a thread of its own.

A tracker never stops or slows a run: `metrics.jsonl` has every figure, whatever happens to a tracker.
"""
