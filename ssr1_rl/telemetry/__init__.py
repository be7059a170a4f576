"""What a run shows and records of itself: metrics, samples, the live display. Nothing here is needed to resume it.

A new metric is computed in `step_metrics` if it needs groups or the step's clock, in `trainer/totals.py` if it needs the
learner's tensors (as `train/…`), and in `evaluate.Evaluation` for a validation; `docs/metrics.md` explains each of them.
"""
