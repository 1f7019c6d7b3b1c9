"""What is said of track heads on a frozen trunk: seeds with intervals, and what they add to simple guesses."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlproject.reporting import plots, words
from mlproject.reporting.cards import Evaluation, Told
from mlproject.reporting.differences import Difference, paired_difference
from mlproject.reporting.effects import variant_means
from mlproject.reporting.grid_report import curves_plot, seconds_plot
from mlproject.reporting.pages import Report, Section
from mlproject.reporting.tracks import categories_in_order

HEAD = "head"
_PREFIX = "pearson_r_"  # of a column of a baseline
_BASELINES = {"bin_mean": "training mean of the bin", "gc": "GC content"}


@dataclasses.dataclass(frozen=True)
class HeadStudy:
    """How well tracks are predicted, seed by seed."""

    title: str
    head: str
    """What it is, such as `linear`."""
    tracks: pd.DataFrame
    """run_id, seed, track (its name), category, pearson_r, and `pearson_r_NAME` for each baseline."""
    curves: pd.DataFrame
    """variant, seed, series, step, value."""
    seconds: pd.DataFrame
    """variant, seed, and what took how long."""
    facts: Sequence[tuple[str, str]]
    limits: Sequence[str] = ()
    """Of the study's options, such as a trunk with random weights."""

    @property
    def baselines(self) -> list[str]:
        """Names of their columns."""
        return [name for name in self.tracks if name.startswith(_PREFIX)]

    @functools.cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The head and the baselines, best first: name, seeds, mean, sd, low, high; baselines have no seeds."""
        return _leaderboard(self)

    @functools.cached_property
    def differences(self) -> pd.DataFrame:
        """The head minus each baseline: name, baseline (its mean), value, low, high, seeds, tracks, better, stands."""
        return _differences(self)

    @functools.cached_property
    def categories(self) -> pd.DataFrame:
        """category, tracks, the head's mean, low and high over seeds, and each baseline's mean."""
        return _categories(self)


def baseline_name(column: str) -> str:
    """What a baseline is called."""
    name = column.removeprefix(_PREFIX)
    return _BASELINES.get(name, name)


def head_report(study: HeadStudy) -> Told:
    """Leaderboard, differences from baselines, categories, tracks, curves and times, each where it is known."""
    runs = study.tracks.groupby(["run_id", "seed"], as_index=False, sort=False)["pearson_r"].mean()
    sections = [
        *head_sections(study),
        Section("Training", figure=curves_plot(study.curves)),
        Section("Where time went", figure=seconds_plot(study.seconds)),
    ]
    known = [section for section in sections if section.figure is not None or section.rows]
    place = int(runs["pearson_r"].fillna(-2).to_numpy().argmax())
    chosen = f"It is the head of seed {runs['seed'].iloc[place]}, "
    chosen += "the only one." if len(runs) == 1 else f"which has the highest mean r of {len(runs)} seeds."
    report = Report(study.title, head_summary(study), known, study.facts)
    tables = {"leaderboard": study.leaderboard, "categories": study.categories}
    if not study.differences.empty:
        tables["differences"] = study.differences
    best = str(runs["run_id"].iloc[place])
    return Told(report, tables, best, chosen, head_evaluations(study), [*head_limits(study), *study.limits])


def head_sections(study: HeadStudy) -> list[Section]:
    """Leaderboard, differences from baselines, categories and tracks."""
    board, gains, categories = study.leaderboard, study.differences, study.categories
    seeds = study.tracks["seed"].nunique()
    tracks = f"{study.tracks['track'].nunique():,}"
    rows = [
        (row.name, str(row.seeds or "-"), words.number(row.mean, 4), words.interval(row.low, row.high, 4),
         words.number(row.sd, 4))
        for row in board.itertuples(index=False)
    ]  # fmt: skip
    sections = [
        Section(
            "Leaderboard",
            ("predictor", "seeds", "mean Pearson r", "95% interval", "sd over seeds"),
            rows,
            "Means over tracks. Interval of Student's t over seeds; baselines have no seed.",
            plots.interval_plot(
                board.assign(value=board["mean"]), f"mean Pearson r over tracks,<br>95% interval (n = {tracks} tracks, "
                f"{words.count(seeds, 'seed')})",
            ),
        )
    ]  # fmt: skip
    if not gains.empty:
        over = "seeds and tracks at once" if seeds > 1 else "tracks alone: one seed says nothing of others"
        sections.append(
            Section(
                "Head minus baseline",
                ("baseline", "difference", "95% interval", "tracks", "tracks where the head is better"),
                [
                    (row.name, words.signed(row.value, 4), words.interval(row.low, row.high, 4), f"{row.tracks:,}",
                     f"{row.better:,}")
                    for row in gains.itertuples(index=False)
                ],
                f"Paired by track. Intervals over {over}; filled: 0 is left out.",
                plots.interval_plot(
                    gains, f"difference in Pearson r,<br>95% interval (n = {tracks} tracks, "
                    f"{words.count(seeds, 'seed')})", zero=True,
                ),
            )
        )  # fmt: skip
    named = [baseline_name(column) for column in study.baselines]
    sections.append(
        Section(
            "By category",
            ("category", "tracks", "head", "95% interval", *named),
            [
                (row["category"], f"{row['tracks']:,}", words.number(row["mean"], 4),
                 words.interval(row["low"], row["high"], 4), *(words.number(row[name], 4) for name in named))
                for row in categories.to_dict("records")
            ],
            "Mean Pearson r over the tracks of a category. Intervals of Student's t over seeds.",
        )
    )  # fmt: skip
    of_tracks = study.tracks.groupby("track", sort=False)[["pearson_r", *study.baselines]].mean()
    drawn = of_tracks.rename(
        columns={"pearson_r": HEAD, **{name: baseline_name(name) for name in study.baselines}}
    )
    drawn = drawn.rename_axis("name").reset_index().dropna()
    figure = plots.versus_plot(drawn, HEAD, named, "Pearson r of a track")
    return [*sections, Section("Track by track", figure=figure)] if figure is not None else sections


def head_summary(study: HeadStudy) -> list[str]:
    """Two sentences with numbers: the head's r over seeds and tracks, and what it adds to the best baseline."""
    row = study.leaderboard.set_index("name").loc[HEAD]
    seeds = f" over {words.count(int(row['seeds']), 'seed')}"
    first = (
        f"The {study.head} head has a mean Pearson r of {words.estimate(row['mean'], row['low'], row['high'])}{seeds} "
        f"and {words.count(study.tracks['track'].nunique(), 'track')}"
    )
    gains = study.differences
    if gains.empty:
        return [f"{first}.", "There is no baseline to compare it with."]
    best = gains.loc[gains["baseline"].idxmax()]
    first += (
        f"; the best of {words.count(len(gains), 'baseline')}, {best['name']}, has {best['baseline']:.3f}."
    )
    second = f"Paired by track, the head minus {best['name']} is "
    second += words.difference(best["value"], best["low"], best["high"])
    if not np.isnan(best["low"]):
        second += (
            f": the head is {'better' if best['value'] > 0 else 'worse'}"
            if best["stands"]
            else ": neither is shown to be better"
        )
    return [first, f"{second}; it is better on {best['better']:,} of {best['tracks']:,} tracks."]


