"""What a run shows and records of itself: metrics, samples, the live display. Nothing here is needed to resume it.

Where a new metric goes: into `step_metrics` if it needs the step's groups or its clock, into `trainer/totals.py` (it
becomes `train/<name>`) if it needs the learner's tensors, into `evaluate.Evaluation` if it belongs to a validation.
`docs/metrics.md` explains each of them; a test compares the two.
"""
