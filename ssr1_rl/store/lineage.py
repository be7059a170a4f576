"""Which checkpoints continue which: told from the starts that are recorded in each manifest.

A run's checkpoints carry the list of its branches. A start from nothing makes the first branch, a start from a
checkpoint that `run.resume` names adds one, and every other start continues the branches of its checkpoint.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict


class Branch(TypedDict):
    """One start; `named_path` and `named_id` are empty unless `run.resume` named the checkpoint."""

    id: str
    from_step: int
    named_path: str
    named_id: str


Lineage: TypeAlias = Sequence[Branch]


def new_branch(from_step: int = 0, named_path: Path | None = None, named_id: str = "") -> Branch:
    """A branch that starts now."""
    path = str(named_path.resolve()) if named_path else ""
    return {"id": uuid.uuid4().hex, "from_step": from_step, "named_path": path, "named_id": named_id}


def is_ancestor(step: int, lineage: Lineage, of_step: int, of_lineage: Lineage) -> bool:
    """Whether a checkpoint of `step` lies on the way to one of `of_step`, or is that one."""
    if list(lineage) != list(of_lineage[: len(lineage)]):
        return False
    left_at = of_lineage[len(lineage)]["from_step"] if len(of_lineage) > len(lineage) else of_step
    return step <= left_at


def was_named(lineage: Lineage, path: Path, identity: str) -> bool:
    """Whether one of the starts named the checkpoint with this identity, or one at `path` if it is no longer there."""
    if identity:
        return any(branch["named_id"] == identity for branch in lineage)
    return any(branch["named_path"] == str(path.resolve()) for branch in lineage)
