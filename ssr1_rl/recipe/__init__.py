"""SightSound-R1 (arXiv 2509.15661) in one command: teacher, audio-grounded check, SFT, GRPO, evaluation.

A stage runs only if its inputs changed since it finished; a recipe that was killed goes on with the stage it was in.
"""
