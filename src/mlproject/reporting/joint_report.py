"""What is said of joint trainings on tracks and MPRA: arms with intervals over seeds, and what one has over another."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlproject.reporting import plots, words
from mlproject.reporting.cards import Evaluation, Told
from mlproject.reporting.effects import variant_means
from mlproject.reporting.grid_report import curves_plot, seconds_plot
from mlproject.reporting.joint import NUMBERS
from mlproject.reporting.pages import Report, Section

_BASELINES = {"kmers": "ridge on 5-mers", "gc": "GC content", "mean_of_cells": "mean of cell types"}
_MOST_CELLS = 30  # of a table on the page


@dataclasses.dataclass(frozen=True)
class JointStudyTold:
    """Trainings of a joint study, and what the first of the best arm has kept."""

    title: str
    results: pd.DataFrame
    """run_id, variant (the arm: modalities and setting), seed, and numbers such as `pearson/activity` for each
    training."""
    differences: pd.DataFrame
    """setting, number, seeds, difference, low, high, and the means of both arms, which are the other columns; empty
    where no seed has both."""
    comparison: pd.DataFrame
    """Of `best`: cell_type, labels, predictor, pearson, pearson_low, pearson_high, ceiling, sequences, clusters; empty
    where it saw no MPRA."""
    predictions: pd.DataFrame
    """Of `best`: name, cell_type, labels, activity, predicted; empty likewise."""
    curves: pd.DataFrame
    """variant, seed, series, step, value."""
    seconds: pd.DataFrame
    """variant, seed, and what took how long."""
    facts: Sequence[tuple[str, str]]
    limits: Sequence[str] = ()
    """Of the study's options, such as made-up data."""

    @functools.cached_property
    def numbers(self) -> dict[str, str]:
        """Those of `NUMBERS` that some training has, by name, and what they are called."""
        return {name: words for name, words in NUMBERS.items() if _known(self.results, name)}

    @functools.cached_property
    def means(self) -> pd.DataFrame:
        """number, variant, seeds, mean, sd, low, high: of each number the arms, best first."""
        parts = [_means(self.results, name).assign(number=name) for name in self.numbers]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["number", "variant"])

    @functools.cached_property
    def gains(self) -> pd.DataFrame:
        """Over baselines: name, variant, baseline (its mean), value, low, high, seeds, stands, of activity."""
        return _gains(self.results)


def best_training(results: pd.DataFrame) -> int:
    """The row of the best training of the best arm: by activity where it is known, else by coverage.

    Args:
        results: as `JointStudyTold` has them.
    """
    for name in NUMBERS:
        if _known(results, name):
            arm = _means(results, name)["variant"].iloc[0]
            own = results[results["variant"] == arm]
            return int(own.index[own[name].fillna(-2).to_numpy().argmax()])
    return int(results.index[0])


def joint_report(study: JointStudyTold) -> Told:
    """Arms, differences, cell types, predicted against measured, curves and times, each where it is known."""
    sections = [
        *(_arms(study, name) for name in study.numbers),
        *_difference_sections(study),
        *_cell_sections(study),
        Section("Training", figure=curves_plot(study.curves)),
        Section("Where time went", figure=seconds_plot(study.seconds)),
    ]
    known = [section for section in sections if section.figure is not None or section.rows]
    best = study.results.loc[best_training(study.results)]
    of_arm = int((study.results["variant"] == best["variant"]).sum())
    chosen = f"It is the training of {best['variant']}, seed {best['seed']}"
    chosen += "." if of_arm == 1 else f", which has the highest r of {of_arm} of this arm."
    tables = {"leaderboard": study.means, "differences": study.differences, "baselines": study.gains}
    return Told(
        Report(study.title, joint_summary(study), known, study.facts),
        {name: table for name, table in tables.items() if not table.empty},
        str(best["run_id"]),
        chosen,
        joint_evaluations(study),
        [*joint_limits(study), *study.limits],
    )


