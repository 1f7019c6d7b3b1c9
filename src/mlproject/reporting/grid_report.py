"""What was learnt from a grid: sentences, tables with intervals, and figures to look into."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from mlproject.reporting import effects, plots, words
from mlproject.reporting.cards import Evaluation, Told
from mlproject.reporting.grids import variant_colors
from mlproject.reporting.pages import Report, Section
from mlproject.reporting.tracks import categories_in_order

MOST_TRACKS = 10_000  # of the scatter: a page with more is slow to open
_DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")
_SIGNIFICANT = 0.05
_UNDEFINED = "No track has a Pearson r in any run: what is predicted, or measured, does not vary"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs of a grid, and what is told of them; what follows from them is computed once."""

    title: str
    organism: str
    scores: pd.DataFrame
    """variant, seed, track (its name), score (Pearson r), and category where it is known; one track, `mean`, where only
    means over tracks are."""
    categories: pd.DataFrame
    """variant, then the mean Pearson r of each category; without columns beside variant where they are not known."""
    curves: pd.DataFrame
    """variant, seed, series, step, value."""
    seconds: pd.DataFrame
    """variant, seed, and what took how long."""
    facts: Sequence[tuple[str, str]]
    """What is needed to repeat it: names and words."""

    @functools.cached_property
    def means(self) -> pd.DataFrame:
        """`variant_means` of the scores."""
        return effects.variant_means(self.scores)

    @functools.cached_property
    def effects(self) -> effects.Effects | str:
        """`effects` of the scores, or why there are none."""
        return effects.effects(self.scores)

    @functools.cached_property
    def category_effects(self) -> pd.DataFrame:
        """The same of the tracks of each category: category, tracks, and the table's columns; empty without any."""
        rows = []
        if "category" in self.scores:
            for category in categories_in_order(list(self.scores["category"].unique())):
                found = effects.effects(self.scores[self.scores["category"] == category])
                if not isinstance(found, str):
                    rows.append(found.table.assign(category=category, tracks=found.tracks))
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def summary(grid: Grid) -> list[str]:
    """Two sentences with numbers: which variant is first and whether variants differ; what modifications do."""
    means = grid.means
    if means.empty:
        return ["Which variant is best is not known.", f"{_UNDEFINED}."]
    best, seeds = means.iloc[0], int(means["seeds"].max())
    first = (
        f"Of {words.count(len(means), 'variant')} over {words.count(seeds, 'seed')}, {best['variant']} has the "
        f"highest mean Pearson r, {words.estimate(best['mean'], best['low'], best['high'])}"
    )
    anova = effects.anova(grid.scores)
    if anova is not None:
        differ = "variants differ" if anova.p < _SIGNIFICANT else "no variant is separated from the others"
        first += f"; {differ} (one-way ANOVA, F({anova.between}, {anova.within}) = {anova.f:.2f}, p = {anova.p:.2f})"
    found = grid.effects
    if isinstance(found, str):
        return [f"{first}.", f"Effects of modifications are not known: {found}."]
    table = found.table
    said = [
        f"{row.effect} ({words.signed(row.difference)}, {row.low:.3f} to {row.high:.3f}, "
        f"adjusted p {words.p_value(row.p_adjusted)})"
        for row in table.itertuples()
    ]
    sure = [one for one, stands in zip(said, table["stands"], strict=True) if stands]
    largest = said[int(table["difference"].abs().argmax())]
    second = f"Of {words.count(len(table), 'effect')}, paired by seed, "
    second += (
        f"these stand after correction: {', '.join(sure)}"
        if sure
        else f"none stands after correction: the largest is {largest}"
    )
    if found.detectable is not None:
        second += (
            f"; an effect of {found.detectable.effect:.3f} would have been found in 4 of 5 such grids"
            if np.isfinite(found.detectable.effect)
            else "; so few runs could not have shown any"
        )
    return [f"{first}.", f"{second}."]


def tables(grid: Grid) -> dict[str, pd.DataFrame]:
    """The numbers of the page by name: `leaderboard`, and where they are known `effects` and `category_effects`."""
    found = {"leaderboard": grid.means, "category_effects": grid.category_effects}
    if not isinstance(grid.effects, str):
        found["effects"] = grid.effects.table
    return {name: table for name, table in found.items() if not table.empty}


