"""Tables, figures and text from the numbers of a grid.

    results   one row for each variant and seed: variant, seed, train_loss, pearson_mean, one column for each
              category, and `failure`, the reason where there are no numbers
    tracks    for each (variant, seed) the table that `track_table` made

A failed run stays in every table as a row of empty values; `seeds` says how many an average is of.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mlproject.reporting.style import PALETTE, STYLE, aligned, save
from mlproject.reporting.tracks import categories_in_order, mean_and_sd

Tracks = Mapping[tuple[str, int], pd.DataFrame]

_NOT_CATEGORIES = ("variant", "seed", "train_loss", "pearson_mean", "failure")
_BARS: dict[str, Any] = {
    "errorbar": "sd",
    "palette": PALETTE,
    "saturation": 1,
    "edgecolor": "0.3",
    "linewidth": 0.5,
    "err_kws": {"color": "0.25", "linewidth": 1.2},
}


# -- tables


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
        numbers = [mean_and_sd(rows[name]) for name in ("pearson_mean", *categories, "train_loss")]
        lines.append([str(variant), measured, *numbers])
    text = [aligned(lines)]
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
            save(figure, paths[-1])
    return paths


# -- figures


def variant_colors(variants: Sequence[str]) -> dict[str, str]:
    """A colour (#rrggbb) for each variant, the same in every figure and in the UI of MLflow."""
    return dict(zip(variants, sns.color_palette(PALETTE, len(variants)).as_hex(), strict=True))


@matplotlib.rc_context(STYLE)
def overall_figure(results: pd.DataFrame, organism: str) -> Figure:
    """Mean Pearson r by variant: bars from zero, and beside them each seed, on an axis that shows differences.

    Both carry the standard deviation over seeds, which the right margin has in numbers.
    """
    labels = _labels(results)
    rows = results.assign(label=results["variant"].map(labels))
    figure = Figure(figsize=(9.0, 1.4 + 0.36 * len(labels)), layout="constrained")
    bars, seeds = figure.subplots(1, 2, sharey=True)
    what = {"data": rows, "x": "pearson_mean", "y": "label"}
    sns.barplot(**what, hue="label", ax=bars, **_BARS)
    sns.pointplot(
        **what,
        errorbar="sd",
        err_kws={"linewidth": 1.2},
        color="0.25",
        marker="|",
        markersize=14,
        linestyle="none",
        ax=seeds,
    )
    sns.stripplot(
        **what, hue="label", palette=PALETTE, jitter=False, edgecolor="0.2", linewidth=0.6, ax=seeds
    )
    for place, (_, values) in enumerate(results.groupby("variant", sort=False)["pearson_mean"]):
        text = mean_and_sd(values)
        seeds.annotate(text, (1.02, place), xycoords=seeds.get_yaxis_transform(), va="center_baseline")
    bars.set(xlabel="Pearson r, mean over tracks\n(bars: mean over seeds; lines: ± 1 sd)", ylabel="")
    seeds.set(
        xlabel="the same Pearson r, by seed, axis not from zero\n(points: seeds; ticks: their mean; lines: ± 1 sd)"
    )
    seeds.margins(x=0.08)
    figure.suptitle(f"{organism}: mean Pearson r by variant")
    return figure


@matplotlib.rc_context(STYLE)
def category_figure(results: pd.DataFrame, organism: str, tracks: Tracks | None = None) -> Figure | None:
    """Pearson r by category: a group of bars for each, one bar a variant, with the deviation over seeds.

    With `tracks`, the axis says how many there are in each category. None where no run has a result.
    """
    if results["pearson_mean"].isna().all():
        return None
    counts = next(iter(tracks.values()))["category"].value_counts() if tracks else {}
    labels, categories = _labels(results), _categories(results)
    rows = results.assign(label=results["variant"].map(labels)).melt("label", categories)
    inches = max(4.5, 1.0 + len(categories) * (0.5 + 0.2 * len(labels)))
    figure = Figure(figsize=(inches + 1.6, 4.0), layout="constrained")
    axes = figure.subplots()
    sns.barplot(rows, x="variable", y="value", hue="label", ax=axes, **_BARS)
    axes.set_xticks(
        range(len(categories)),
        [f"{name}\nn = {counts[name]:,}" if name in counts else name for name in categories],
    )
    axes.set(
        xlabel="category (n: tracks)" if tracks else "category",
        ylabel="Pearson r, mean over tracks\n(bars: mean over seeds; lines: ± 1 sd)",
    )
    axes.set_title(f"{organism}: mean Pearson r by category")
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def scatter_figure(tracks: Tracks, organism: str, x: str = "vanilla", y: str = "all") -> Figure | None:
    """Each track's Pearson r, averaged over seeds, in variant `x` against `y`: one panel for each category.

    None where either variant has no tracks.
    """
    horizontal, vertical = _seed_average(tracks, x), _seed_average(tracks, y)
    if horizontal is None or vertical is None:
        return None
    both = horizontal.assign(y=vertical["pearson_r"]).rename(columns={"pearson_r": "x"})
    categories = categories_in_order(both["category"].unique().tolist())
    columns = min(len(categories), 4)
    rows = -(-len(categories) // columns)
    figure = Figure(figsize=(0.6 + 2.5 * columns, 0.9 + 2.7 * rows), layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    ends = [both[["x", "y"]].dropna().min(axis=None), both[["x", "y"]].dropna().max(axis=None)]
    for axes, category in zip(panels.flat, categories, strict=False):
        found = both[both["category"] == category]
        whole = found.dropna()
        size = float(np.clip(600 / max(len(whole), 1), 3, 16))
        sns.scatterplot(whole, x="x", y="y", s=size, alpha=0.45, linewidth=0, ax=axes)
        axes.plot(ends, ends, color="0.4", linewidth=0.8)
        missing = f" and {len(found) - len(whole):,} NaN" if len(whole) < len(found) else ""
        higher = f"'{y}' higher in {(whole['y'] > whole['x']).mean():.0%}" if len(whole) else "no result"
        axes.set(
            title=f"{category}, n = {len(whole):,}{missing}\n{higher}", xlabel="", ylabel="", aspect="equal"
        )
        axes.locator_params(nbins=4)
        axes.tick_params(labelbottom=True)  # also where the panel below stays empty
    for axes in panels.flat[len(categories) :]:
        axes.set_visible(False)
    figure.supxlabel(f"Pearson r of a track, {_seeds_of(tracks, x)}", fontsize="medium")
    figure.supylabel(f"Pearson r of a track,\n{_seeds_of(tracks, y)}", fontsize="medium")
    figure.suptitle(f"{organism}: variant '{x}' against variant '{y}', track by track")
    return figure


# -- what the above share


def _categories(results: pd.DataFrame) -> list[str]:
    return categories_in_order([name for name in results.columns if name not in _NOT_CATEGORIES])


def _labels(results: pd.DataFrame) -> dict[str, str]:
    """For each variant `rope (2 of 3 seeds)`: how many of its seeds have a result."""
    labels = {}
    for variant, values in results.groupby("variant", sort=False)["pearson_mean"]:
        of = "" if values.notna().all() else f" of {len(values)}"
        labels[variant] = f"{variant} ({values.count()}{of} seed{'' if len(values) == 1 else 's'})"
    return labels


def _seed_average(tracks: Tracks, variant: str) -> pd.DataFrame | None:
    tables = [table for (name, _), table in tracks.items() if name == variant]
    if not tables:
        return None
    values = pd.concat([table["pearson_r"].reset_index(drop=True) for table in tables], axis=1)
    return tables[0][["index", "category"]].reset_index(drop=True).assign(pearson_r=values.mean(axis=1))


def _seeds_of(tracks: Tracks, variant: str) -> str:
    count = sum(name == variant for name, _ in tracks)
    return f"{variant} (mean of {count} seed{'' if count == 1 else 's'})"
