"""Runs a model over rows with Ray Data: vLLM engines in the cluster, or an OpenAI-compatible server.

Teacher, verifier and evaluation say what to ask for each row; answers are kept on disk, so that a stage can resume.
"""
