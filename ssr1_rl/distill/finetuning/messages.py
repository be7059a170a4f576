"""What rank 0 of SFT tells the process that shows the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Phase:
    """What the ranks do now."""

    text: str


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class Began:
    """The ranks are about to make the step after this one."""

    step: int


@dataclass(frozen=True)
class Figures:
    """A row of metrics; `is_step` unless it is a validation's."""

    step: int
    metrics: Mapping[str, float]
    is_step: bool = True


@dataclass(frozen=True)
class Ended:
    """The ranks have saved this step, and end."""

    step: int
    is_finished: bool  # False if a stop was asked for


Message: TypeAlias = Phase | Note | Began | Figures | Ended


class Outlet(Protocol):
    """Where a rank's messages go."""

    def tell(self, message: Message) -> None:
        """Sends a message; does not wait for anything."""
        ...

    def stop_asked(self) -> bool:
        """Whether the run is to end after the step that it is in."""
        ...


class Silent:
    """The outlet of every rank but rank 0."""

    def tell(self, message: Message) -> None:
        pass

    def stop_asked(self) -> bool:
        return False
