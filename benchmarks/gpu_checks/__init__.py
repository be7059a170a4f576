"""What gpu_smoke.py runs: one file per GPU path, each of which also runs on a CPU as far as one can."""
