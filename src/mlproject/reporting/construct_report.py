"""What is said of a trunk that was fine-tuned on constructs: held-out activity beside what simple features say."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlproject.reporting import plots, words
from mlproject.reporting.cards import Evaluation, Told
from mlproject.reporting.differences import CorrelationDifference, correlation_difference
from mlproject.reporting.grid_report import curves_plot, seconds_plot
from mlproject.reporting.pages import Report, Section

MODEL = "predicted"  # the model among predictors; the others are baselines
UNITS = "units of the table"


@dataclasses.dataclass(frozen=True)
class ConstructStudy:
    """What was held out, fold by fold."""

    title: str
    comparison: pd.DataFrame
    """predictor (`predicted`, then baselines), pearson, spearman and their low and high, pearson_within, constructs,
    clusters."""
    constructs: pd.DataFrame
    """name, group, cluster, fold, activity, and a column for each predictor, of all that was held out."""
    trainings: pd.DataFrame
    """run_id, variant (the fold), seed."""
    curves: pd.DataFrame
    """variant, seed, series, step, value."""
    seconds: pd.DataFrame
    """variant, seed, and what took how long."""
    facts: Sequence[tuple[str, str]]
    limits: Sequence[str] = ()
    """Of the study's options, such as a trunk with random weights."""


def predictor_name(predictor: str) -> str:
    """What a predictor is called."""
    return "model" if predictor == MODEL else predictor.replace("_", " on ", 1)


def construct_report(study: ConstructStudy) -> Told:
    """Predictors with intervals, predicted against measured, folds, curves and times, each where it is known."""
    folds = fold_table(study)
    sections = [
        *construct_sections(study.comparison, study.constructs),
        Section("Folds", ("fold", "constructs", *map(predictor_name, study.comparison["predictor"])), _fold_rows(folds),
                "Pearson r within each fold. Each fold's model was trained without it."),
        Section("Training", figure=curves_plot(study.curves)),
        Section("Where time went", figure=seconds_plot(study.seconds)),
    ]  # fmt: skip
    known = [section for section in sections if section.figure is not None or section.rows]
    best, chosen = "", ""
    if not study.trainings.empty:
        r = study.trainings["variant"].map(
            {f"fold {row.fold}": getattr(row, MODEL) for row in folds.itertuples()}
        )
        place = int(r.fillna(-2).to_numpy(np.float64).argmax())
        best = str(study.trainings["run_id"].iloc[place])
        chosen = f"It held out {study.trainings['variant'].iloc[place]}, "
        chosen += "the only one." if len(folds) == 1 else f"with the highest r of {len(folds)} folds."
    report = Report(study.title, construct_summary(study), known, study.facts)
    tables = {"leaderboard": study.comparison, "folds": folds}
    evaluations = construct_evaluations(study.comparison, folds)
    return Told(
        report, tables, best, chosen, evaluations, [*construct_limits(study.comparison), *study.limits]
    )


def construct_summary(study: ConstructStudy) -> list[str]:
    """Two sentences with numbers: how well activity is predicted, and whether that is better than baselines."""
    first = study.comparison.iloc[0]
    where = (
        f"Of {words.count(int(first['constructs']), 'construct')} in "
        f"{words.count(int(first['clusters']), 'cluster')}, held out in "
        f"{words.count(study.constructs['fold'].nunique(), 'fold')},"
    )
    return [f"{where} {sentence}" if not place else sentence for place, sentence in enumerate(_said(study))]


def _said(study: ConstructStudy) -> list[str]:
    return said_of_constructs(study.comparison, study.constructs)


def said_of_constructs(comparison: pd.DataFrame, constructs: pd.DataFrame) -> list[str]:
    """The model's r, then its difference from the best baseline: two sentences, of which the first goes on."""
    model, baseline = comparison.iloc[0], best_baseline(comparison)
    first = f"the {predictor_name(MODEL)} has Pearson r {_r(model)}"
    if baseline is None:
        return [f"{first}.", "There is no baseline to compare it with."]
    name = predictor_name(baseline["predictor"])
    first += f"; the best of {words.count(len(comparison) - 1, 'baseline')}, {name}, has {_r(baseline)}."
    found = difference_from(constructs, str(baseline["predictor"]))
    second = f"The difference from {name}, over the same constructs, is {words.difference(*found)}"
    if np.isnan(found.low):
        second += ", of which these clusters are too few to make an interval."
    elif words.stands(found.low, found.high):
        second += ": the model is " + ("better." if found.value > 0 else "worse.")
    else:
        second += ": neither is shown to be better."
    return [first, second]


