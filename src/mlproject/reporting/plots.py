"""Interactive figures that reports of several kinds share; they are read without colour, and words in them are text."""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from mlproject.reporting.words import unturned

# Okabe and Ito's colours, told apart with any colour vision, each with a symbol of its own
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#8C510A")
INK = "#808080"  # of lines and marks that are read on white and on black
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "star")
MOST_POINTS = 10_000  # of a scatter: a page with more is slow to open
_MOST_LETTERS = 40  # of a name beside an axis or in a legend


def laid_out(figure: go.Figure) -> go.Figure:
    """The figure with narrow margins and its legend above."""
    figure.update_layout(margin={"t": 30, "l": 10, "r": 10})
    figure.update_yaxes(
        ticks="outside", ticklen=4, tickcolor="rgba(0,0,0,0)"
    )  # names do not touch what is drawn
    return figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0})


def label(name: object) -> str:
    """A name from outside as a label: Plotly takes some HTML in those. Long ones lose their middle."""
    text = " ".join(unturned(str(name)).split())
    if len(text) > _MOST_LETTERS:
        text = f"{text[: _MOST_LETTERS // 2]}…{text[1 - _MOST_LETTERS // 2 :]}"
    return html.escape(text)


def labels(names: Sequence[object]) -> list[str]:
    """The same of names that are drawn beside each other: those that were cut to the same are numbered."""
    found = [label(name) for name in names]
    twice = {one for one in found if found.count(one) > 1 and len(set(map(str, names))) > len(set(found))}
    order = list(dict.fromkeys(map(str, names)))
    return [
        f"{one} ({order.index(str(name)) + 1})" if one in twice else one
        for one, name in zip(found, names, strict=True)
    ]


def means_plot(means: pd.DataFrame, runs: pd.DataFrame, title: str) -> go.Figure:
    """A mark for each run by variant, and each variant's mean with its 95% interval, best on top.

    Args:
        means: of `effects.variant_means`.
        runs: variant, seed, score.
        title: of the axis of scores.
    """
    names = dict(zip(means["variant"], labels(means["variant"].tolist()), strict=True))
    figure = go.Figure()
    told_apart = runs["seed"].nunique() <= len(SYMBOLS)  # more would fill the figure with their legend
    for number, (seed, own) in enumerate(runs.groupby("seed")):
        figure.add_scatter(
            x=own["score"],
            y=[names[name] for name in own["variant"]],
            mode="markers",
            name=f"seed {seed}" if told_apart else "a run",
            legendgroup=str(number) if told_apart else "runs",
            showlegend=told_apart or number == 0,
            hovertemplate=f"seed {seed}: %{{x:.4f}}<extra></extra>",
            marker={"symbol": f"{SYMBOLS[number * told_apart]}-open", "size": 8, "color": INK},
        )
    figure.add_scatter(
        x=means["mean"],
        y=[names[name] for name in means["variant"]],
        mode="markers",
        name="mean, 95% interval",
        marker={"symbol": "line-ns-open", "size": 16, "color": "#0072B2"},
        error_x={"type": "data", "array": (means["high"] - means["mean"]).fillna(0), "color": "#0072B2"},
    )
    figure.update_yaxes(categoryorder="array", categoryarray=list(names.values())[::-1])
    figure.update_xaxes(title=title)
    return laid_out(figure)


def interval_plot(table: pd.DataFrame, title: str, *, zero: bool = False) -> go.Figure:
    """A mark with an interval for each row, the first on top.

    Args:
        table: name, value, low and high (NaN where they are not known), and optionally `stands`: whether it is filled.
        title: of the axis.
        zero: whether a line marks 0, as it does for differences.
    """
    filled = table["stands"] if "stands" in table else [True] * len(table)
    names = labels(table["name"].tolist())
    figure = go.Figure()
    figure.add_scatter(
        x=table["value"],
        y=names,
        mode="markers",
        marker={
            "size": 10,
            "color": "#0072B2",
            "symbol": ["circle" if one else "circle-open" for one in filled],
        },
        error_x={
            "type": "data",
            "array": (table["high"] - table["value"]).fillna(0),
            "arrayminus": (table["value"] - table["low"]).fillna(0),
            "color": "#0072B2",
        },
        showlegend=False,
    )
    if zero:
        figure.add_vline(x=0, line_color=INK, line_width=1)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(title=title)
    figure.update_layout(height=110 + 44 * max(2, len(table)))
    return laid_out(figure)