def _unlisted(grid: Grid) -> str:
    absent = sorted(set(grid.scores["variant"]) - set(grid.means["variant"]))
    return f" Not listed, as none of their numbers is defined: {', '.join(absent)}." if absent else ""


def grid_report(grid: Grid) -> Report:
    """Leaderboard, effects, categories, tracks, curves and times, each where it is known."""
    sections = [
        Section(
            "Leaderboard",
            ("variant", "seeds", "mean Pearson r", "95% interval", "sd over seeds"),
            [
                (
                    str(row.variant),
                    str(row.seeds),
                    f"{row.mean:.4f}",
                    words.interval(row.low, row.high, 4),
                    words.number(row.sd, 4),
                )
                for row in grid.means.itertuples()
            ],
            f"Intervals of Student's t over seeds.{_unlisted(grid)}",
            leaderboard_plot(grid),
        ),
        *_effect_sections(grid),
        Section("Variants by category", figure=category_plot(grid)),
        Section("Track by track", figure=_scatter(grid)),
        Section("Training", figure=curves_plot(grid.curves)),
        Section("Where time went", figure=seconds_plot(grid.seconds)),
    ]
    known = [section for section in sections if section.figure is not None or section.note or section.rows]
    return Report(grid.title, summary(grid), known, grid.facts)


def grid_told(grid: Grid, runs: pd.DataFrame) -> Told:
    """The report, its numbers, and what belongs in the card of the best model.

    Args:
        grid: what is told of.
        runs: run_id, variant, seed of its trainings; none for a grid of files, which has no model.
    """
    best, chosen = "", ""
    if not (runs.empty or grid.means.empty):
        scores = grid.scores.groupby(["variant", "seed"], as_index=False)["score"].mean()
        own = runs.merge(scores[scores["variant"] == grid.means["variant"].iloc[0]], on=["variant", "seed"])
        top = own.loc[own["score"].fillna(-2).idxmax()]
        best = str(top["run_id"])
        chosen = f"It is {top['variant']}, seed {top['seed']}: the variant with the highest mean r of {len(grid.means)}"
        chosen += f", and of its {len(own)} seeds the one with the highest r." if len(own) > 1 else "."
    return Told(grid_report(grid), tables(grid), best, chosen, _evaluations(grid), _limits(grid))


def _evaluations(grid: Grid) -> list[Evaluation]:
    if grid.means.empty:
        return []
    top, tracks = grid.means.iloc[0], f"{_tracks(grid)} tracks"
    what, seeds = "Pearson r of a track, mean", words.count(int(top["seeds"]), "seed")
    found = [Evaluation(what, top["mean"], top["low"], top["high"], f"{seeds}, {tracks}")]
    if "category" in grid.scores:
        own = grid.scores[grid.scores["variant"] == top["variant"]]
        for category in categories_in_order(list(own["category"].unique())):
            part = own[own["category"] == category]
            for row in effects.variant_means(part).itertuples(index=False):
                n = f"{seeds}, {part['track'].nunique():,} tracks"
                found.append(Evaluation(what, row.mean, row.low, row.high, n, str(category)))
    return found


def _limits(grid: Grid) -> list[str]:
    if grid.means.empty:
        return [f"{_UNDEFINED}."]
    top = grid.means.iloc[0]
    limits = [f"{words.count(int(top['seeds']), 'seed')} of this variant."]
    anova = effects.anova(grid.scores)
    if anova is None or anova.p >= _SIGNIFICANT:
        limits.append("It is not shown that it is better than the other variants of its grid.")
    found = grid.effects
    if not isinstance(found, str) and not found.table["stands"].all():
        names = found.table.loc[~found.table["stands"], "effect"]
        limits.append(f"Effects that do not stand after correction: {', '.join(names)}.")
    return limits


