"""Tables and figures of constructs: measured activity against what is predicted."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mlproject.reporting.style import PALETTE, STYLE, aligned, as_written, save


def comparison_text(comparison: pd.DataFrame) -> str:
    """A table for the terminal: each predictor's Pearson and Spearman r with intervals, and r within folds."""
    lines = [["predictor", "Pearson r", "within folds", "Spearman r"]]
    for row in comparison.itertuples():
        pearson, spearman = (
            with_interval(*(getattr(row, f"{kind}{end}") for end in ("", "_low", "_high")))
            for kind in ("pearson", "spearman")
        )
        lines.append([row.predictor, pearson, _number(row.pearson_within), spearman])
    return aligned(lines)


def with_interval(value: float, low: float, high: float) -> str:
    """A correlation with the ends of its interval, where they are known."""
    return _number(value) + ("" if np.isnan(low) else f" ({low:.3f} to {high:.3f})")


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def write_activity_figure(
    constructs: pd.DataFrame,
    title: str,
    path: Path,
    column: str = "predicted",
    label: str = "predicted activity",
) -> Path:
    """Saves `activity_figure` and returns its path."""
    return save(activity_figure(constructs, title, column, label), path)


_MOST_GROUPS = 12  # that a legend names; colours of more could not be told apart
_MOST_LETTERS = 28  # of a name in a legend


@matplotlib.rc_context(STYLE)
def activity_figure(constructs: pd.DataFrame, title: str, column: str, label: str) -> Figure:
    """Measured activity against what is predicted, a point for each construct, with the deviation over its offsets.

    Colour and marker are the group, or the cluster if the groups are too many to tell apart; of too many of both the
    largest ones are named, the rest is "other".

    Args:
        constructs: columns group, cluster, activity, COLUMN and COLUMN_sd.
        title: what they are.
        column: of the prediction; of `predicted`, which is an activity too, the line of equality is drawn.
        label: of its axis.
    """
    few = constructs["group"].nunique() <= _MOST_GROUPS
    kind = "group" if few or constructs["cluster"].nunique() > _MOST_GROUPS else "cluster"
    sizes = constructs[kind].value_counts()
    named = list(sizes.index[: _MOST_GROUPS if len(sizes) <= _MOST_GROUPS else _MOST_GROUPS - 1])
    group = constructs[kind].where(constructs[kind].isin(named), "other")
    short = {name: _label(name) for name in named}
    if len(set(short.values())) < len(named):
        short = {name: f"{place}: {_label(name)}" for place, name in enumerate(named, 1)}
    group, named = group.replace(short), list(short.values())
    order = named + ["other"] * bool((group == "other").any() and "other" not in named)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    if column == "predicted":
        both = constructs[["activity", column]]
        ends = [min(0.0, both.min(axis=None)), both.max(axis=None) * 1.05]
        axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axes.errorbar(
        constructs[column],
        constructs["activity"],
        xerr=constructs[f"{column}_sd"],
        fmt="none",
        ecolor="0.6",
        elinewidth=0.8,
        zorder=1,
    )
    sns.scatterplot(
        x=constructs[column],
        y=constructs["activity"],
        hue=group,
        style=group,
        hue_order=order,
        style_order=order,
        palette=sns.color_palette(PALETTE, len(order)),
        s=32,
        edgecolor="0.2",
        linewidth=0.4,
        ax=axes,
        zorder=2,
    )
    axes.set(
        xlabel=f"{label}\n(points: mean over offsets; lines: ± 1 sd over offsets)",
        ylabel="measured activity",
        title=f"{title}, n = {len(constructs)}",
    )
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), title=kind, frameon=False)
    return figure


def _label(name: str) -> str:
    """A name as a legend can have it: not too long, no mathematics, and not hidden for a leading underscore."""
    short = name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
    return ("\N{ZERO WIDTH SPACE}" if short.startswith("_") else "") + as_written(short)
