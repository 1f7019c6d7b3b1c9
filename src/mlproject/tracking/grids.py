"""Grids in the store: which there are, and what their trainings have kept, as frames for `reporting.Grid`."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from mlproject.errors import InputError
from mlproject.tracking import reading
from mlproject.tracking.runs import PARENT, find_run

COMMAND = "ablation"
IMPORTED = "grid.imported"  # tag of a run that keeps, as tables, the grid of files that it has read
SCORES, CATEGORIES = "scores", "categories"  # those tables
ORGANISM, TITLE = "grid.organism", "grid.title"  # tags of such a run
_MOST_POINTS = 300  # of a curve
_SECONDS = {"seconds/train": "training", "seconds/evaluate": "evaluation", "seconds/total": "other"}


class GridRun(NamedTuple):
    """A grid and its trainings, without what they have kept."""

    run_id: str
    name: str
    status: str
    """Of the parent: RUNNING, FINISHED, FAILED or KILLED."""
    organisms: Sequence[str]
    imported: bool
    """Whether it was read from files: there are no trainings then."""
    wanted: int
    """How many trainings were asked for."""
    children: pd.DataFrame
    """run_id, variant, seed, status, then as `read_runs` has them; the first that was begun comes first."""
    row: dict[str, Any]
    """Of the parent, as `read_runs` has it."""


class GridFrames(NamedTuple):
    """What is known of a grid for one organism: fields of `reporting.Grid`."""

    scores: pd.DataFrame
    categories: pd.DataFrame
    curves: pd.DataFrame
    seconds: pd.DataFrame


def list_grids(experiment: str | None = None) -> pd.DataFrame:
    """Rows of `read_runs`, newest first: the runs of `ablation`, and those that have read a grid from files."""
    found = [reading.read_runs(experiment, tags=tags) for tags in ({"command": COMMAND}, {IMPORTED: "true"})]
    known = [frame for frame in found if not frame.empty] or found[:1]
    return pd.concat(known, ignore_index=True).sort_values("start_time", ascending=False, ignore_index=True)


def find_grid(run_id: str) -> GridRun:
    """The grid of a run that `list_grids` has.

    Raises:
        InputError: there is no such run, or it is of no grid, or does not say which.
    """
    row = reading.read_run(run_id)
    imported = row.get(f"tags.{IMPORTED}") == "true"
    if not imported and row.get("tags.command") != COMMAND:
        raise InputError(f"run {run_id}: is no grid; `mlflow run . -e {COMMAND}` makes one")
    needed = (f"tags.{ORGANISM}",) if imported else ("params.organisms", "params.variants", "params.seeds")
    if lacking := [name for name in needed if name not in row]:
        raise InputError(f"run {run_id}: does not say of which grid it is; it lacks {', '.join(lacking)}")
    organisms = [row[f"tags.{ORGANISM}"]] if imported else row["params.organisms"].split(",")
    children = pd.DataFrame(columns=["run_id", "variant", "seed", "status"])
    if not imported:
        found = reading.read_runs(tags={PARENT: run_id}, experiment_ids=[row["experiment_id"]])
        if {"params.variant", "params.seed"} <= set(found):
            found = found.dropna(subset=["params.variant", "params.seed"])[::-1].reset_index(drop=True)
            children = found.assign(variant=found["params.variant"], seed=found["params.seed"].astype(int))
    wanted = len(children)
    if not imported:
        wanted = len(row["params.variants"].split(",")) * len(row["params.seeds"].split(","))
    name = row.get(f"tags.{TITLE}", row["name"])
    return GridRun(run_id, name, row["status"], organisms, imported, wanted, children, row)


def read_tracks(run_id: str, organism: str) -> pd.DataFrame:
    """Of a training that has ended: index, identifier, description, category, pearson_r, r2 of each track, as kept."""
    return find_run(run_id).table(f"tracks_{organism}")


def read_curves(run_id: str, names: Sequence[str]) -> pd.DataFrame:
    """Points of those series of a run, at most about 300 each: series, step, value."""
    run = find_run(run_id)
    rows = []
    for name in names:
        points = run.history(name)
        rows += [(name, *point) for point in points[:: max(1, len(points) // _MOST_POINTS)]]
    return pd.DataFrame(rows, columns=["series", "step", "value"])


def track_names(tracks: pd.DataFrame) -> pd.Series:
    """What tracks are called where many are compared: identifiers alone may be there twice."""
    return tracks["identifier"].astype(str) + " " + tracks["index"].astype(str)


def read_scores(
    grid: GridRun, organism: str, *, read: Callable[[str, str], pd.DataFrame] = read_tracks
) -> pd.DataFrame:
    """Pearson r by track of the trainings that have ended: variant, seed, track, score, and category where known.

    Args:
        grid: of any state.
        organism: one of the grid's.
        read: `read_tracks`, or one that remembers.
    """
    if grid.imported:
        return find_run(grid.run_id).table(SCORES)
    parts = [pd.DataFrame(columns=["variant", "seed", "track", "score", "category"])]
    for child in _ended(grid).itertuples():
        tracks = read(str(child.run_id), organism)
        parts.append(
            pd.DataFrame(
                {
                    "variant": child.variant,
                    "seed": child.seed,
                    "track": track_names(tracks),
                    "score": tracks["pearson_r"],
                    "category": tracks["category"],
                }
            )
        )
    return pd.concat(parts[1:] or parts, ignore_index=True)


def read_categories(grid: GridRun, scores: pd.DataFrame) -> pd.DataFrame:
    """The mean of each category by variant, over tracks and seeds: variant, then a column for each."""
    if grid.imported:
        return find_run(grid.run_id).table(CATEGORIES)
    found = scores.pivot_table(index="variant", columns="category", values="score", sort=False)
    return found.reset_index().rename_axis(columns=None)


def read_training(
    grid: GridRun, organism: str, *, read: Callable[[str, Sequence[str]], pd.DataFrame] = read_curves
) -> pd.DataFrame:
    """Curves of all trainings, those under way too: variant, seed, series, step, value.

    Args:
        grid, organism: as in `read_scores`.
        read: `read_curves`, or one that remembers.
    """
    first = organism == grid.organisms[0]
    names = (
        ("loss", "validation/pearson") if first else (f"loss/{organism}", f"validation/{organism}/pearson")
    )
    return curves_of(grid.children, names, read=read)


def curves_of(
    trainings: pd.DataFrame,
    names: Sequence[str],
    *,
    read: Callable[[str, Sequence[str]], pd.DataFrame] = read_curves,
) -> pd.DataFrame:
    """Those series of trainings of any study: variant, seed, series, step, value.

    Args:
        trainings: run_id, variant, seed.
        names: of the series; those that a training has not are left out.
        read: `read_curves`, or one that remembers.
    """
    parts = [pd.DataFrame(columns=["variant", "seed", "series", "step", "value"])]
    for child in trainings.itertuples():
        points = read(str(child.run_id), names)
        parts.append(points.assign(variant=child.variant, seed=child.seed)[[*parts[0].columns]])
    known = [part for part in parts if not part.empty]
    return pd.concat(known, ignore_index=True) if known else parts[0]


def training_seconds(grid: GridRun) -> pd.DataFrame:
    """What took how long in the trainings that have ended: variant, seed, training, evaluation, other."""
    return seconds_of(grid.children)


def seconds_of(trainings: pd.DataFrame) -> pd.DataFrame:
    """The same of trainings of any study; evaluation is left out where it was not timed.

    Args:
        trainings: variant, seed, status and metrics, as `read_runs` has them.
    """
    ended = trainings[trainings["status"] == "FINISHED"]
    if ended.empty:
        return pd.DataFrame(columns=["variant", "seed"])
    took = {
        words: ended.get(f"metrics.{name}", pd.Series(float("nan"), ended.index))
        for name, words in _SECONDS.items()
    }
    took["other"] = took["other"] - took["training"] - took["evaluation"].fillna(0)
    if took["evaluation"].isna().all():
        del took["evaluation"]
    return ended[["variant", "seed"]].assign(**took).reset_index(drop=True)


def read_grid(grid: GridRun, organism: str) -> GridFrames:
    """All of it."""
    scores = read_scores(grid, organism)
    return GridFrames(
        scores, read_categories(grid, scores), read_training(grid, organism), training_seconds(grid)
    )


def grid_facts(grid: GridRun) -> list[tuple[str, str]]:
    """How to repeat it: names and words."""
    ended = _ended(grid)
    return facts_of(grid.name, grid.row, list(ended["run_id"][:1]))


def facts_of(name: str, row: Mapping[str, Any], runs: Sequence[str]) -> list[tuple[str, str]]:
    """How to repeat a study of any kind: names and words.

    Args:
        name: of the study.
        row: of its run, as `read_run` gives it.
        runs: those that name the data that went in.
    """
    facts = [("run", f"{name}, {row['run_id']}"), ("started", f"{row['start_time']:%Y-%m-%d %H:%M} UTC")]
    datasets = dict.fromkeys(dataset for run_id in runs for dataset in find_run(run_id).datasets())
    facts += [("dataset", f"{called}, digest {digest}") for called, digest in datasets]
    commit = row.get("commit")
    facts += [("commit", commit)] if isinstance(commit, str) else []
    return [*facts, ("command", command_of(row))]


def command_of(row: Mapping[str, Any]) -> str:
    """What a shell takes to repeat the run of a row of `read_run`."""
    given = {name.removeprefix("params."): value for name, value in row.items() if name.startswith("params.")}
    words = [f"--{name} {shlex.quote(given[name])}" for name in sorted(given) if given[name]]
    return f"python -m mlproject {row['tags.command']} {' '.join(words)}"


def _ended(grid: GridRun) -> pd.DataFrame:
    return grid.children[grid.children["status"] == "FINISHED"]