def best_baseline(comparison: pd.DataFrame) -> pd.Series | None:
    """The row of the baseline with the highest r; None where there is none."""
    others = comparison[(comparison["predictor"] != MODEL) & comparison["pearson"].notna()]
    return None if others.empty else others.loc[others["pearson"].idxmax()]


def difference_from(constructs: pd.DataFrame, baseline: str) -> CorrelationDifference:
    """The model's r minus that of a baseline, over all constructs."""
    activity, model, other, clusters = (
        constructs[name].to_numpy() for name in ("activity", MODEL, baseline, "cluster")
    )
    return correlation_difference(activity, model, other, clusters)


def construct_sections(comparison: pd.DataFrame, constructs: pd.DataFrame) -> list[Section]:
    """Predictors with intervals, and predicted against measured."""
    rows = [
        (
            predictor_name(row.predictor),
            words.number(row.pearson),
            words.interval(row.pearson_low, row.pearson_high),
            words.number(row.pearson_within),
            words.number(row.spearman),
            words.interval(row.spearman_low, row.spearman_high),
        )
        for row in comparison.itertuples()
    ]
    first = comparison.iloc[0]
    table = comparison.assign(
        name=comparison["predictor"].map(predictor_name),
        value=comparison["pearson"],
        low=comparison["pearson_low"],
        high=comparison["pearson_high"],
    )
    n = f"{int(first['constructs']):,} constructs, {words.count(int(first['clusters']), 'cluster')}"
    note = (
        "Intervals: a bootstrap over clusters of similar constructs, none with fewer than six. Within folds: r of what "
        "is left when each fold's mean is taken from both."
    )
    columns = ("predictor", "Pearson r", "95% interval", "within folds", "Spearman r", "95% interval")
    by = "fold" if constructs["fold"].nunique() > 1 else "group"
    return [
        Section("Leaderboard", columns, rows, note,
                plots.interval_plot(table, f"Pearson r with measured activity,<br>95% interval (n = {n})")),
        Section("Predicted against measured", figure=plots.measured_plot(constructs, UNITS, by=by),
                note=f"A mark for each construct, held out when it was predicted; colour and symbol: its {by}."),
    ]  # fmt: skip


def fold_table(study: ConstructStudy) -> pd.DataFrame:
    """r of each predictor in each fold: fold, constructs, a column for each."""
    predictors = list(study.comparison["predictor"])
    rows = []
    for fold, own in study.constructs.groupby("fold", sort=False):
        r = {name: own["activity"].corr(own[name]) if len(own) > 2 else np.nan for name in predictors}
        rows.append({"fold": fold, "constructs": len(own), **r})
    return pd.DataFrame(rows)


def _fold_rows(folds: pd.DataFrame) -> list[list[str]]:
    names = folds.columns[2:]
    return [
        [str(row["fold"]), f"{row['constructs']:,}", *(words.number(row[name]) for name in names)]
        for row in folds.to_dict("records")
    ]


def construct_evaluations(comparison: pd.DataFrame, folds: pd.DataFrame) -> list[Evaluation]:
    """For a card: the model's and the best baseline's r of all that was held out, and the model's by fold."""
    found = []
    baseline = best_baseline(comparison)
    for row in [comparison.iloc[0], *([] if baseline is None else [baseline])]:
        n = f"{int(row['constructs'])} constructs, {words.count(int(row['clusters']), 'cluster')}"
        who = predictor_name(row["predictor"])
        for kind in ("pearson", "spearman"):
            value, low, high = (float(row[f"{kind}{end}"]) for end in ("", "_low", "_high"))
            found.append(Evaluation(f"{kind.capitalize()} r of activity, {who}", value, low, high, n))
    if len(folds) > 1:
        found += [
            Evaluation("Pearson r of activity, model without that fold", float(row[MODEL]),
                       n=f"{row['constructs']} constructs", category=f"fold {row['fold']}")
            for row in folds.to_dict("records")
        ]  # fmt: skip
    return found


def construct_limits(comparison: pd.DataFrame) -> list[str]:
    """What these numbers do not show."""
    first = comparison.iloc[0]
    limits = [
        "One training for each fold: how much another seed would change is not known.",
        f"{words.count(int(first['constructs']), 'construct')} in "
        f"{words.count(int(first['clusters']), 'cluster')} of similar ones were held out.",
    ]
    if np.isnan(first["pearson_low"]):
        limits.append("Too few clusters for an interval: the correlations may be chance.")
    baseline = best_baseline(comparison)
    if baseline is not None and not first["pearson"] > baseline["pearson"]:
        limits.append(f"It predicts no better than a {predictor_name(baseline['predictor'])}.")
    return limits


def _r(row: pd.Series) -> str:
    return words.estimate(row["pearson"], row["pearson_low"], row["pearson_high"])
