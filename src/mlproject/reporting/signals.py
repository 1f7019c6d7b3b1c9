"""Pictures of signal along the genome: what is predicted, how sure that is, and what was measured."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mlproject.reporting.style import PALETTE, STYLE, as_written, save


class SignalPanel(NamedTuple):
    """One row of a picture: a track over a stretch of one chromosome. NaN is drawn as a gap."""

    label: str
    chrom: str
    start: int
    """Where the first bin begins, 0-based."""
    bin_size: int
    """In bp."""
    predicted: np.ndarray
    """`[bins]`."""
    sd: np.ndarray | None = None
    """Of what is predicted, `[bins]`."""
    measured: np.ndarray | None = None
    """`[bins]`."""


_MOST_BINS = 2_000  # more than there are points across a page: joined by their mean
MOST_LETTERS = 110  # of a label
UNITS = ((2_000_000, 1_000_000, "Mb"), (2_000, 1_000, "kb"), (0, 1, "bp"))  # from which length on


def write_signal_figure(panels: Sequence[SignalPanel], title: str, path: Path) -> Path:
    """Saves `signal_figure` and returns its path."""
    return save(signal_figure(panels, title), path)


def signal_pdf(panels: Sequence[SignalPanel], title: str) -> bytes:
    """`signal_figure` as a PDF file."""
    file = io.BytesIO()
    signal_figure(panels, title).savefig(file, format="pdf")
    return file.getvalue()


@matplotlib.rc_context(STYLE)
def signal_figure(panels: Sequence[SignalPanel], title: str) -> Figure:
    """One row for each panel: predicted is a line, its standard deviation a band, measured a filled area behind them.

    Panels that begin at one place of one chromosome share their horizontal axis. Of more than 2,000 bins as many as
    it takes are drawn as one, their mean; the axis says so.

    Args:
        panels: one or more, top to bottom.
        title: of the picture.
    """
    places = {(panel.chrom, panel.start) for panel in panels}
    figure = Figure(figsize=(9.0, 0.9 + 1.35 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), 1, squeeze=False, sharex=len(places) == 1)[:, 0]
    ends = [panel.start + panel.bin_size * len(panel.predicted) for panel in panels]
    for axes, panel in zip(rows, panels, strict=True):
        # those that share an axis share its unit
        length = (
            max(ends) - panel.start if len(places) == 1 else panel.bin_size * max(1, len(panel.predicted))
        )
        words = _draw(axes, panel, length)
        if len(places) > 1 or axes is rows[-1]:
            axes.set_xlabel(words)
    sizes = sorted({panel.bin_size for panel in panels})
    figure.supylabel(f"signal per bin of {' or '.join(map(str, sizes))} bp", fontsize="medium")
    figure.suptitle(as_written(title))
    shown = {
        label: handle
        for axes in rows
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if list(shown) != ["predicted"]:
        figure.legend(shown.values(), shown.keys(), loc="outside lower right", ncols=3, frameon=False)
    return figure


def _draw(axes: Axes, panel: SignalPanel, length: int) -> str:
    """Draws one panel and returns the words below its horizontal axis."""
    joined = -(-len(panel.predicted) // _MOST_BINS)
    unit, name = next((unit, name) for least, unit, name in UNITS if length >= least)
    predicted = join_bins(panel.predicted, joined)
    bins = np.minimum(np.arange(len(predicted) + 1) * joined, len(panel.predicted))
    edges = (panel.start + panel.bin_size * bins) / unit
    line, area = sns.color_palette(PALETTE)[0], sns.color_palette(PALETTE)[1]
    outline: dict[str, Any] = {"baseline": None, "color": line, "linewidth": 1.0, "zorder": 3}
    if panel.measured is not None:
        measured = join_bins(panel.measured, joined)
        axes.stairs(
            measured, edges, fill=True, color=area, alpha=0.55, linewidth=0, zorder=1, label="measured"
        )
    if panel.sd is not None:
        sd = join_bins(panel.sd, joined)
        low, high = (np.append(ends, ends[-1:]) for ends in (predicted - sd, predicted + sd))
        axes.fill_between(
            edges, low, high, step="post", color=line, alpha=0.3, linewidth=0, zorder=2, label="± 1 sd"
        )
    axes.stairs(predicted, edges, **outline, label="predicted")
    axes.set_title(_label(panel.label), loc="left", fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlim(edges[0], edges[-1])
    drawn = np.concatenate([part for part in (panel.predicted, panel.measured) if part is not None])
    if (drawn[np.isfinite(drawn)] >= 0).all():
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.05 if top > 0 else 1)
    note = "" if joined == 1 else f"; drawn as means over {joined} bins"
    return f"{panel.chrom}, position in {name}{note}"


def join_bins(values: np.ndarray, joined: int) -> np.ndarray:
    """Means of so many values next to each other, the last of what is left; NaN only where all are."""
    if joined == 1:
        return np.asarray(values, np.float64)
    padded = np.full(-(-len(values) // joined) * joined, np.nan)
    padded[: len(values)] = values
    rows = padded.reshape(-1, joined)
    count = np.isfinite(rows).sum(1)
    return np.where(count, np.nansum(rows, axis=1) / np.maximum(count, 1), np.nan)


def _label(text: str) -> str:
    return as_written(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…")
