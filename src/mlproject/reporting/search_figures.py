"""Pictures of a search: what was found when, which parameters mattered, and which values were good."""

import math
from collections import Counter
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mlproject.reporting.style import PALETTE, STYLE, as_written

Trial = Any  # a FrozenTrial of Optuna, which is not imported here

STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "RUNNING": "running",
    "WAITING": "waiting",
    "FAIL": "failed",
}
IMPORTANCE = "share of importance for being in the best quarter of the complete trials (PED-ANOVA)"
_MOST_LETTERS = 60  # of a study's name in a title
_MOST_LETTERS_OF_A_CHOICE = 12


class Scale(NamedTuple):
    """How the values of one parameter lie on an axis."""

    name: str
    log: bool
    whole: bool
    choices: list[Any]
    """In the order of the axis; none of numbers."""
    low: float
    high: float

    def at(self, value: Any) -> float:
        """The number that stands for a value: the place of a choice."""
        return float(self.choices.index(value) if self.choices else value)

    def share(self, number: float) -> float:
        """Where the number lies between the ends, from 0 to 1."""
        low, high, place = (math.log(x) if self.log else x for x in (self.low, self.high, number))
        return (place - low) / (high - low) if high > low else 0.5

    def ticks(self, apart: float) -> dict[float, str]:
        """Numbers to mark, with their labels, none nearer to another than this part of the axis."""
        if self.choices:
            step = -(-len(self.choices) // 12)
            return {float(at): _choice(self.choices[at]) for at in range(0, len(self.choices), step)}
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if self.high / self.low < 100 else (1,)
            inner = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        else:
            inner = list(
                MaxNLocator(5, steps=[1, 2, 5, 10], integer=self.whole).tick_values(self.low, self.high)
            )
        marked = [self.low, self.high] if self.high > self.low else [self.low]
        for number in inner:
            if all(abs(self.share(number) - self.share(other)) >= apart for other in marked):
                marked += [number] if self.low < number < self.high else []
        return {number: _tick(number, self.log) for number in sorted(marked)}


class Search(NamedTuple):
    """What figures show of a study."""

    name: str
    objective: str
    maximizes: bool
    trials: list[Trial]
    complete: list[Trial]
    """With a finite value."""
    scales: list[Scale]
    """Of the parameters of complete trials that could vary, in the order in which trials chose them."""

    @property
    def best(self) -> Trial:
        return (max if self.maximizes else min)(self.complete, key=value_of)

    def counts(self) -> str:
        found = Counter(STATES[trial.state.name] for trial in self.trials)
        words = [
            f"{found[state]} {state}"
            for state in STATES.values()
            if found[state] or state in ("complete", "pruned", "failed")
        ]
        return f"{len(self.trials)} trial{'s' * (len(self.trials) != 1)}: {', '.join(words)}"

    def title(self, what: str) -> str:
        return f"{what} of {as_written(_short(self.name, _MOST_LETTERS))}\n{self.counts()}"


@matplotlib.rc_context(STYLE)
def history_figure(search: Search) -> Figure | None:
    """Values by trial, and the best so far; pruned trials at the last value they reported, failed ones as ticks."""
    pruned = {
        trial.number: trial.intermediate_values[max(trial.intermediate_values)]
        for trial in search.trials
        if trial.state.name == "PRUNED" and trial.intermediate_values
    }
    pruned = {number: value for number, value in pruned.items() if math.isfinite(value)}
    failed = [trial.number for trial in search.trials if trial.state.name == "FAIL"]
    if not search.complete and not pruned:
        return None
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    colors = sns.color_palette(PALETTE)
    if search.complete:
        numbers, values = _series(search.complete)
        best = (np.maximum if search.maximizes else np.minimum).accumulate(values)
        ends = [*numbers, max(trial.number for trial in search.trials)]
        axes.step(
            ends, [*best, best[-1]], where="post", color="0.3", linewidth=1.2, label="best so far", zorder=1
        )
        axes.plot(numbers, values, "o", color=colors[0], markersize=5, label="complete", zorder=3)
    if pruned:
        words = "pruned (the last value reported)"
        axes.plot([*pruned], [*pruned.values()], "x", color=colors[1], markersize=5, label=words, zorder=2)
    if failed:
        where = axes.get_xaxis_transform()
        ticks = {"color": colors[3], "markersize": 9, "markeredgewidth": 1.5, "clip_on": False}
        axes.plot(failed, [0.03] * len(failed), "|", transform=where, label="failed", **ticks)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="trial", ylabel=as_written(search.objective), title=search.title("History"))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def importance_figure(search: Search, shares: dict[str, float]) -> Figure | None:
    """How much each parameter decides whether a trial is in the best quarter of the complete ones."""
    if not shares:
        return None
    figure = Figure(figsize=(7.2, 1.5 + 0.32 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = [*reversed(shares)]
    bars = axes.barh(
        [as_written(name) for name in names],
        [shares[name] for name in names],
        color=sns.color_palette(PALETTE)[0],
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(shares.values()) * 1.1)
    axes.set(xlabel=IMPORTANCE)
    figure.suptitle(f"{search.title('Importance of parameters')}; objective {as_written(search.objective)}")
    return figure


@matplotlib.rc_context(STYLE)
def slice_figure(search: Search) -> Figure | None:
    """Value against each parameter, of complete trials; later trials are darker, the best one is a star."""
    if not search.scales:
        return None
    columns = min(4, len(search.scales))
    rows = -(-len(search.scales) // columns)
    figure = Figure(figsize=(max(5.4, 0.6 + 2.15 * columns), 1.0 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    last = max(trial.number for trial in search.complete)
    color = ScalarMappable(Normalize(0, max(1, last)), _colors(dark_is_high=True))
    for axes, scale in zip(panels.flat, search.scales, strict=False):
        _slice(axes, scale, search, color)
    for axes in panels.flat[len(search.scales) :]:
        axes.remove()
    figure.supylabel(as_written(search.objective), fontsize="medium")
    ticks = MaxNLocator(6, integer=True)
    figure.colorbar(color, ax=figure.axes, label="trial", ticks=ticks, aspect=30, pad=0.01)
    figure.suptitle(f"{search.title('Slices')}; drawn: complete; star: the best")
    return figure


def _slice(axes: Axes, scale: Scale, search: Search, color: ScalarMappable) -> None:
    trials = [trial for trial in search.complete if scale.name in trial.params]
    numbers, values = _series(trials)
    places = [scale.at(trial.params[scale.name]) for trial in trials]
    axes.scatter(places, values, s=22, c=color.to_rgba(numbers), edgecolor="0.2", linewidth=0.4, zorder=2)
    if search.best in trials:
        at, value = scale.at(search.best.params[scale.name]), value_of(search.best)
        axes.plot(at, value, "*", color=sns.color_palette(PALETTE)[1], markersize=12, mec="0.1", zorder=3)
    if scale.log:
        axes.set_xscale("log")
        margin = (scale.high / scale.low) ** 0.06
        axes.set_xlim(scale.low / margin, scale.high * margin)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.06 * (scale.high - scale.low) or 0.5
        axes.set_xlim(scale.low - margin, scale.high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=scale.whole))
    if scale.choices or scale.log:
        ticks = scale.ticks(apart=0.2)
        axes.set_xticks([*ticks], [*ticks.values()])
        if sum(map(len, ticks.values())) > 22:
            axes.tick_params(axis="x", rotation=90)
    axes.margins(y=0.08)
    fewer = "" if len(trials) == len(search.complete) else f" (n = {len(trials)})"
    axes.set_xlabel(as_written(scale.name) + fewer)


@matplotlib.rc_context(STYLE)
def parallel_coordinates_figure(search: Search) -> Figure | None:
    """A line for each complete trial through its parameters to its value; darker is better, the best is thick."""
    if not search.scales:
        return None
    values = _series(search.complete)[1]
    scales = [
        *search.scales,
        Scale(search.objective, False, False, [], float(values.min()), float(values.max())),
    ]
    figure = Figure(figsize=(max(6.4, 1.1 * len(scales) + 0.8), 4.2), layout="constrained")
    axes = figure.subplots()
    norm, colors = Normalize(values.min(), values.max()), _colors(dark_is_high=search.maximizes)
    worst_first = sorted(search.complete, key=value_of, reverse=not search.maximizes)
    absent = -0.14
    for trial in worst_first:
        heights = [
            scale.share(scale.at(trial.params[scale.name])) if scale.name in trial.params else absent
            for scale in search.scales
        ]
        heights.append(scales[-1].share(value_of(trial)))
        look: dict[str, Any] = {"color": colors(norm(value_of(trial))), "linewidth": 1.0, "alpha": 0.8}
        if trial is search.best:
            look = {"color": "0.05", "linewidth": 2.4}
        axes.plot(range(len(scales)), heights, label=f"trial {trial.number}", **look)
    for at, scale in enumerate(scales):
        axes.axvline(at, 0, 1, color="0.6", linewidth=0.8, zorder=0)
        marks = {scale.share(number): label for number, label in scale.ticks(apart=0.1).items()}
        if at < len(search.scales) and any(scale.name not in trial.params for trial in search.complete):
            marks[absent] = "none"
        for height, label in marks.items():
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
            axes.annotate(
                label, (at, height), (3, 0), textcoords="offset points", va="center", size="small", bbox=box
            )
    names = [as_written(scale.name).replace("/", "/\n") for scale in scales]
    axes.set_xticks(range(len(scales)), names)
    axes.set_yticks([])
    axes.set(xlim=(-0.15, len(scales) - 0.5), ylim=(-0.2, 1.06))
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    words = (
        f"drawn: {len(search.complete)} complete; darker: better; thick: the best, trial {search.best.number}"
    )
    axes.set_title(f"{search.title('Parallel coordinates')}\n{words}")
    return figure


def value_of(trial: Trial) -> float:
    """Of a complete trial; Optuna gives pruned ones the last value they reported."""
    return math.nan if trial.state.name != "COMPLETE" or trial.value is None else trial.value


def _series(trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and values."""
    return np.array([trial.number for trial in trials]), np.array([value_of(trial) for trial in trials])


def _colors(dark_is_high: bool) -> Colormap:
    """From light to dark, so that it is told without colour too."""
    return sns.color_palette("crest" if dark_is_high else "crest_r", as_cmap=True)


def _tick(number: float, log: bool) -> str:
    return f"{number:.0e}".replace("e-0", "e-") if log and number < 0.01 else f"{number:.3g}"


def _choice(value: Any) -> str:
    return as_written(_short(str(value), _MOST_LETTERS_OF_A_CHOICE))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
