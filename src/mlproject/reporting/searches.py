"""Tables and figures of a search: its trials, what was found when, and which parameters mattered."""

import copy
import html
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import seaborn as sns

from mlproject.reporting.search_figures import (
    IMPORTANCE,
    STATES,
    Scale,
    Search,
    history_figure,
    importance_figure,
    parallel_coordinates_figure,
    slice_figure,
    value_of,
)
from mlproject.reporting.style import aligned, save

if TYPE_CHECKING:  # half a second, which is for commands that search
    import optuna
    from optuna.trial import FrozenTrial

FAILURE = "failure"  # user attribute of a trial: why it failed
_ORIGIN = "origin"  # user attribute of a trial: the published head that it is
_RETRIED = "failed_trial"  # system attribute that Optuna gives to a retried trial: the first try's number
_BEST_PART = 0.25  # parameters are important for being among these


def search_summary(study: "optuna.Study") -> pd.DataFrame:
    """The trials of a study: complete ones, best first, then pruned, running, waiting and failed ones by number.

    Columns: number; state (complete, pruned, running, waiting or failed); value (of complete trials); one for each
    parameter (missing where the trial had none); epochs (how many were reported); seconds; origin (where its
    parameters are from, if no sampler proposed them); failure (why it failed); retry_of (the number of the trial
    that this one tries again).
    """
    found = study.get_trials(deepcopy=False)
    names = _parameters(found)
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    order = {state: place for place, state in enumerate(STATES)}

    def place(trial: "FrozenTrial") -> tuple[int, bool, float, int]:
        value = value_of(trial)  # infinity would be the best one there is
        finite = math.isfinite(value)
        return order[trial.state.name], not finite, sign * value if finite else 0.0, trial.number

    trials = sorted(found, key=place)
    rows = [
        {
            "number": trial.number,
            "state": STATES[trial.state.name],
            "value": value_of(trial),
            "epochs": len(trial.intermediate_values),
            "seconds": trial.duration.total_seconds() if trial.duration else math.nan,
            "origin": str(trial.user_attrs.get(_ORIGIN, "")),
            "failure": str(trial.user_attrs.get(FAILURE, "")) if trial.state.name == "FAIL" else "",
            "retry_of": trial.system_attrs.get(_RETRIED),
        }
        for trial in trials
    ]
    kinds = {"number": "int64", "value": "float64", "epochs": "int64", "seconds": "float64"}
    frame = pd.DataFrame(
        rows, columns=["number", "state", "value", "epochs", "seconds", "origin", "failure", "retry_of"]
    )
    frame = frame.astype({**kinds, "retry_of": "Int64"})
    for at, name in enumerate(names, 3):
        frame.insert(at, name, _column([trial.params.get(name) for trial in trials]))
    return frame


def search_text(summary: pd.DataFrame, most: int) -> str:
    """A table for the terminal: the best trials of a `search_summary`, at most so many, and what they chose."""
    best = summary[summary["state"] == "complete"].head(most)
    names = list(summary.columns[3 : summary.columns.get_loc("epochs")])
    lines = [["trial", "objective", *names, "origin"]]
    for row in best.to_dict("records"):
        chosen = ["" if pd.isna(row[name]) else _short_number(row[name]) for name in names]
        lines.append([str(row["number"]), f"{row['value']:.4f}", *chosen, row["origin"]])
    return aligned(lines)


def _short_number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trial_colors(study: "optuna.Study") -> dict[int, str]:
    """A colour (#RRGGBB) by number of trial: complete ones darker the better, failed ones orange, others grey."""
    search = read_search(study, "")
    worst_first = sorted(search.complete, key=value_of, reverse=not search.maximizes)
    shades = sns.color_palette("crest", len(worst_first)).as_hex()
    colors = {trial.number: "#D55E00" if trial.state.name == "FAIL" else "#B0B0B0" for trial in search.trials}
    return colors | {trial.number: shade.upper() for trial, shade in zip(worst_first, shades, strict=True)}


