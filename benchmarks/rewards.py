"""The reward of the text task: cheap, and different within a group. benchmarks/trl_step.py has the same one."""


def share_of_a(question, completions):
    """The share of the letter a in each response."""
    return [c.text.count("a") / max(len(c.text), 1) for c in completions]
