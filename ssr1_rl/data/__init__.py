"""From files of questions to what a model reads: one reader per file format, then audio, prompts, log-mel features.

Nothing here generates or trains; what differs between audio models is in `audio_families`.
"""