def write_search_figures(study: "optuna.Study", objective: str, folder: Path) -> list[Path]:
    """Draws a study into `folder`, and returns the paths of what could be drawn; what cannot be is left out.

    `search.html` holds the figures to look into, without a network, and is always written. `history.png` takes a
    complete trial, or a pruned one that has reported; `slice.png` and `parallel_coordinates.png` a complete trial and
    a parameter that could vary; `importance.png` besides two complete trials with different values. Complete trials
    whose value is not finite are counted and not drawn.

    Args:
        study: of one objective.
        objective: what its value is, such as `validation/pearson`.
        folder: which is there.
    """
    search = read_search(study, objective)
    figures = {
        "history": history_figure(search),
        "importance": importance_figure(search, importance(search)),
        "slice": slice_figure(search),
        "parallel_coordinates": parallel_coordinates_figure(search),
    }
    page = folder / "search.html"
    page.write_text(_page(search, {name for name, figure in figures.items() if figure}), "utf-8")
    return [page, *(save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure)]


def _page(search: Search, figures: set[str]) -> str:
    """A page with those of the figures, by Optuna and Plotly, that needs nothing from elsewhere."""
    sections = []
    with _quiet():
        from optuna import visualization

        study = _finite(search)
        # Plotly takes some HTML in labels
        label: dict[str, Any] = {"target_name": html.escape(search.objective)}
        names: dict[str, Any] = {"params": [scale.name for scale in search.scales]}
        if "history" in figures and search.complete:
            plot = visualization.plot_optimization_history(study, **label)
            plot.update_traces(line_shape="hv", selector={"mode": "lines"})
            sections.append(("History", plot))
        if "importance" in figures:
            plot = visualization.plot_param_importances(study, evaluator=_evaluator(), **names, **label)
            plot.update_layout(xaxis_title=IMPORTANCE)
            sections.append(("Importance of parameters", plot))
        if "slice" in figures:
            plot = visualization.plot_slice(study, **names, **label)
            sections.append(("Slices", _in_order(plot, search.scales)))
        if "parallel_coordinates" in figures:
            plot = visualization.plot_parallel_coordinate(study, **names, **label)
            plot.update_layout(plot_bgcolor="#e2e2e2")  # the lightest lines are white
            sections.append(("Parallel coordinates", plot))
    body = []
    for number, (heading, plot) in enumerate(sections):
        plot.update_layout(title=None, template="plotly_white", margin={"t": 40})
        drawn = plot.to_html(
            full_html=False, include_plotlyjs=number == 0, div_id=f"figure-{number}", config=_PLOTLY
        )
        body.append(f"<h2>{heading}</h2>\n<div class='figure'>{drawn}</div>")
    best = ""
    if search.complete:
        params = ", ".join(f"{name} {_number(value)}" for name, value in search.best.params.items())
        value = _number(value_of(search.best))
        best = f" The best is trial {search.best.number} with {search.objective} {value}"
        best += (f" ({params})." if params else ".") + " Figures are of complete trials."
    return _PAGE.format(
        name=html.escape(search.name),
        text=html.escape(f"{search.counts()}.{best}"),
        body="\n".join(body),
    )


