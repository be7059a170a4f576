"""Rows on disk -> questions, waveforms and prompts."""
