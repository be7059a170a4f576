"""The style of all plots: colours that colour-blind readers can distinguish, values written on the marks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#757575"
OURS, PEER = BLUE, GREY


def new_figure(title: str, width: float, height: float, num_panels: int = 1) -> tuple["Figure", "list[Axes]"]:
    """A figure with panels side by side; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, horizontalalignment="left")
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def bars(axes: "Axes", title: str, names: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> None:
    """Draws horizontal bars from the top down, each followed by its text; the sides that we compare with are grey."""
    colours = [PEER if name.startswith(("repeated", "bare")) else OURS for name in names]
    drawn = axes.barh(range(len(names)), values, color=colours, height=0.6)
    axes.bar_label(drawn, texts, padding=4, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    without_values(axes)
    axes.set_title(title, fontsize=9, loc="left")


def without_values(axes: "Axes") -> None:
    """Removes the horizontal axis, because the values are written on the marks."""
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def save(figure: "Figure", path: Path) -> None:
    """Writes the PNG."""
    figure.savefig(path, dpi=120)
