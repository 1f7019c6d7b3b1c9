"""Tracks of two runs, to look into: which is predicted better by which."""

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from mlproject.reporting.plots import label
from mlproject.reporting.tracks import categories_in_order

MARKS = {
    "DNASE": ("#0072B2", "circle"),
    "CAGE": ("#D55E00", "square"),
    "CHIP": ("#009E73", "diamond"),
    "ATAC": ("#CC79A7", "cross"),
}
_OTHERS = (("#E69F00", "x"), ("#56B4E9", "triangle-up"), ("#999999", "triangle-down"))


def paired_tracks(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The tracks that two tables have in common, by identifier and index, in the order of the first.

    Args:
        first, second: as `track_table` makes them.

    Returns:
        index, identifier, description, category, r_x and r_y (Pearson r of the first and the second; NaN where it is
        not defined), difference (the second minus the first).
    """
    key = ["index", "identifier"]
    found = first[[*key, "description", "category", "pearson_r"]].merge(
        second[[*key, "pearson_r"]], on=key, suffixes=("_x", "_y")
    )
    found = found.rename(columns={"pearson_r_x": "r_x", "pearson_r_y": "r_y"})
    return found.assign(difference=found["r_y"] - found["r_x"])


def matching_tracks(tracks: pd.DataFrame, words: str, categories: list[str]) -> pd.DataFrame:
    """Those whose identifier, description or category has every one of the words, in any case of letters.

    Args:
        tracks: identifier, description, category.
        words: between blanks; none finds all.
        categories: of which; none of them means all.
    """
    found = tracks[tracks["category"].isin(categories)] if categories else tracks
    text = (
        found["identifier"].astype(str)
        + " "
        + found["description"].astype(str)
        + " "
        + found["category"].astype(str)
    ).str.lower()
    for word in words.lower().split():
        found = found[text.loc[found.index].str.contains(word, regex=False)]
    return found


def track_scatter_plot(pairs: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Each track's Pearson r in one run against that in another, a colour and a mark for each category.

    The first of a point's custom data is its place among the rows of `pairs`.

    Args:
        pairs: as `paired_tracks` makes them.
        first, second: what the runs are called.
    """
    figure = go.Figure()
    numbers = pairs[["r_x", "r_y"]].to_numpy()
    if np.isfinite(numbers).any():
        ends = [float(np.nanmin(numbers)), float(np.nanmax(numbers))]
        line = {"color": "#888", "dash": "dot"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    others = iter(_OTHERS * len(pairs))
    for category in categories_in_order(list(pairs["category"].unique())):
        color, symbol = MARKS.get(category) or next(others)
        rows = np.flatnonzero((pairs["category"] == category).to_numpy())
        own = pairs.iloc[rows]
        figure.add_scattergl(
            x=own["r_x"],
            y=own["r_y"],
            mode="markers",
            name=f"{label(category)} (n = {len(own):,})",
            marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.6},
            customdata=[[row] for row in rows.tolist()],  # of an array the browser makes an object
            text=[
                f"{label(identifier)}<br>{label(description)}"
                for identifier, description in zip(own["identifier"], own["description"], strict=True)
            ],
            hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title=f"Pearson r of a track,<br>{label(first)}", constrain="domain")
    figure.update_yaxes(
        title=f"Pearson r of a track,<br>{label(second)}", scaleanchor="x", constrain="domain"
    )
    return figure.update_layout(
        height=560,
        margin={"t": 60, "l": 10, "r": 10, "b": 10},
        dragmode="select",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    )


def track_distribution_plot(pairs: pd.DataFrame, first: str, second: str) -> go.Figure:
    """How Pearson r of tracks is distributed in two runs, a box for each category and run.

    Args:
        pairs, first, second: as in `track_scatter_plot`.
    """
    figure = go.Figure()
    counts = pairs["category"].value_counts()
    names = {name: f"{label(name)}<br>n = {counts[name]:,}" for name in counts.index}
    for column, name, color, mark in (("r_x", first, "#0072B2", "circle"), ("r_y", second, "#E69F00", "x")):
        figure.add_box(
            x=pairs["category"].map(names),
            y=pairs[column],
            name=label(name),
            marker={"color": color, "symbol": mark, "size": 3},
            line_width=1.2,
            boxpoints="outliers",
        )
    order = [names[name] for name in categories_in_order(list(counts.index))]
    figure.update_xaxes(title="category (n: tracks)", categoryorder="array", categoryarray=order)
    figure.update_yaxes(title="Pearson r")
    return figure.update_layout(
        boxmode="group",
        margin={"t": 50, "l": 10, "r": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    )
