"""Tables and figures of a search: its trials, what was found when, and which parameters mattered."""

import copy
import html
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import seaborn as sns
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from mlproject.reporting.pages import Report, Section, page
from mlproject.reporting.plots import INK, laid_out
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
    path = folder / "search.html"
    sections = search_sections(search_plots(study, objective))
    path.write_text(page(Report(search.name, search_words(study, objective), sections)), "utf-8")
    return [path, *(save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure)]


HEADINGS = {
    "history": "History",
    "importance": "Importance of parameters",
    "slice": "Slices",
    "parallel_coordinates": "Parallel coordinates",
}


def search_words(study: "optuna.Study", objective: str) -> list[str]:
    """How many trials there are, and which is the best, in sentences; `objective` as `search_plots` takes it."""
    search = read_search(study, objective)
    found = [f"{search.counts()}."]
    if search.complete:
        params = ", ".join(f"{name} {_number(value)}" for name, value in search.best.params.items())
        value = _number(value_of(search.best))
        best = f"The best is trial {search.best.number} with {search.objective} {value}"
        found += [best + (f" ({params})." if params else "."), "Figures are of complete trials."]
    return found


def search_plots(study: "optuna.Study", objective: str) -> dict[str, go.Figure]:
    """Figures to look into by name, those of HEADINGS that can be drawn; a study may have trials under way.

    Args:
        study: of one objective; as it is, or as `study_of` makes one.
        objective: what its value is, such as `validation/pearson`.
    """
    search = read_search(study, objective)
    plots: dict[str, go.Figure] = {}
    if not search.complete:
        return plots
    with _quiet():
        from optuna import visualization

        drawn = _finite(search)
        # Plotly takes some HTML in labels
        label: dict[str, Any] = {"target_name": html.escape(search.objective)}
        names: dict[str, Any] = {"params": [scale.name for scale in search.scales]}
        plot = visualization.plot_optimization_history(drawn, **label)
        plot.update_traces(
            line={"shape": "hv", "color": "#D55E00"}, name="best so far", selector={"mode": "lines"}
        )
        plot.update_traces(marker={"color": "#0072B2", "size": 8}, selector={"mode": "markers"})
        plots["history"] = laid_out(plot.update_xaxes(title=f"trial ({len(search.complete)} complete)"))
        if importance(search):
            plot = visualization.plot_param_importances(drawn, evaluator=_evaluator(), **names, **label)
            plot.update_traces(marker_color="#0072B2", y=[html.escape(name) for name in plot.data[0].y])
            plot.update_yaxes(title="")
            plot.update_layout(xaxis_title=IMPORTANCE.replace(" of the", "<br>of the"))
            plots["importance"] = laid_out(plot)
        if search.scales:
            plots["slice"] = _slice_plot(search)
            plot = visualization.plot_parallel_coordinate(drawn, **names, **label)
            own, *axes = (
                plot.layout.xaxis.ticktext
            )  # the objective's name comes first, and is as it was given
            plot.update_xaxes(ticktext=[own, *map(html.escape, axes)])
            plot.for_each_annotation(lambda mark: mark.update(text=html.escape(mark.text)))
            plot.update_layout(plot_bgcolor="#e2e2e2")  # the lightest lines are white
            plots["parallel_coordinates"] = plot
    for plot in plots.values():
        plot.update_layout(title=None, margin={"t": 40})
    return plots


def search_sections(plots: Mapping[str, go.Figure]) -> list[Section]:
    """Parts of a page with what `search_plots` gives."""
    return [
        Section(HEADINGS[name], figure=plot, note=_NOTES[name], least_width=_LEAST_WIDTHS.get(name, 0))
        for name, plot in plots.items()
    ]


_LEAST_WIDTHS = {"slice": 560, "parallel_coordinates": 660}  # pixels; a sheet of paper has 680
_NOTES = {
    "history": "Each complete trial by number, and the best so far.",
    "importance": "Of which parameter it depends whether a trial is among the best; few trials say little.",
    "slice": "Value by parameter of complete trials; later ones are darker, the best one is a star.",
    "parallel_coordinates": "A line for each complete trial, through its parameters to its value; darker is better.",
}