def _effect_sections(grid: Grid) -> list[Section]:
    heading, found = "Effects of modifications", grid.effects
    if isinstance(found, str):
        return [Section(heading, note=f"None: {found}.")]
    columns = ("effect", "difference", "95% interval", "p", "adjusted p")
    sections = [
        Section(heading, columns, _effect_rows(found.table), effects_text(found), effects_plot(found))
    ]
    by_category = grid.category_effects
    if not by_category.empty:
        rows = [
            (row.category, f"{row.tracks:,}", *one)
            for row, one in zip(by_category.itertuples(), _effect_rows(by_category), strict=True)
        ]
        note = "p is adjusted within a category."
        sections.append(Section("By category", ("category", "tracks", *columns), rows, note, minor=True))
    return sections


def effects_text(found: effects.Effects) -> str:
    """How effects are to be read, and the smallest that could have been found."""
    said = (
        "An effect is the mean of the runs with a modification minus that of those without it; of two or three, of "
        "those that lack an even number of them minus the others. Intervals: a bootstrap over seeds and tracks at "
        f"once, with the quantile of Student's t for {found.seeds} seeds. p: permutations of variants within seeds; "
        "adjusted: beside the largest of all effects. An effect stands where its interval leaves 0 out and its "
        "adjusted p is below 0.05."
    )
    if found.detectable is not None:
        said += f" A run varies by {found.detectable.sd:.4f} (sd, beside variant and seed). " + (
            f"The smallest difference that is found in 4 of 5 such grids: {found.detectable.effect:.4f} of an effect, "
            f"{found.detectable.pair:.4f} of two variants."
            if np.isfinite(found.detectable.effect)
            else "Permutations of so few runs are too few for any effect to stand, however large."
        )
    return said + (f" Left out: {found.left_out}." if found.left_out else "")


def _effect_rows(table: pd.DataFrame) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            row.effect,
            words.signed(row.difference, 4),
            words.interval(row.low, row.high, 4),
            words.p_value(row.p),
            words.p_value(row.p_adjusted),
        )
        for row in table.itertuples()
    ]


# -- figures


def leaderboard_plot(grid: Grid) -> go.Figure:
    """Each run's mean over tracks by variant, and each variant's mean with its 95% interval, best on top."""
    runs = grid.scores.groupby(["variant", "seed"], as_index=False)["score"].mean().dropna()
    return plots.means_plot(grid.means, runs, f"mean Pearson r over tracks (n = {_tracks(grid)})")


def effects_plot(found: effects.Effects) -> go.Figure:
    """Effects with their 95% intervals; those that stand are filled."""
    table = found.table[::-1]
    tracks = words.count(found.tracks, "track") if found.tracks > 1 else "means over tracks"
    figure = go.Figure()
    figure.add_scatter(
        x=table["difference"],
        y=table["effect"],
        mode="markers",
        marker={
            "size": 10,
            "color": "#0072B2",
            "symbol": ["circle" if stands else "circle-open" for stands in table["stands"]],
        },
        error_x={"type": "data", "array": table["high"] - table["difference"], "color": "#0072B2"},
        showlegend=False,
    )
    figure.add_vline(x=0, line_color=plots.INK, line_width=1)
    figure.update_xaxes(
        title=f"difference in Pearson r,<br>95% interval ({words.count(found.seeds, 'seed')}, {tracks};<br>"
        "filled: stands)"
    )
    return plots.laid_out(figure)


