"""Generates groups of responses with vLLM. How new weights reach the engines is in weights/."""
