"""Tables and figures of joint trainings: what tracks add to MPRA, and measured against predicted activity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlproject.reporting.activities import with_interval
from mlproject.reporting.style import PALETTE, STYLE, aligned, as_written, save

# What is drawn and printed of a training: number, what it is called.
NUMBERS = {
    "pearson/activity": "activity",
    "pearson/activity_hidden": "activity, labels hidden",
    "pearson/coverage": "coverage",
}
_LINES = {
    "kmers": ("5-mer ridge", ":"),
    "gc": ("GC content", "-."),
    "ceiling": ("ceiling of replicates", "--"),
}
_MARKERS = "os^DvPX*<>"
_MOST_BESIDE = 3  # settings and modalities, of which the names fit under a panel if they have so many letters
_MOST_LETTERS = 24


def numbers_line(metrics: Mapping[str, float]) -> str:
    """Those of `NUMBERS` that a training has, in one line."""
    found = [f"{label} r {metrics[name]:.3f}" for name, label in NUMBERS.items() if name in metrics]
    return ", ".join(found) or "done"


def joint_text(results: pd.DataFrame) -> str:
    """A table for the terminal: each setting and modality, means over seeds of held-out Pearson r with their sd."""
    there = [name for name in NUMBERS if name in results]
    lines = [["setting", "modalities", "seeds", *(NUMBERS[name] for name in there)]]
    for (setting, modalities), own in results.groupby(["setting", "modalities"], sort=False):
        cells = [_mean_sd(own[name].to_numpy(np.float64)) for name in there]
        lines.append([setting or "-", modalities, str(len(own)), *cells])
    return aligned(lines)


def differences_text(differences: pd.DataFrame, first: str, second: str) -> str:
    """Lines that say what the first modalities bring, with intervals."""
    lines = []
    for row in differences.itertuples():
        interval = (
            f"95% interval {row.low:.3f} to {row.high:.3f}, {row.seeds} seeds, paired"
            if np.isfinite(row.low)
            else "one seed: no interval"
        )
        where = f" ({row.setting})" if row.setting else ""
        lines.append(
            f"{first} - {second}{where}, {NUMBERS.get(row.number, row.number)}: {row.difference:+.3f} ({interval})"
        )
    return "\n".join(lines)


def cell_types_text(comparison: pd.DataFrame, names: dict[str, str], most: int = 12) -> str:
    """A table for the terminal: r of each predictor by cell type with intervals, and the ceiling."""
    lines = [["cell type", "labels", "n", "ceiling", *names.values()]]
    of_cells = list(comparison.groupby(["labels", "cell_type"], sort=True))
    for (labels, cell_type), own in of_cells[:most]:
        by_name = own.set_index("predictor")
        cells = [_pearson(by_name.loc[name]) if name in by_name.index else "-" for name in names]
        first = own.iloc[0]
        ceiling = "-" if np.isnan(first["ceiling"]) else f"{first['ceiling']:.3f}"
        lines.append([str(cell_type), str(labels), str(first["sequences"]), ceiling, *cells])
    more = len(of_cells) - most
    return aligned(lines) + (f"\n... and {more} more cell types" if more > 0 else "")


def write_joint_figure(results: pd.DataFrame, title: str, path: Path) -> Path:
    """Saves `joint_figure` and returns its path."""
    return save(joint_figure(results, title), path)


@matplotlib.rc_context(STYLE)
def joint_figure(results: pd.DataFrame, title: str) -> Figure:
    """Held-out Pearson r of every training, a panel for each number; a line joins the trainings of one seed.

    Up to three settings and modalities with short names are side by side; others are below each other, with their names
    at the left. Baselines are drawn as a line at each of them.

    Args:
        results: a row for each training: setting, modalities, seed, and any of `NUMBERS`, `pearson/kmers` and so on.
        title: what was trained.
    """
    there = [name for name in NUMBERS if name in results and results[name].notna().any()]
    settings = list(dict.fromkeys(results["setting"]))
    columns = [
        (setting, modalities)
        for setting in settings
        for modalities in dict.fromkeys(results[results["setting"] == setting]["modalities"])
    ]
    words = [
        _shortened(f"{setting} {modalities}" if setting else modalities) for setting, modalities in columns
    ]
    below = len(columns) > _MOST_BESIDE or sum(map(len, words)) > _MOST_LETTERS
    wide = 3.0 * len(there) + 1.5 + (0.08 * max(map(len, words)) if below else 0.0)
    high = max(3.8, 1.2 + 0.25 * len(columns) * below, 0.8 + 0.2 * (results["seed"].nunique() + len(_LINES)))
    figure = Figure(figsize=(max(wide, 4.0), high), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(1, len(there)), sharey=below))
    for axes, name in zip(panels, there, strict=False):
        _draw_seeds(axes, results, name, columns, below)
        _reference_lines(axes, results, name, columns, below)
        axes.set_title(NUMBERS[name])
        if below:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        else:
            axes.set_xticks(range(len(columns)), words)
            axes.set_xlim(-0.4, len(columns) - 0.6)
    if not there:
        panels[0].set_axis_off()
        panels[0].text(
            0.5, 0.5, "no r is defined:\nat least 3 sequences are needed", ha="center", va="center"
        )
    if there and below:
        panels[0].set_yticks(range(len(columns)), words)
        panels[0].set_ylim(len(columns) - 0.4, -0.6)
        figure.supxlabel("Pearson r, held out", fontsize="medium")
    elif there:
        panels[0].set_ylabel("Pearson r, held out")
    if there:
        handles, labels = _legend(figure)
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(as_written(f"{title}, n = {len(results)} trainings"))
    return figure


def _draw_seeds(
    axes: Axes, results: pd.DataFrame, name: str, columns: Sequence[tuple[str, str]], below: bool
) -> None:
    """A line for each seed and setting, through its modalities."""
    colors = sns.color_palette(PALETTE, results["seed"].nunique())
    value = results.set_index(["setting", "modalities", "seed"])[name]
    for number, seed in enumerate(sorted(results["seed"].unique())):
        for setting in dict.fromkeys(setting for setting, _ in columns):
            points = [
                (place, float(value[(*column, seed)]))
                for place, column in enumerate(columns)
                if column[0] == setting and (*column, seed) in value.index
            ]
            if points:
                places, values = zip(*points, strict=True)
                axes.plot(
                    *((values, places) if below else (places, values)),
                    color=colors[number],
                    marker=_MARKERS[number % len(_MARKERS)],
                    linewidth=0.8,
                    markersize=5,
                    label=f"seed {seed}",
                )


def _shortened(text: str) -> str:
    most = 70
    return as_written(text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}")


def _reference_lines(
    axes: Axes, results: pd.DataFrame, name: str, columns: Sequence[tuple[str, str]], below: bool
) -> None:
    kind, _, what = name.partition("/")
    ending = "_hidden" if what.endswith("_hidden") else ""
    if not what.startswith("activity"):
        return
    draw = axes.vlines if below else axes.hlines
    groups = dict(list(results.groupby(["setting", "modalities"])))
    for key, (label, style) in _LINES.items():
        column = f"ceiling/activity{ending}" if key == "ceiling" else f"{kind}/{key}{ending}"
        found = [groups[one][column].mean() if column in results else np.nan for one in columns]
        places = np.flatnonzero(np.isfinite(found))
        if len(places):
            values = np.array(found)[places]
            draw(values, places - 0.4, places + 0.4, color="0.35", linestyle=style, linewidth=1, label=label)


def _legend(figure: Figure) -> tuple[list, list[str]]:
    found: dict = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def write_prediction_figure(table: pd.DataFrame, title: str, path: Path) -> Path:
    """Saves `prediction_figure` and returns its path."""
    return save(prediction_figure(table, title), path)


@matplotlib.rc_context(STYLE)
def prediction_figure(table: pd.DataFrame, title: str) -> Figure:
    """Measured against predicted activity of held-out sequences: cell types with labels, and the hidden one.

    Args:
        table: columns labels, activity, predicted, cell_type.
        title: which training.
    """
    kinds = [kind for kind in ("seen", "hidden") if (table["labels"] == kind).any()]
    figure = Figure(figsize=(4.2 * max(1, len(kinds)), 4.0), layout="constrained")
    ends = [table[["activity", "predicted"]].min(axis=None), table[["activity", "predicted"]].max(axis=None)]
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, max(1, len(kinds)))), kinds, strict=False):
        own = table[table["labels"] == kind]
        if len(own) > 2000:
            shades = axes.hexbin(
                own["predicted"], own["activity"], gridsize=50, mincnt=1, bins="log", cmap="viridis"
            )
            figure.colorbar(shades, ax=axes, label="measurements", format="%g")  # powers of ten need a font
        else:
            sns.scatterplot(
                x=own["predicted"], y=own["activity"], s=10, alpha=0.5, linewidth=0, ax=axes, color="C0"
            )
        axes.plot(ends, ends, color="0.5", linewidth=0.8, zorder=0.9)  # above the grid
        cells = list(dict.fromkeys(own["cell_type"]))
        name = cells[0] if len(cells) == 1 else f"{len(cells)} cell types"
        axes.set(
            xlabel="predicted activity (units of the table)",
            ylabel="measured activity",
            title=as_written(f"{name}, labels {kind}, n = {len(own)}"),
        )
    figure.suptitle(as_written(title))
    return figure


def _mean_sd(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "-"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _pearson(row: pd.Series) -> str:
    return with_interval(row["pearson"], row["pearson_low"], row["pearson_high"])