def category_plot(grid: Grid) -> go.Figure | None:
    """Mean Pearson r of variants, best on top, by category; None where categories are not known."""
    names = [name for name in grid.categories if name != "variant"]
    if not names:
        return None
    names = categories_in_order(names)
    values = grid.categories.set_index("variant").reindex(grid.means["variant"])[names]
    counts = {}
    if "category" in grid.scores:
        counts = grid.scores.drop_duplicates("track")["category"].value_counts()
    figure = go.Figure(
        go.Heatmap(
            z=values.to_numpy(),
            x=[plots.label(name) + (f"<br>n = {counts[name]:,}" if name in counts else "") for name in names],
            y=plots.labels(list(values.index)),
            colorscale="Viridis",
            texttemplate="%{z:.3f}",
            colorbar={"title": "Pearson r"},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="category (n: tracks)")
    return plots.laid_out(figure)


def _scatter(grid: Grid) -> go.Figure | None:
    wide = grid.scores.pivot_table(
        index="track", columns="variant", values="score", aggfunc="mean", sort=False
    )
    if len(wide) < 2 or wide.shape[1] < 2 or len(wide) > MOST_TRACKS:
        return None
    names = list(wide.columns)
    first = names.index("vanilla") if "vanilla" in names else 0
    second = next(number for number in range(len(names)) if number != first)
    if "all" in names and names.index("all") != first:
        second = names.index("all")
    values = [wide[name].round(4).to_numpy() for name in names]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    figure = go.Figure()
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line={"color": "#888"}, showlegend=False)
    figure.add_scatter(
        x=values[first],
        y=values[second],
        mode="markers",
        marker={"size": 5, "opacity": 0.5, "color": "#0072B2"},
        text=[plots.label(name) for name in wide.index],
        hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        showlegend=False,
    )

    def menu(axis: str, active: int, place: float) -> dict[str, Any]:
        return {
            "buttons": [
                {
                    "label": plots.label(name),
                    "method": "update",
                    "args": [{axis: [own]}, {f"{axis}axis.title.text": _of(name)}, [1]],
                }
                for name, own in zip(names, values, strict=True)
            ],
            "active": active,
            "x": place,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
        }

    def _of(name: object) -> str:
        return f"Pearson r of a track, {plots.label(name)} (n = {len(wide):,})"

    figure.update_layout(updatemenus=[menu("x", first, 0.0), menu("y", second, 0.5)], height=560)
    figure.update_xaxes(title=_of(names[first]), constrain="domain")
    figure.update_yaxes(title=_of(names[second]), scaleanchor="x", constrain="domain")
    return plots.laid_out(figure)


def curves_plot(curves: pd.DataFrame) -> go.Figure | None:
    """Series by step, a row for each, a line for each run, a colour and a dash for each variant; None without a point.

    Args:
        curves: as `Grid` has them.
    """
    if curves.empty:
        return None
    series = list(dict.fromkeys(curves["series"]))
    colors = variant_colors(list(dict.fromkeys(curves["variant"])))
    dashes = {name: _DASHES[number % len(_DASHES)] for number, name in enumerate(colors)}
    figure = make_subplots(len(series), 1, shared_xaxes=True, vertical_spacing=0.06)
    for row, name in enumerate(series, 1):
        of_series = curves[curves["series"] == name]
        shown: set[str] = set()
        for (variant, seed), own in of_series.groupby(["variant", "seed"], sort=False):
            figure.add_scatter(
                x=own["step"],
                y=own["value"],
                mode="lines",
                name=plots.label(variant),
                legendgroup=str(variant),
                showlegend=row == 1 and variant not in shown,
                line={"color": colors[variant], "dash": dashes[variant], "width": 1.2},
                hovertemplate=f"{plots.label(variant)}, seed {seed}: %{{y:.4f}}<extra></extra>",
                row=row,
                col=1,
            )
            shown.add(variant)
        figure.update_yaxes(title=plots.label(name), row=row, col=1)
    figure.update_xaxes(title="step", row=len(series), col=1)
    figure.update_layout(height=100 + 240 * len(series))
    return plots.laid_out(figure)


def seconds_plot(seconds: pd.DataFrame) -> go.Figure | None:
    """A bar for each run, of what took how long; None where that is not known.

    Args:
        seconds: as `Grid` has them.
    """
    parts = [name for name in seconds if name not in ("variant", "seed")]
    if not parts or seconds.empty:
        return None
    runs = [
        f"{plots.label(row.variant)}, seed {row.seed}" for row in seconds[["variant", "seed"]].itertuples()
    ]
    shades = ("#0072B2", "#E69F00", "#999999")
    patterns = ("", "/", ".")
    figure = go.Figure()
    for number, name in enumerate(parts):
        marker = {"color": shades[number % 3], "pattern": {"shape": patterns[number % 3]}}
        figure.add_bar(x=seconds[name], y=runs, orientation="h", name=plots.label(name), marker=marker)
    figure.update_layout(barmode="stack", height=170 + 22 * len(runs), legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", dtick=1)
    figure.update_xaxes(title="seconds")
    return plots.laid_out(figure)


def _tracks(grid: Grid) -> str:
    count = grid.scores["track"].nunique()
    return f"{count:,}" if count > 1 else "not known"