def study_of(trials: pd.DataFrame, maximizes: bool, name: str) -> "optuna.Study":
    """A study in memory with these trials, to draw figures of: those of a store that Optuna's own cannot be read from.

    What parameters could have been is taken from what they were: words and a few whole numbers are choices, others a
    range, a logarithmic one where positive numbers differ by a factor of 100 or more and lie evenly on it. Trials whose
    number is not there count as waiting.

    Args:
        trials: one row each: number, state (running, complete, pruned or failed), value, a column for each parameter
            (missing where the trial had none), and optionally what else `search_summary` has.
        maximizes: whether higher values are better.
        name: of the study.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    states = {word: TrialState[state] for state, word in STATES.items()}
    names = [column for column in trials if column not in _NOT_PARAMETERS and trials[column].notna().any()]
    kinds = {column: _distribution(trials[column].dropna().tolist()) for column in names}
    by_number = {int(row["number"]): row for row in trials.to_dict("records")}
    made = []
    for number in range(max(by_number, default=-1) + 1):
        row = by_number.get(number)
        if row is None:
            made.append(create_trial(state=TrialState.WAITING))
            continue
        own = [column for column in names if not _missing(row[column])]
        value = None
        if row["state"] == "complete":  # the store keeps no value that is not finite
            value = row["value"] if not _missing(row["value"]) else -math.inf if maximizes else math.inf
        tried = row.get("retry_of")
        made.append(
            create_trial(
                state=states[row["state"]],
                value=value,
                params={column: _choice_of(kinds[column], row[column]) for column in own},
                distributions={column: kinds[column] for column in own},
                user_attrs={
                    key: row[column]
                    for key, column in ((_ORIGIN, "origin"), (FAILURE, "failure"))
                    if row.get(column) and not _missing(row[column])
                },
                system_attrs={} if _missing(tried) else {_RETRIED: int(tried), "retry_history": [int(tried)]},
            )
        )
    with _quiet():
        study = optuna.create_study(study_name=name, direction="maximize" if maximizes else "minimize")
    study.add_trials(made)
    return study


_NOT_PARAMETERS = ("number", "state", "value", "epochs", "seconds", "origin", "failure", "retry_of")
_MOST_CHOICES = 10  # whole numbers of more values than these are a range


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _distribution(values: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    different = sorted(set(values))
    low, high = different[0], different[-1]
    log = low > 0 and high / low >= 100 and _is_log(values)
    if all(isinstance(value, int) for value in values):
        few = len(different) <= _MOST_CHOICES
        return CategoricalDistribution(different) if few else IntDistribution(low, high, log=log)
    # choices that are numbers come again, draws from a range hardly do
    if len(different) <= _MOST_CHOICES and len(different) <= len(values) / 2:
        return CategoricalDistribution(different)
    return FloatDistribution(low, high, log=log)


def _is_log(values: list[float]) -> bool:
    """Whether the median is nearer to the middle of a logarithmic axis than to that of a linear one."""
    low, high, median = math.log(min(values)), math.log(max(values)), math.log(statistics.median(values))
    return abs(median - (low + high) / 2) < abs(median - math.log((min(values) + max(values)) / 2))


def _choice_of(kind: Any, value: Any) -> Any:
    """The value as the distribution has it."""
    if hasattr(kind, "choices") and any(isinstance(choice, str) for choice in kind.choices):
        return str(value)
    return (
        int(value)
        if isinstance(kind.high if hasattr(kind, "high") else kind.choices[0], int)
        else float(value)
    )


_COLUMNS = 3  # of slices


def _slice_plot(search: Search) -> go.Figure:
    """Value against each parameter, of complete trials: later ones are darker, the best one is a star."""
    rows = -(-len(search.scales) // _COLUMNS)
    figure = make_subplots(
        rows, _COLUMNS, shared_yaxes=True, vertical_spacing=0.3 / rows, horizontal_spacing=0.05
    )
    last = max(1, max(trial.number for trial in search.complete))
    for place, scale in enumerate(search.scales):
        trials = [trial for trial in search.complete if scale.name in trial.params]
        at = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        numbers = [trial.number for trial in trials]
        figure.add_scatter(
            x=[scale.at(trial.params[scale.name]) for trial in trials],
            y=[value_of(trial) for trial in trials],
            mode="markers",
            marker={
                "color": numbers,
                "cmin": 0,
                "cmax": last,
                "colorscale": "Blues",
                "showscale": place == 0,
                "colorbar": {"title": "trial"},
                "line": {"color": INK, "width": 1},
                "size": [14 if trial is search.best else 8 for trial in trials],
                "symbol": ["star" if trial is search.best else "circle" for trial in trials],
            },
            text=[f"trial {number}" for number in numbers],
            hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
            showlegend=False,
            cliponaxis=False,  # the best one is at an edge
            **at,
        )
        fewer = "" if len(trials) == len(search.complete) else f" (n = {len(trials)})"
        figure.update_xaxes(title=f"{html.escape(scale.name)}{fewer}", **at)
        if scale.log:
            figure.update_xaxes(type="log", **at)
        if scale.choices or scale.log:
            ticks = scale.ticks(apart=0.2)
            figure.update_xaxes(
                tickvals=[*ticks], ticktext=[html.escape(word) for word in ticks.values()], **at
            )
    figure.update_yaxes(title=html.escape(search.objective), col=1)
    return figure.update_layout(height=80 + 240 * rows)


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
