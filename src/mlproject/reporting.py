"""Tables, figures and text from the numbers of a grid: the only user of matplotlib.

    results   one row for each variant and seed: variant, seed, train_loss, pearson_mean, one column for each
              category, and `failure`, the reason where there are no numbers
    tracks    for each (variant, seed) the table that `track_table` made

A failed run stays in every table as a row of empty values; `seeds` says how many an average is of.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Tracks = Mapping[tuple[str, int], pd.DataFrame]

_NOT_CATEGORIES = ("variant", "seed", "train_loss", "pearson_mean", "failure")
_FIRST_CATEGORIES = ("DNASE", "CAGE", "CHIP", "ATAC")
# Okabe and Ito, https://jfly.uni-koeln.de/color/: told apart with any colour vision
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
    "figure.dpi": 150,
}


# -- tables


def track_table(
    targets: pd.DataFrame, pearson: np.ndarray, r2: np.ndarray, n: int | np.ndarray
) -> pd.DataFrame:
    """One row for each track: index, identifier, description, category, pearson_r, r2, n.

    Args:
        targets: columns index, identifier, description and category, in the order of the arrays.
        pearson: shape=(tracks,); NaN where the track or its prediction does not vary.
        r2: shape=(tracks,).
        n: values that each number is of.
    """
    table = targets[["index", "identifier", "description", "category"]].reset_index(drop=True)
    return table.assign(pearson_r=np.asarray(pearson), r2=np.asarray(r2), n=n)


def category_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Pearson r by category: category, tracks, nan_tracks, mean, median, std (of a sample), min, max.

    `tracks` counts all of them; the statistics leave the NaN ones out.
    """
    groups = table.groupby("category")["pearson_r"]
    summary = groups.agg(["mean", "median", "std", "min", "max"])
    summary.insert(0, "nan_tracks", groups.size() - groups.count())
    summary.insert(0, "tracks", groups.size())
    return summary.loc[_in_order(list(summary.index))].reset_index()


def grid_tables(results: pd.DataFrame, organism: str) -> dict[str, pd.DataFrame]:
    """The tables of a grid by file name, laid out as the published ablation's, with columns added last.

    `experiment_results_ORGANISM_all_seeds.csv`, `..._seed_N.csv` for each seed, `..._avg.csv` and
    `..._categories.csv`: means over the seeds that have numbers.
    """
    stem, pearson, loss = (
        f"experiment_results_{organism}",
        f"pearson_{organism}_mean",
        f"train_loss_{organism}",
    )
    rows = results.rename(columns={"variant": "experiment", "train_loss": loss, "pearson_mean": pearson})
    if "failure" not in rows:
        rows = rows.assign(failure=None)
    rows = rows.sort_values(["seed", "experiment"], ignore_index=True)
    tables = {f"{stem}_all_seeds.csv": rows[["seed", "experiment", loss, pearson, "failure"]]}
    for seed, of_seed in rows.groupby("seed"):
        chosen = of_seed[["experiment", "seed", loss, pearson, "failure"]]
        tables[f"{stem}_seed_{seed}.csv"] = chosen.reset_index(drop=True)
    groups = rows.groupby("experiment")
    average = groups[[pearson, loss]].mean()
    average[f"pearson_{organism}_sd"] = groups[pearson].std()
    average["seeds"] = groups[pearson].count()
    tables[f"{stem}_avg.csv"] = average.reset_index()
    categories = groups[_categories(results)].mean().add_suffix("_mean")
    tables[f"{stem}_categories.csv"] = categories.reset_index()
    return tables


def results_text(results: pd.DataFrame) -> str:
    """A table for the terminal: Pearson r by variant and category, mean and standard deviation over seeds."""
    categories = _categories(results)
    header = ["variant", "seeds", "mean", *categories, "train loss"]
    lines = [header]
    for variant, rows in results.groupby("variant", sort=False):
        measured = f"{rows['pearson_mean'].count()}/{len(rows)}"
        numbers = [_mean_and_sd(rows[name]) for name in ("pearson_mean", *categories, "train_loss")]
        lines.append([str(variant), measured, *numbers])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    if "failure" in results:
        failed = results[results["failure"].notna()]
        text += [f"failed: {row.variant} seed {row.seed}: {row.failure}" for row in failed.itertuples()]
    return "\n".join(text)


