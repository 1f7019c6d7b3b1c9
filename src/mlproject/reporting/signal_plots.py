"""Signal along the genome to look into: panned and zoomed in a browser."""

import html
import textwrap
from collections.abc import Sequence

import numpy as np
import seaborn as sns
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from mlproject.reporting.plots import label
from mlproject.reporting.signals import MOST_LETTERS, UNITS, SignalPanel, join_bins
from mlproject.reporting.style import PALETTE
from mlproject.reporting.words import unturned

# of all panels, and of one where they are many: 12,000 bins are 5 MB, and a browser pans more of them slowly
_MOST_BINS, _LEAST_BINS = 12_000, 2_000
_ROW, _TITLE_LINE, _AXIS = 150, 16, 58  # pixels: of a panel, of a line above it, and of an axis below it
_LEGEND, _TOOLS = 44, 26  # below and above everything
_LINE_LETTERS = 52  # of a title, which a page of 390 pixels has room for


def signal_plot(panels: Sequence[SignalPanel]) -> go.Figure:
    """One row for each panel: predicted is a line of steps, its standard deviation a band, measured a filled area.

    Panels that begin at one place of one chromosome share their horizontal axis. It is dragged to move along the
    genome; the wheel zooms where it is shown with the configuration `scrollZoom`. Pointing at a bin tells its place and
    values. Labels and names of chromosomes are shown as text. NaN is a gap. A panel of more
    bins than its share of 12,000, and than 2,000, is drawn as means over as many as it takes; the axis says so.

    Args:
        panels: one or more, top to bottom.

    Raises:
        ValueError: there is none.
    """
    if not panels:
        raise ValueError("no panels")
    shared = len({(panel.chrom, panel.start) for panel in panels}) == 1
    ends = [panel.start + panel.bin_size * len(panel.predicted) for panel in panels]
    titles = [_title(panel.label) for panel in panels]
    above = _TITLE_LINE * max(title.count("<br>") + 1 for title in titles) + 10
    gap = above if shared else above + _AXIS
    inside = _ROW * len(panels) + gap * (len(panels) - 1)
    figure = make_subplots(len(panels), 1, shared_xaxes=shared, vertical_spacing=gap / inside)
    named: set[str] = set()
    for row, (panel, title) in enumerate(zip(panels, titles, strict=True), 1):
        end = max(ends) if shared else ends[row - 1]
        # panels that share an axis share the words below it
        bins = max(len(one.predicted) for one in (panels if shared else [panel]))
        joined = -(-bins // max(_LEAST_BINS, _MOST_BINS // len(panels)))
        unit, name = next((unit, name) for least, unit, name in UNITS if end - panel.start >= least)
        for trace in _traces(panel, joined, unit):
            trace.update(showlegend=trace.name in _ORDER and trace.name not in named)
            named.add(trace.name)
            figure.add_trace(trace, row, 1)
        words = f"{label(panel.chrom)}, position in {name}"
        words += "" if joined == 1 else f"; means over {joined} bins"
        last = row == len(panels)
        figure.update_xaxes(
            title_text=words if last or not shared else None,
            range=[panel.start / unit, end / unit],
            tickformat=",.12~g",
            nticks=7,
            zeroline=False,
            row=row,
            col=1,
        )
        lowest = None if _goes_below_zero(panel) else 0
        figure.update_yaxes(
            title={"text": f"signal per<br>{panel.bin_size} bp bin", "font_size": 12},
            # the wheel and the hand move along the genome alone
            fixedrange=True,
            range=[lowest, None],
            autorangeoptions={"include": 0},
            nticks=4,
            row=row,
            col=1,
        )
        top = figure.get_subplot(row, 1).yaxis.domain[1]
        figure.add_annotation(
            text=title,
            x=0,
            y=top,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            align="left",
            font_size=12,
            showarrow=False,
        )
    figure.update_layout(
        height=_TOOLS + above + inside + _AXIS + _LEGEND,
        margin={"t": _TOOLS + above, "b": _AXIS + _LEGEND, "l": 74, "r": 16},
        dragmode="pan",
        hovermode="x",
        # below everything: above a panel are its words
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
    )
    return figure


_ORDER = ("measured", "± 1 sd", "predicted")  # from the back to the front


def _traces(panel: SignalPanel, joined: int, unit: int) -> list[go.Scatter]:
    """What is drawn of a panel, from the back to the front; the last is seen by the pointer alone."""
    predicted = join_bins(panel.predicted, joined)
    measured = None if panel.measured is None else join_bins(panel.measured, joined)
    sd = None if panel.sd is None else join_bins(panel.sd, joined)
    bins = np.minimum(np.arange(len(predicted) + 1) * joined, len(panel.predicted))
    places = panel.start + panel.bin_size * bins
    edges = places / unit
    line, area = (tuple(round(255 * part) for part in color) for color in sns.color_palette(PALETTE)[:2])
    traces = []
    if measured is not None:
        traces.append(_filled(edges, np.zeros_like(measured), measured, area, 0.55, "measured"))
    if sd is not None:
        traces.append(_filled(edges, predicted - sd, predicted + sd, line, 0.3, "± 1 sd"))
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(predicted, 2)
    traces.append(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": f"rgb{line}", "width": 1.5},
            name="predicted",
            legendgroup="predicted",
            connectgaps=False,
            hoverinfo="skip",
        )
    )
    known = [("predicted", predicted), ("± 1 sd", sd), ("measured", measured)]
    texts = [
        "<br>".join(
            [
                f"{label(panel.chrom)}:{places[at]:,}-{places[at + 1]:,}",
                *(f"{name} {values[at]:.4g}" for name, values in known if values is not None),
            ]
        )
        for at in range(len(predicted))
    ]
    # of bins that are not predicted, what was measured
    height = predicted if measured is None else np.where(np.isfinite(predicted), predicted, measured)
    pointed = go.Scatter(
        x=(edges[1:] + edges[:-1]) / 2,
        y=height,
        mode="markers",
        marker={"opacity": 0, "size": 1, "color": f"rgb{line}"},
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        name="values",
    )
    return [*traces, pointed]


def _filled(
    edges: np.ndarray, low: np.ndarray, high: np.ndarray, color: tuple, opacity: float, name: str
) -> go.Scatter:
    """The steps between two lines as an area of its own for each run of bins that are known."""
    known = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else []
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    for number, run in enumerate(runs):
        along = np.repeat(edges[run[0] : run[-1] + 2], 2)[1:-1]
        gap = [np.full(min(number, 1), np.nan)]
        x += [*gap, along, along[::-1]]
        y += [*gap, np.repeat(high[run], 2), np.repeat(low[run], 2)[::-1]]
    return go.Scatter(
        x=np.concatenate(x) if x else [],
        y=np.concatenate(y) if y else [],
        mode="lines",
        line_width=0,
        fill="toself",
        fillcolor=f"rgba{(*color, opacity)}",
        name=name,
        legendgroup=name,
        hoverinfo="skip",
    )


def _goes_below_zero(panel: SignalPanel) -> bool:
    low = panel.predicted if panel.sd is None else panel.predicted - np.nan_to_num(panel.sd)
    drawn = np.concatenate([low, panel.predicted if panel.measured is None else panel.measured])
    return bool((drawn[np.isfinite(drawn)] < 0).any())


def _title(label: str) -> str:
    """A label as lines of a title, cut where it is too long."""
    text = label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}…"
    return "<br>".join(html.escape(line) for line in textwrap.wrap(unturned(text), _LINE_LETTERS)) or " "