def joint_summary(study: JointStudyTold) -> list[str]:
    """Two sentences with numbers: which arm is best and at what, and what it brings, how surely."""
    if not study.numbers:
        return [
            "No correlation is defined: at least 3 held-out sequences are needed.",
            "Nothing is compared.",
        ]
    name, called = next(iter(study.numbers.items()))
    own = study.means[study.means["number"] == name]
    top = own.iloc[0]
    arms, seeds = words.count(len(own), "arm"), words.count(int(own["seeds"].max()), "seed")
    first = (
        f"Of {arms} over {seeds}, {top['variant']} has the highest held-out Pearson r of {called}, "
        f"{words.estimate(top['mean'], top['low'], top['high'])}"
    )
    if len(own) == 1:
        first = (
            f"Over {seeds}, {top['variant']} has a held-out Pearson r of {called} of "
            f"{words.estimate(top['mean'], top['low'], top['high'])}"
        )
    gains = study.gains[study.gains["variant"] == top["variant"]]
    if not gains.empty:
        baseline = gains.loc[gains["baseline"].idxmax()]
        first += f"; the best baseline, {baseline['name']}, has {baseline['baseline']:.3f}"
    if not study.differences.empty:
        said = [_said(study, row) for row in study.differences.to_dict("records")]
        second = f"Paired by seed, {'; '.join(said[:3])}"
    elif not gains.empty:
        found = words.difference(baseline["value"], baseline["low"], baseline["high"])
        second = f"Over seeds, {top['variant']} minus {baseline['name']} is {found}"
        if not np.isnan(baseline["low"]):
            second += ": it is better" if baseline["value"] > 0 else ": it is worse"
            if not baseline["stands"]:
                second = second.rpartition(":")[0] + ": neither is shown to be better"
    else:
        second = "No seed has two arms, so nothing is compared"
    return [f"{first}.", f"{second}."]


def _said(study: JointStudyTold, row: dict) -> str:
    first, second = arms_of(study.differences)
    where = f" ({row['setting']})" if row["setting"] else ""
    found = words.difference(row["difference"], row["low"], row["high"])
    sure = ""
    if np.isnan(row["low"]):
        sure = ", from one seed"
    elif not words.stands(row["low"], row["high"]):
        sure = ", so none is shown"
    called = NUMBERS.get(row["number"], row["number"])
    return f"{first} minus {second}{where} in {called} is {found}{sure}"


def arms_of(differences: pd.DataFrame) -> tuple[str, str]:
    """The two columns of means, of the arms that are compared: the first minus the second."""
    known = ("setting", "number", "seeds", "difference", "low", "high")
    first, second, *_ = [name for name in differences if name not in known]
    return first, second


def _arms(study: JointStudyTold, name: str) -> Section:
    own = study.means[study.means["number"] == name]
    rows = [
        (row.variant, str(row.seeds), words.number(row.mean, 4), words.interval(row.low, row.high, 4),
         words.number(row.sd, 4))
        for row in own.itertuples(index=False)
    ]  # fmt: skip
    runs = study.results[["variant", "seed"]].assign(score=study.results[name]).dropna()
    figure = plots.means_plot(
        own, runs, f"held-out Pearson r, {NUMBERS[name]}<br>(n = {len(runs)} trainings)"
    )
    figure.update_layout(height=150 + 44 * max(2, len(own)))
    return Section(
        f"Leaderboard: {NUMBERS[name]}",
        ("arm", "seeds", "Pearson r", "95% interval", "sd over seeds"),
        rows,
        "Intervals of Student's t over seeds; r is a mean over cell types.",
        figure,
    )


def _difference_sections(study: JointStudyTold) -> list[Section]:
    sections = []
    if not study.differences.empty:
        first, second = arms_of(study.differences)
        table = study.differences
        names = [
            f"{NUMBERS.get(row['number'], row['number'])} {row['setting']}".strip()
            for row in table.to_dict("records")
        ]
        stands = [words.stands(low, high) for low, high in zip(table["low"], table["high"], strict=True)]
        drawn = table.assign(name=names, value=table["difference"], stands=stands)
        rows = [
            (name, str(row["seeds"]), words.number(row[first], 4), words.number(row[second], 4),
             words.signed(row["difference"], 4), words.interval(row["low"], row["high"], 4))
            for name, row in zip(names, table.to_dict("records"), strict=True)
        ]  # fmt: skip
        title = f"{first} minus {second}, Pearson r,<br>95% interval (n = {int(table['seeds'].max())} seeds, paired)"
        sections.append(
            Section(
                f"What {first} brings over {second}",
                ("number", "seeds", first, second, "difference", "95% interval"),
                rows,
                "Paired by seed, intervals of Student's t; filled: 0 is left out. Intervals are not corrected for the "
                "number of comparisons.",
                plots.interval_plot(drawn, title, zero=True),
            )
        )
    if not study.gains.empty:
        rows = [
            (row["variant"], row["name"], str(row["seeds"]), words.number(row["baseline"], 4),
             words.signed(row["value"], 4), words.interval(row["low"], row["high"], 4))
            for row in study.gains.to_dict("records")
        ]  # fmt: skip
        columns = ("arm", "baseline", "seeds", "baseline's r", "arm minus baseline", "95% interval")
        note = (
            "Pearson r of activity of cell types whose labels were seen; intervals of Student's t over seeds."
        )
        sections.append(Section("Beside baselines", columns, rows, note))
    return sections


