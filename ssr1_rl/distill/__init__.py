"""Stages before GRPO that make a student from chains of thought. The student is then trained by `grpo.py`."""
