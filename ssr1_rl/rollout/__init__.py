"""Generates groups of responses with vLLM, and keeps the engines' weights current."""