def _cell_sections(study: JointStudyTold) -> list[Section]:
    if study.comparison.empty or study.predictions.empty:
        return []
    best = study.results.loc[best_training(study.results)]
    who = f"{best['variant']}, seed {best['seed']}"
    columns = list(dict.fromkeys(study.comparison["predictor"]))
    rows = []
    groups = list(study.comparison.groupby(["labels", "cell_type"], sort=True))
    for (labels, cell_type), own in groups[:_MOST_CELLS]:
        by_name = own.set_index("predictor")
        cells = [
            words.number(by_name.loc[name, "pearson"])
            + (f" ({words.interval(low, high)})" if np.isfinite(low) else "")
            if name in by_name.index
            else "-"
            for name in columns
            for low, high in [
                (by_name.loc[name, "pearson_low"], by_name.loc[name, "pearson_high"])
                if name in by_name.index
                else (np.nan, np.nan)
            ]
        ]
        first = own.iloc[0]
        rows.append(
            [str(cell_type), str(labels), str(first["sequences"]), words.number(first["ceiling"]), *cells]
        )
    more = len(groups) - len(rows)
    named = ["model" if name == "predicted" else _BASELINES.get(name, name) for name in columns]
    figure = plots.measured_plot(study.predictions.assign(
        name=study.predictions["name"].astype(str) + ", " + study.predictions["cell_type"].astype(str),
        panel="labels " + study.predictions["labels"].astype(str),
    ), "units of the table", panels="panel")  # fmt: skip
    return [
        Section("Predicted against measured", figure=figure,
                note=f"Held-out sequences, {who}; a mark for each measurement."),
        Section("By cell type", ("cell type", "labels", "sequences", "ceiling", *named), rows,
                f"Pearson r with 95% intervals over clusters of near-duplicates, {who}. Ceiling: what replicates allow."
                + (f" {more} more cell types are in the table comparison of the run." if more else ""), minor=True),
    ]  # fmt: skip


def joint_evaluations(study: JointStudyTold) -> list[Evaluation]:
    """For a card: each number's mean over the seeds of the best model's arm, baselines, and r by cell type."""
    arm = study.results.loc[best_training(study.results), "variant"]
    found = [
        Evaluation(f"Pearson r of {NUMBERS[row.number]}", row.mean, row.low, row.high, words.count(row.seeds, "seed"))
        for row in study.means[study.means["variant"] == arm].itertuples(index=False)
    ]  # fmt: skip
    found += [
        Evaluation(
            f"Pearson r of activity, {row['name']}", row["baseline"], n=words.count(row["seeds"], "seed")
        )
        for row in study.gains[study.gains["variant"] == arm].to_dict("records")
    ]
    if not study.comparison.empty:
        own = study.comparison[study.comparison["predictor"] == "predicted"]
        found += [
            Evaluation("Pearson r of activity, this model", row.pearson, row.pearson_low, row.pearson_high,
                       f"{row.sequences} sequences, {row.clusters} clusters", f"{row.cell_type} (labels {row.labels})")
            for row in own.head(_MOST_CELLS).itertuples(index=False)
        ]  # fmt: skip
    return found


def joint_limits(study: JointStudyTold) -> list[str]:
    """What these numbers do not show."""
    arm = study.results.loc[best_training(study.results), "variant"]
    seeds = int((study.results["variant"] == arm).sum())
    limits = [f"{words.count(seeds, 'seed')} of this arm."]
    for row in study.differences.to_dict("records"):
        if not words.stands(row["low"], row["high"]):
            limits.append(
                f"In {NUMBERS.get(row['number'], row['number'])} a difference between "
                f"{' and '.join(arms_of(study.differences))} is not shown."
            )
    for row in study.gains[study.gains["variant"] == arm].to_dict("records"):
        if not (row["stands"] and row["value"] > 0):
            limits.append(f"It is not shown to predict activity better than {row['name']}.")
    return limits


def _known(results: pd.DataFrame, name: str) -> bool:
    return name in results and bool(results[name].notna().any())


def _means(results: pd.DataFrame, name: str) -> pd.DataFrame:
    return variant_means(results.assign(score=results[name])[["variant", "seed", "score"]])


def _gains(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    if _known(results, "pearson/activity"):
        for key, called in _BASELINES.items():
            column = f"pearson/{key}"
            if not _known(results, column):
                continue
            for variant, own in results.groupby("variant", sort=False):
                means = own[["seed", "pearson/activity", column]].dropna()
                if means.empty:
                    continue
                gain = variant_means(
                    means.assign(variant=variant, score=means["pearson/activity"] - means[column])
                ).iloc[0]
                rows.append(
                    {"name": called, "variant": variant, "baseline": float(means[column].mean()),
                     "value": gain["mean"], "low": gain["low"], "high": gain["high"], "seeds": int(gain["seeds"]),
                     "stands": words.stands(gain["low"], gain["high"])}
                )  # fmt: skip
    columns = ["name", "variant", "baseline", "value", "low", "high", "seeds", "stands"]
    return pd.DataFrame(rows, columns=columns)
