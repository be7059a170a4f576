"""A whole run on a laptop: a synthetic data set, tiny models of real architectures, and the demo that uses both.

Tests and benchmarks use the data set and the models too; nothing that trains depends on this room.
"""
