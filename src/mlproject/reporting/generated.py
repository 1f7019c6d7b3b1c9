"""Sequences written for targets: what models say of them against what was wanted, and their base composition."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mlproject.reporting.activities import with_interval
from mlproject.reporting.style import PALETTE, STYLE, aligned, as_written, save

LETTERS = "ACGT"
_RANDOM = "0.55"  # grey


def generated_text(agreement: pd.DataFrame) -> str:
    """A table for the terminal: how activities follow the targets.

    Args:
        agreement: columns what, spearman and pearson with `_low` and `_high`, and error, the mean absolute distance to
            the target; NaN where undefined.
    """
    lines = [["activity", "Spearman r with target", "Pearson r", "mean |difference|"]]
    for row in agreement.itertuples():
        both = (
            [getattr(row, f"{kind}{end}") for end in ("", "_low", "_high")]
            for kind in ("spearman", "pearson")
        )
        lines.append([row.what, *(with_interval(*values) for values in both), f"{row.error:.3f}"])
    return aligned(lines)


# --- activity -----------------------------------------------------------------------------------------------------


def write_generated_figure(
    generated: pd.DataFrame, random: pd.DataFrame, columns: Mapping[str, str], title: str, path: Path
) -> Path:
    """Saves `generated_figure` and returns its path."""
    return save(generated_figure(generated, random, columns, title), path)


@matplotlib.rc_context(STYLE)
def generated_figure(
    generated: pd.DataFrame, random: pd.DataFrame, columns: Mapping[str, str], title: str
) -> Figure:
    """Activity against the target, a panel for each who says it; beside them random sequences; the line of equality.

    Points of one target lie beside each other, generated ones left of it and random ones right; ticks are means.

    Args:
        generated: columns target and those of `columns`.
        random: likewise.
        columns: the title of the panel of each column.
        title: what the sequences are.
    """
    figure = Figure(figsize=(1.2 + 3.2 * len(columns), 4.0), layout="constrained")
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    targets = np.unique(generated["target"])
    spread = _spread(targets)
    color = sns.color_palette(PALETTE)[0]
    for axes, (column, name) in zip(panels, columns.items(), strict=True):
        _equality(axes, generated, random, columns)
        for frame, side, face in ((random, 1, _RANDOM), (generated, -1, color)):
            place = frame["target"] + side * spread * (0.1 + _rank(frame["target"]))
            axes.scatter(place, frame[column], s=12, color=face, alpha=0.6, linewidth=0, zorder=2)
            for target, values in frame.groupby("target")[column]:
                ends = np.sort([target + side * spread * 0.1, target + side * spread])
                axes.hlines(values.mean(), *ends, color="0.1", linewidth=1.4, zorder=3)
        axes.set(title=name, xlabel="target, in the units of the training labels")
    panels[0].set_ylabel("activity, in the units of the training labels")
    dot: dict[str, Any] = {"marker": "o", "markersize": 4, "linestyle": "none"}
    handles = [
        Line2D([], [], color=color, label=f"generated, n = {len(generated)}", **dot),
        Line2D([], [], color=_RANDOM, label=f"random, same constraints, n = {len(random)}", **dot),
        Line2D([], [], color="0.1", linewidth=1.4, label="mean at a target"),
        Line2D([], [], color="0.6", linewidth=0.8, label="equal to the target"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(as_written(title))
    return figure


def _equality(axes: Axes, generated: pd.DataFrame, random: pd.DataFrame, columns: Mapping[str, str]) -> None:
    values = pd.concat([generated, random])[["target", *columns]]
    ends = [values.min(axis=None), values.max(axis=None)]
    axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=1)


def _spread(targets: np.ndarray) -> float:
    """How far from its target a point may lie: at most 0.4 of the least distance of two."""
    if len(targets) == 1:
        return 0.1
    return float(0.4 * min(np.diff(targets).min(), np.ptp(targets) / 8))


def _rank(targets: pd.Series) -> pd.Series:
    """Of each row, its place among those of its target, from 0 to 0.9."""
    groups = targets.groupby(targets)
    return 0.9 * groups.cumcount() / (groups.transform("size") - 1).clip(lower=1)


# --- composition --------------------------------------------------------------------------------------------------


def write_composition_figure(
    groups: pd.DataFrame, positions: Mapping[str, pd.DataFrame], title: str, path: Path
) -> Path:
    """Saves `composition_figure` and returns its path."""
    return save(composition_figure(groups, positions, title), path)


@matplotlib.rc_context(STYLE)
def composition_figure(groups: pd.DataFrame, positions: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Shares of A, C, G and T: in each group of sequences, and along the sequence.

    Args:
        groups: columns A, C, G, T and n, how many sequences; a row for each group by name, in the order to be drawn.
        positions: of two sets of sequences by name, columns position, in bp, and A, C, G, T; the first is drawn solid,
            the second dashed.
        title: what the sequences are.
    """
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    shades = [".75", ".45", *sns.color_palette("flare", max(1, len(groups) - 2)).as_hex()][: len(groups)]
    width = 0.8 / len(groups)
    for number, ((name, row), shade) in enumerate(zip(groups.iterrows(), shades, strict=True)):
        place = np.arange(4) + (number - (len(groups) - 1) / 2) * width
        bars.bar(
            place, row[list(LETTERS)], width, color=shade, label=f"{name}, n = {row['n']:.0f}", linewidth=0
        )
    bars.set_xticks(range(4), LETTERS)
    bars.grid(False, axis="x")
    bars.set(xlabel="letter", ylabel="share of letters", title="overall, by target")
    bars.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    colors = sns.color_palette(PALETTE, 4)
    for (name, frame), style in zip(positions.items(), ("-", (0, (3, 2))), strict=True):
        for letter, color in zip(LETTERS, colors, strict=True):
            lines.plot(
                frame["position"],
                frame[letter],
                color=color,
                linestyle=style,
                linewidth=1.2,
                label=f"{letter}, {name}",
            )
    lines.set(
        xlabel="position in the sequence, bp from its start (middles of windows)", ylabel="share of letters"
    )
    lines.set_title("along the sequence")
    lines.set_ylim(bottom=0)
    lines.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
    figure.suptitle(as_written(title))
    return figure
