"""Reads a clip's file: opens it, checks that it is whole, and decodes its beginning to mono samples.

Resampling, length limits and the checks of the finished waveform are in `data/audio.py`.
"""
