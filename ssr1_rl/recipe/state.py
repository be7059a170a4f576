"""What a recipe's folder knows of its stages: `recipe.json`, written whole after each change."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ssr1_rl.errors import UserError
from ssr1_rl.files import write_json
from ssr1_rl.recipe.fingerprint import Fingerprint

FILE = "recipe.json"


@dataclass(frozen=True)
class StageState:
    """The last start of one stage."""

    fingerprint: Fingerprint
    is_done: bool
    wall_s: float = 0.0  # of all starts until it was done
    summary: str = ""  # one line of figures


class RecipeState:
    """The stages of a recipe by name, as the folder holds them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._stages = _read(self._path)

    def get(self, stage: str) -> StageState | None:
        return self._stages.get(stage)

    def set(self, stage: str, state: StageState) -> None:
        """Writes the state of a stage to the disk."""
        self._stages[stage] = state
        write_json(self._path, {name: asdict(state) for name, state in self._stages.items()})


def _read(path: Path) -> dict[str, StageState]:
    try:
        return {name: StageState(**state) for name, state in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), so it is unknown which stages are done; restore it, or remove it, and "
            "every stage runs again"
        ) from error
