"""What is said of a search for a head: its trials, which parameters mattered, and how good the best head is."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlproject.reporting import words
from mlproject.reporting.cards import Evaluation, Told
from mlproject.reporting.construct_report import ConstructStudy, construct_report, said_of_constructs
from mlproject.reporting.grid_report import curves_plot, seconds_plot
from mlproject.reporting.head_report import HeadStudy, head_report, head_summary
from mlproject.reporting.pages import Report, Section
from mlproject.reporting.searches import search_plots, search_sections, study_of

_MOST_TRIALS = 15  # of a table on the page


@dataclasses.dataclass(frozen=True)
class SearchStudy:
    """Trials of a search, and its best head, which was trained again."""

    title: str
    trials: pd.DataFrame
    """As `study_of` takes them."""
    objective: str
    """What trials are compared by, such as `validation Pearson r`."""
    maximizes: bool
    best: ConstructStudy | HeadStudy | None
    """The best head on what was held out; None where it was not trained again."""
    seconds: pd.DataFrame
    """variant, seed, and what took how long."""
    facts: Sequence[tuple[str, str]]
    judged_on: str = "held-out data that chose nothing"
    """What the best head's numbers are of."""
    limits: Sequence[str] = ()
    """Of the study's options, such as a trunk with random weights."""

    @functools.cached_property
    def study(self) -> Any:
        """The study of Optuna, in memory."""
        return study_of(self.trials, self.maximizes, self.title)

    @functools.cached_property
    def complete(self) -> pd.DataFrame:
        """Complete trials with a finite value, best first."""
        own = self.trials[(self.trials["state"] == "complete") & np.isfinite(self.trials["value"])]
        return own.sort_values("value", ascending=not self.maximizes, ignore_index=True)

    @property
    def parameters(self) -> list[str]:
        """Columns of what was searched."""
        rest = ("number", "state", "value", "epochs", "seconds", "origin", "failure", "retry_of")
        return [name for name in self.trials if name not in rest and self.trials[name].notna().any()]


def search_report(study: SearchStudy) -> Told:
    """Trials, their figures, the best head on what was held out, curves and times, each where it is known."""
    sections = [_board(study), *search_sections(search_plots(study.study, study.objective))]
    told = None
    if isinstance(study.best, ConstructStudy):
        told = construct_report(study.best)
    elif study.best is not None:
        told = head_report(study.best)
    if told is not None:
        own = [
            one for one in told.report.sections if one.heading not in ("Training", "Where time went", "Folds")
        ]
        sections += [one._replace(heading=f"The best head: {one.heading.lower()}") for one in own]
    if study.best is not None:
        sections.append(Section("Training of the best head", figure=curves_plot(study.best.curves)))
    sections.append(Section("Where time went", figure=seconds_plot(study.seconds)))
    known = [section for section in sections if section.figure is not None or section.rows]
    tables = {"trials": study.trials}
    if told is not None:
        tables |= {f"best_{name}": table for name, table in told.tables.items()}
    chosen = "No head was trained again."
    if not study.complete.empty:
        chosen = (
            f"Its parameters are those of trial {study.complete['number'].iloc[0]}, the best of "
            f"{len(study.complete)} complete ones by {study.objective}."
        )
    return Told(
        Report(study.title, search_summary(study), known, study.facts),
        tables,
        told.best if told is not None else "",
        chosen,
        _evaluations(study, told),
        [*search_limits(study), *(told.limits if told is not None else []), *study.limits],
    )


def search_summary(study: SearchStudy) -> list[str]:
    """Two sentences with numbers: the best trial among how many, and how good its head is on what was held out."""
    counted = _counts(study)
    if study.complete.empty:
        return [f"Of {counted}, none has a value.", "There is no best head."]
    best = study.complete.iloc[0]
    first = (
        f"Of {counted}, trial {best['number']} is best with {study.objective} {best['value']:.3f} "
        f"({_chosen(study, best)}); the median of the complete ones is {study.complete['value'].median():.3f}"
    )
    published = _published(study)
    if published is not None:
        first += f", the best published head, {published['origin']}, has {published['value']:.3f}"
    if study.best is None:
        return [
            f"{first}.",
            "That head was not trained again, so how good it is on held-out data is not known.",
        ]
    if isinstance(study.best, ConstructStudy):
        said = said_of_constructs(study.best.comparison, study.best.constructs)
    else:
        said = head_summary(study.best)
    where = f"Trained again on the full budget, on {study.judged_on}, "
    second = "; ".join(sentence[0].lower() + sentence[1:].removesuffix(".") for sentence in said)
    return [f"{first}.", f"{where}{second}."]


def search_limits(study: SearchStudy) -> list[str]:
    """What these numbers do not show."""
    return [
        f"The objective of the best of {len(study.complete)} complete trials is optimistic: it was chosen by that "
        f"number. Its other numbers are of {study.judged_on}.",
        "One training of each trial: how much another seed would change is not known.",
    ]


def _board(study: SearchStudy) -> Section:
    shown = study.complete.head(_MOST_TRIALS)
    rows = [
        [
            str(row["number"]),
            words.number(row["value"], 4),
            *(_short(row[name]) for name in study.parameters),
            str(row.get("origin") or ""),
        ]
        for row in shown.to_dict("records")
    ]
    note = f"{_counts(study)}."
    if len(study.complete) > len(shown):
        note += f" The {len(shown)} best are shown; the table trials of the run has all."
    failures = study.trials.get("failure", pd.Series(dtype="object"))
    why = [str(one) for one in failures if isinstance(one, str) and one]
    if why:
        note += f" Failed: {'; '.join(dict.fromkeys(why[:3]))}."
    columns = ("trial", study.objective, *study.parameters, "origin")
    return Section("Leaderboard", columns, rows, note)


def _counts(study: SearchStudy) -> str:
    found = study.trials["state"].value_counts()
    states = [
        f"{found.get(state, 0)} {state}"
        for state in ("complete", "pruned", "failed", "running")
        if state != "running" or found.get(state, 0)
    ]
    return f"{words.count(len(study.trials), 'trial')} ({', '.join(states)})"


def _published(study: SearchStudy) -> pd.Series | None:
    if "origin" not in study.complete:
        return None
    own = study.complete[study.complete["origin"].fillna("") != ""]
    return None if own.empty else own.iloc[0]


def _chosen(study: SearchStudy, trial: pd.Series) -> str:
    return ", ".join(f"{name} {_short(trial[name])}" for name in study.parameters if not pd.isna(trial[name]))


def _short(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _evaluations(study: SearchStudy, told: Told | None) -> list[Evaluation]:
    found = list(told.evaluations) if told is not None else []
    if not study.complete.empty:
        best = study.complete.iloc[0]
        n = f"best of {len(study.complete)} complete trials"
        found.append(Evaluation(f"{study.objective}, by which it was chosen", float(best["value"]), n=n))
    return found