_PLOTLY = {"displaylogo": False, "responsive": True}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<title>{name}</title>
<style>
body {{ font-family: sans-serif; margin: 1.5em; color: #222; }}
h1 {{ overflow-wrap: anywhere; font-size: 1.4em; }}
h2 {{ margin: 1.5em 0 0; font-size: 1.1em; }}
.figure {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{name}</h1>
<p>{text}</p>
{body}
</body>
</html>
"""


def _in_order(plot: Any, scales: list[Scale]) -> Any:
    """Slices whose axes are marked as those of the pictures are, and which are less wide."""
    panels = [*plot.select_xaxes()]
    by_name = {scale.name: scale for scale in scales}
    for axis in panels:
        scale = by_name[axis.title.text]
        if scale.choices:
            axis.categoryarray = [repr(choice) for choice in scale.choices]
        elif scale.log:
            ticks = scale.ticks(apart=0.2)
            axis.update(tickvals=[*ticks], ticktext=[*ticks.values()], minor={"ticks": ""})
    return plot.update_layout(width=max(500, 230 * len(panels) + 120), height=420)


def importance(search: Search) -> dict[str, float]:
    """Shares by parameter that add up to 1, largest first; empty where they cannot be told.

    PED-ANOVA and not fANOVA, which leaves out parameters that not every trial has; it draws nothing at random.
    """
    if not search.scales or len({value_of(trial) for trial in search.complete}) < 2:
        return {}
    from optuna.importance import get_param_importances

    with _quiet():
        found = get_param_importances(
            _finite(search),
            evaluator=_evaluator(),
            params=[scale.name for scale in search.scales],
            normalize=False,
        )
    total = sum(found.values())
    shares = {name: value / total for name, value in found.items()} if total > 0 else {}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _finite(search: Search) -> "optuna.Study":
    """A copy in memory, with trials of infinite value as failed: Optuna draws infinity as the best value."""
    import optuna

    study = optuna.create_study(
        study_name=search.name, direction="maximize" if search.maximizes else "minimize"
    )
    for trial in search.trials:
        if trial.state.name == "COMPLETE" and not math.isfinite(value_of(trial)):
            trial = copy.copy(trial)
            trial.state, trial.values = optuna.trial.TrialState.FAIL, None
        study.add_trial(trial)
    return study


def _evaluator() -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator(target_quantile=_BEST_PART)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Optuna says of experimental functions, and of trials that are few or left out."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def read_search(study: "optuna.Study", objective: str) -> Search:
    """What pictures show of a study."""
    trials = _counted(study.get_trials(deepcopy=False))
    complete = [trial for trial in trials if math.isfinite(value_of(trial))]
    scales = []
    for name in _parameters(complete):
        kinds = [trial.distributions[name] for trial in complete if name in trial.params]
        if not all(kind.single() for kind in kinds):
            scales.append(_scale(name, kinds))
    return Search(study.study_name, objective, study.direction.name == "MAXIMIZE", trials, complete, scales)


def _counted(trials: "list[FrozenTrial]") -> "list[FrozenTrial]":
    """Each trial once: without tries that were done again, and without those that were found to be done already."""
    done = {trial.number for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")}
    tried_before = {trial.number: trial.system_attrs.get("retry_history", [])[-1:] for trial in trials}
    again = {number for numbers in tried_before.values() for number in numbers}
    return [
        trial
        for trial in trials
        if trial.number in done
        or not (trial.number in again or done.intersection(tried_before[trial.number]))
    ]


def _scale(name: str, kinds: list[Any]) -> Scale:
    if hasattr(kinds[0], "choices"):
        choices = _ordered(kinds[0].choices)
        return Scale(name, False, True, choices, 0.0, float(len(choices) - 1))
    low, high = float(min(kind.low for kind in kinds)), float(max(kind.high for kind in kinds))
    whole = all(isinstance(kind.high, int) for kind in kinds)
    return Scale(name, all(kind.log for kind in kinds), whole, [], low, high)


def _ordered(choices: Any) -> list[Any]:
    """Choices that are numbers in their order, after None; others as they are."""
    numbers = [choice for choice in choices if choice is not None]
    if all(isinstance(choice, (int, float)) and not isinstance(choice, bool) for choice in numbers):
        return [None] * (None in choices) + sorted(numbers)
    return list(choices)


def _parameters(trials: list["FrozenTrial"]) -> list[str]:
    """The parameters of the trials in the order in which they chose them."""
    return [*dict.fromkeys(name for trial in trials for name in trial.params)]


def _column(values: list[Any]) -> pd.Series:
    """A column of one kind, as files of tables need: whole numbers, numbers, or text; missing ones stay so."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int}:
        return pd.Series(values, dtype="Int64")
    if kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series([None if value is None else str(value) for value in values], dtype="object")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
