"""Reads the file of a clip or a video: opens it, checks that it is whole, and decodes the part that is needed.

Resampling, length limits and the checks of the finished waveform are in `data/audio.py`; which frames of a video are
taken is said in `data/frames.py`.
"""
