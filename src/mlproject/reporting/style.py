"""What all figures share: colours, looks, how they are saved; and columns of text."""

from pathlib import Path
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.figure import Figure

PALETTE = "colorblind"  # told apart with any colour vision
STYLE: dict[Any, Any] = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    "axes.edgecolor": "0.6",
    "grid.color": "0.9",
    "figure.dpi": 150,
}


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture and returns its path; figures are on a Figure of their own, not pyplot's, which would look for
    a screen."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi="figure")
    return path


def aligned(lines: list[list[str]]) -> str:
    """Lines of cells as columns of one width each, with a rule below the first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def as_written(text: str) -> str:
    """Text for a picture in which `$` is a letter, and begins no mathematics."""
    return text.replace("$", r"\$")