def measured_plot(frame: pd.DataFrame, units: str, *, by: str = "", panels: str = "") -> go.Figure | None:
    """Measured activity against what is predicted, with the line of equality; None where nothing is known of both.

    Args:
        frame: name, activity, predicted, and optionally predicted_sd, a deviation that is drawn as a line.
        units: of both, for the axes.
        by: column whose values have a colour and a symbol each; of more than eight none has.
        panels: column with a panel for each of its values.
    """
    frame = frame[np.isfinite(frame["activity"]) & np.isfinite(frame["predicted"])]
    if frame.empty:
        return None
    if len(frame) > MOST_POINTS:
        frame = frame.sample(MOST_POINTS, random_state=0).sort_index()
    kinds = list(dict.fromkeys(frame[panels])) if panels else [""]
    titles = (
        [f"{label(kind)}<br>n = {int((frame[panels] == kind).sum()):,}" for kind in kinds] if panels else None
    )
    figure = make_subplots(1, len(kinds), subplot_titles=titles, horizontal_spacing=0.12)
    both = frame[["activity", "predicted"]]
    low, high = float(both.min(axis=None)), float(both.max(axis=None))
    named = list(dict.fromkeys(frame[by])) if by else []
    if not 1 < len(named) <= len(COLORS):
        named = []
    for place, kind in enumerate(kinds, 1):
        own = frame[frame[panels] == kind] if panels else frame
        figure.add_scatter(
            x=[low, high], y=[low, high], mode="lines", line={"color": "#888"}, hoverinfo="skip", showlegend=False,
            row=1, col=place,
        )  # fmt: skip
        for number, name in enumerate(named or [""]):
            points = own[own[by] == name] if named else own
            error = None
            if "predicted_sd" in points and len(frame) <= 200:
                error = {
                    "type": "data",
                    "array": points["predicted_sd"].fillna(0),
                    "color": "#aaa",
                    "width": 0,
                }
            figure.add_scatter(
                x=points["predicted"].round(4),
                y=points["activity"].round(4),
                mode="markers",
                name=label(name),
                legendgroup=str(number),
                showlegend=bool(named) and place == 1,
                marker={"symbol": SYMBOLS[number], "color": COLORS[number], "size": 7 if len(own) < 300 else 4,
                        "opacity": 0.7},
                error_x=error,
                text=[label(word) for word in points["name"]],
                hovertemplate="%{text}<br>%{x:.3f}, measured %{y:.3f}<extra></extra>",
                row=1,
                col=place,
            )  # fmt: skip
        figure.update_xaxes(title=f"predicted activity<br>({html.escape(units)})", row=1, col=place)
    count = "" if panels else f", n = {len(frame):,}"
    figure.update_yaxes(title=f"measured activity ({html.escape(units)}{count})", row=1, col=1)
    figure.update_layout(height=480)
    figure = laid_out(figure)
    return figure.update_layout(margin={"t": 80}) if panels else figure


def versus_plot(frame: pd.DataFrame, first: str, others: Sequence[str], what: str) -> go.Figure | None:
    """A column against others, a mark for each row and other, with the line of equality; None without two rows.

    Args:
        frame: `name`, and the columns.
        first: what is drawn upwards.
        others: what is drawn to the right.
        what: the columns are of, such as `Pearson r of a track`.
    """
    if not 2 <= len(frame) <= MOST_POINTS or not others:
        return None
    values = frame[[first, *others]]
    low, high = float(values.min(axis=None)), float(values.max(axis=None))
    figure = go.Figure()
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": "#888"}, name="equal", hoverinfo="skip"
    )
    for number, other in enumerate(others):
        figure.add_scatter(
            x=frame[other].round(4),
            y=frame[first].round(4),
            mode="markers",
            name=label(other),
            marker={
                "symbol": f"{SYMBOLS[number % 8]}-open",
                "color": COLORS[number % 8],
                "size": 7 if len(frame) < 500 else 4,
                "opacity": 1 if len(frame) < 500 else 0.5,
            },
            text=[label(name) for name in frame["name"]],
            hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra>" + label(other) + "</extra>",
        )
    figure.update_xaxes(title=f"{html.escape(what)}, baselines (n = {len(frame):,})")
    figure.update_yaxes(title=f"{html.escape(what)}, {label(first)}")
    figure.update_layout(height=520)
    return laid_out(figure)
