"""A whole run on a laptop: a synthetic data set, a tiny model of a real architecture, and the demo that uses both.

Tests and benchmarks use the data set and the model too; the code that trains depends on nothing in this room.
"""