def _leaderboard(study: HeadStudy) -> pd.DataFrame:
    scores = study.tracks.assign(variant=HEAD, score=study.tracks["pearson_r"])
    head = variant_means(scores).rename(columns={"variant": "name"})
    others = pd.DataFrame(
        [
            {"name": baseline_name(name), "seeds": 0, "mean": study.tracks[name].mean()}
            for name in study.baselines
        ],
        columns=["name", "seeds", "mean"],
    )
    parts = [head, others.reindex(columns=head.columns).astype({"sd": float, "low": float, "high": float})]
    table = pd.concat([part for part in parts if not part.empty], ignore_index=True)
    return table.sort_values("mean", ascending=False, ignore_index=True)


def _differences(study: HeadStudy) -> pd.DataFrame:
    rows = []
    of_tracks = study.tracks.groupby("track")[["pearson_r", *study.baselines]].mean()
    for column in study.baselines:
        found: Difference = paired_difference(study.tracks, "pearson_r", column)
        rows.append(
            {
                "name": baseline_name(column),
                "baseline": study.tracks[column].mean(),
                **found._asdict(),
                "better": int((of_tracks["pearson_r"] > of_tracks[column]).sum()),
                "stands": words.stands(found.low, found.high),
            }
        )
    return pd.DataFrame(rows)


def _categories(study: HeadStudy) -> pd.DataFrame:
    rows = []
    for category in categories_in_order(list(study.tracks["category"].unique())):
        own = study.tracks[study.tracks["category"] == category]
        means = variant_means(own.assign(variant=HEAD, score=own["pearson_r"]))
        if means.empty:
            continue
        rows.append(
            {
                "category": category,
                "tracks": own["track"].nunique(),
                **means.iloc[0][["mean", "low", "high"]].to_dict(),
                **{baseline_name(column): own[column].mean() for column in study.baselines},
            }
        )
    return pd.DataFrame(rows)


def head_evaluations(study: HeadStudy) -> list[Evaluation]:
    """For a card: the head's mean r and the best baseline's, and the head's by category."""
    board = study.leaderboard
    seeds = words.count(study.tracks["seed"].nunique(), "seed")
    what = "Pearson r of a track, mean"
    tracks = f"{study.tracks['track'].nunique():,} tracks"
    head = board[board["name"] == HEAD].iloc[0]
    found = [Evaluation(what, head["mean"], head["low"], head["high"], f"{seeds}, {tracks}")]
    others = board[board["name"] != HEAD]
    found += [
        Evaluation(f"{what}, {row.name}", row.mean, n=tracks) for row in others.head(1).itertuples(index=False)
    ]  # fmt: skip
    return found + [
        Evaluation(what, row["mean"], row["low"], row["high"], f"{seeds}, {row['tracks']:,} tracks", row["category"])
        for row in study.categories.to_dict("records")
    ]  # fmt: skip


def head_limits(study: HeadStudy) -> list[str]:
    """What these numbers do not show."""
    limits = [
        f"{words.count(study.tracks['seed'].nunique(), 'seed')} of the head; the trunk was one and did not move."
    ]
    undefined = int(study.tracks.groupby("track")["pearson_r"].apply(lambda r: r.isna().any()).sum())
    if undefined:
        limits.append(f"{words.count(undefined, 'track')} had no defined r with some seed.")
    limits += [
        f"It is not shown to predict better than {row.name}."
        for row in study.differences.itertuples(index=False)
        if not (row.stands and row.value > 0)
    ]
    return limits