def write_grid(results: pd.DataFrame, tracks: Tracks, organism: str, folder: Path) -> list[Path]:
    """Writes the tables and figures of a grid to `folder`, and returns their paths.

    Figures: `overall_ORGANISM.png`, `categories_ORGANISM.png` and, where there are tracks of both,
    `scatter_ORGANISM.png` of `vanilla` against `all`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in grid_tables(results, organism).items():
        paths.append(folder / name)
        table.to_csv(paths[-1], index=False)
    figures = {
        f"overall_{organism}.png": overall_figure(results, organism),
        f"categories_{organism}.png": category_figure(results, organism, tracks),
        f"scatter_{organism}.png": scatter_figure(tracks, organism),
    }
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / name)
            with _style():
                figure.savefig(paths[-1])
    return paths


# -- figures


def variant_colors(variants: Sequence[str]) -> dict[str, str]:
    """A colour (#RRGGBB) for each variant, the same in every figure and in the UI of MLflow."""
    return {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(variants)}


def overall_figure(results: pd.DataFrame, organism: str) -> Figure:
    """Mean Pearson r by variant: bars, a point for each seed, and the standard deviation over seeds."""
    variants = _variants(results)
    colors = variant_colors(variants)
    with _style():
        figure = Figure(figsize=(6.5, 1.3 + 0.42 * len(variants)), layout="constrained")
        axes = figure.subplots()
        for place, variant in enumerate(variants):
            values = results.loc[results["variant"] == variant, "pearson_mean"]
            found = values.dropna()
            if found.empty:
                axes.text(0, place, " no result", va="center", color="0.4", style="italic")
                continue
            axes.barh(place, found.mean(), height=0.7, color=colors[variant], alpha=0.75, edgecolor="0.3")
            if len(found) > 1:
                axes.errorbar(found.mean(), place, xerr=found.std(), color="0.25", capsize=4, linewidth=1.2)
            axes.plot(
                found, np.full(len(found), place), "o", color="white", markeredgecolor="0.1", markersize=4.5
            )
        axes.set_yticks(range(len(variants)), [_with_count(results, variant) for variant in variants])
        axes.set_ylim(len(variants) - 0.4, -0.6)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlabel("Pearson r, mean over tracks (points: seeds; bars: their mean; lines: ± 1 sd)")
        axes.set_title(f"{organism}: mean Pearson r by variant", loc="left")
    return figure


def category_figure(results: pd.DataFrame, organism: str, tracks: Tracks | None = None) -> Figure:
    """Pearson r by category: a group of bars for each, one bar a variant, with the deviation over seeds.

    With `tracks`, the axis says how many there are in each category.
    """
    counts = next(iter(tracks.values()))["category"].value_counts() if tracks else pd.Series(dtype=int)
    variants, categories = _variants(results), _categories(results)
    colors = variant_colors(variants)
    width = 0.82 / max(len(variants), 1)
    with _style():
        inches = max(4.5, 1.0 + len(categories) * (0.5 + 0.2 * len(variants)))
        figure = Figure(figsize=(inches + 1.6, 4.0), layout="constrained")
        axes = figure.subplots()
        for index, variant in enumerate(variants):
            rows = results[results["variant"] == variant]
            places = np.arange(len(categories)) + (index - (len(variants) - 1) / 2) * width
            axes.bar(
                places,
                rows[categories].mean().to_numpy(float),
                width * 0.92,
                yerr=rows[categories].std().fillna(0).to_numpy(float),
                error_kw={"elinewidth": 1.0, "ecolor": "0.35"},
                color=colors[variant],
                edgecolor="0.3",
                linewidth=0.5,
                label=_with_count(results, variant),
            )
        axes.axhline(0, color="0.3", linewidth=0.8)
        labels = [f"{name}\n{counts[name]:,} tracks" if name in counts else name for name in categories]
        axes.set_xticks(range(len(categories)), labels)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("Pearson r, mean over tracks\n(lines: ± 1 sd over seeds)")
        axes.set_title(f"{organism}: mean Pearson r by category", loc="left")
        figure.legend(loc="outside right upper")
    return figure


def scatter_figure(tracks: Tracks, organism: str, x: str = "vanilla", y: str = "all") -> Figure | None:
    """Each track's Pearson r, averaged over seeds, in variant `x` against `y`: one panel for each category.

    None where either variant has no tracks.
    """
    horizontal, vertical = _seed_average(tracks, x), _seed_average(tracks, y)
    if horizontal is None or vertical is None:
        return None
    both = horizontal.assign(y=vertical["pearson_r"]).rename(columns={"pearson_r": "x"})
    categories = _in_order(both["category"].unique().tolist())
    columns = min(len(categories), 4)
    rows = -(-len(categories) // columns)
    drawn = both[["x", "y"]].to_numpy()
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    low, high = (drawn.min(), drawn.max()) if drawn.size else (0.0, 1.0)
    margin = 0.05 * max(high - low, 0.02)
    with _style():
        figure = Figure(figsize=(0.6 + 2.6 * columns, 0.9 + 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, category in zip(panels.flat, categories, strict=False):
            _scatter(axes, both[both["category"] == category], y)
            axes.set_title(category)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
            axes.plot(
                [low - margin, high + margin], [low - margin, high + margin], color="0.4", linewidth=0.8
            )
        for axes in panels.flat[len(categories) :]:
            axes.set_visible(False)
        figure.supxlabel(f"Pearson r of a track, {_seeds_of(tracks, x)}", fontsize=9)
        figure.supylabel(f"Pearson r of a track,\n{_seeds_of(tracks, y)}", fontsize=9)
        figure.suptitle(f"{organism}: {x} against {y}, track by track", fontsize=10)
    return figure


def _scatter(axes: Axes, found: pd.DataFrame, y: str) -> None:
    whole = found.dropna(subset=["x", "y"])
    size = float(np.clip(600 / max(len(whole), 1), 3, 16))
    axes.scatter(whole["x"], whole["y"], s=size, color=_COLORS[5], alpha=0.45, linewidths=0, rasterized=True)
    note = f"n = {len(whole):,}"
    if len(whole):
        note += f"\n{y} higher: {(whole['y'] > whole['x']).mean():.0%}"
    if len(whole) < len(found):
        note += f"\nNaN: {len(found) - len(whole):,}"
    axes.text(0.04, 0.97, note, transform=axes.transAxes, va="top", fontsize=8, bbox=_NOTE)


_NOTE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


# -- what the above share


def _variants(results: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(results["variant"]))


def _categories(results: pd.DataFrame) -> list[str]:
    return _in_order([name for name in results.columns if name not in _NOT_CATEGORIES])


def _in_order(categories: list[str]) -> list[str]:
    """The four categories of the published data first, in its order; then the others as they come."""
    return [name for name in _FIRST_CATEGORIES if name in categories] + [
        name for name in categories if name not in _FIRST_CATEGORIES
    ]


def _with_count(results: pd.DataFrame, variant: str) -> str:
    """`rope (2 of 3 seeds)`: how many of a variant's seeds have a result."""
    values = results.loc[results["variant"] == variant, "pearson_mean"]
    of = "" if values.notna().all() else f" of {len(values)}"
    return f"{variant} ({values.count()}{of} seed{'' if len(values) == 1 else 's'})"


def _mean_and_sd(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "missing"
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def _seed_average(tracks: Tracks, variant: str) -> pd.DataFrame | None:
    tables = [table for (name, _), table in tracks.items() if name == variant]
    if not tables:
        return None
    values = pd.concat([table["pearson_r"].reset_index(drop=True) for table in tables], axis=1)
    return tables[0][["index", "category"]].reset_index(drop=True).assign(pearson_r=values.mean(axis=1))


def _seeds_of(tracks: Tracks, variant: str) -> str:
    count = sum(name == variant for name, _ in tracks)
    return f"{variant} (mean of {count} seed{'' if count == 1 else 's'})"
