"""What is known of the miniature's chains, because it is known what sounds: how good teacher and verifier are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ssr1_rl.demo.sightworld.chains import is_grounded
from ssr1_rl.demo.sightworld.questions import Asked


def measured_against_truth(world: Path, verified: Path) -> dict[str, Any]:
    """Shares of right and grounded chains, and precision and recall of the check among the chains kept by the label.

    A share of nothing is None.
    """
    truth = json.loads((world / "truth.json").read_text())
    clips = {str(row["id"]): truth[row["video_name"]] for row in json.loads((world / "train.json").read_text())}
    rows = pq.read_table(verified).to_pylist()
    kept = [row for row in rows if row["kept"]]
    grounded = [_is_grounded(row["thoughts"], clips[row["question_id"]]) for row in kept]
    validated = [bool(row["validated"]) for row in kept]
    both = sum(g and v for g, v in zip(grounded, validated, strict=True))
    return {
        "num_chains": len(rows),
        "right_share": _share([bool(row["is_right"]) for row in rows]),
        "num_kept": len(kept),
        "grounded_share_of_kept": _share(grounded),
        "num_validated": sum(validated),
        "precision": both / sum(validated) if any(validated) else None,
        "recall": both / sum(grounded) if any(grounded) else None,
        "questions": len(clips),
        "questions_with_a_kept_chain": len({row["question_id"] for row in kept}),
        "questions_with_a_validated_chain": len({row["question_id"] for row in kept if row["validated"]}),
        "grounded_share_of_kept_by_trap": {
            name: _share(
                [g for g, row in zip(grounded, kept, strict=True) if _is_trapped(clips[row["question_id"]]) == trapped]
            )
            for name, trapped in (("companions together", True), ("others", False))
        },
    }


def _is_grounded(thoughts: str, clip: dict[str, Any]) -> bool:
    return is_grounded(thoughts, Asked(clip["asked"]["kind"], tuple(clip["asked"]["about"])), tuple(clip["sounds"]))


def _is_trapped(clip: dict[str, Any]) -> bool:
    """Whether companions are seen together in the clip."""
    return any({"rattle", "whistle"} <= set(objects) for objects in clip["seen"])


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
