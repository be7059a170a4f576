"""A whole run on a laptop: a synthetic data set, a tiny model of a real architecture, and the demo that uses both.

Tests and benchmarks use the data set and the model too; no code outside this room that trains depends on it.
"""
