"""What is read of the store. Frames are kept as they are, never pickled; who gets one does not change it.

What a training that has ended keeps stays as it is, so it is remembered until memory for it is used up; what may change
is asked for again after some seconds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from mlproject import reporting
from mlproject.errors import InputError
from mlproject.tracking import grids, reading, registered, runs, signals, store, studies

SECONDS = 5  # between two looks at what may change
_RUNS = 100  # of which tables are kept: 5,313 tracks take about a megabyte
_GRIDS = 8  # joined tables: 24 runs of 5,313 tracks take about ten


def where() -> str:
    """The address of the store, without a password."""
    return store.shown_address()


def without_passwords(words: str) -> str:
    """As `store.without_passwords`."""
    return store.without_passwords(words)


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_grids() -> pd.DataFrame:
    """As `grids.list_grids`."""
    with store.explained():
        return grids.list_grids()


@st.cache_resource(ttl=SECONDS, max_entries=_RUNS, show_spinner=False)
def find_grid(run_id: str) -> grids.GridRun:
    """As `grids.find_grid`."""
    with store.explained():
        return grids.find_grid(run_id)


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def read_tracks(run_id: str, organism: str) -> pd.DataFrame:
    """As `grids.read_tracks`, which of a training that has ended are what they are."""
    with store.explained():
        return grids.read_tracks(run_id, organism)


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def _ended_curves(run_id: str, names: tuple[str, ...], ended: str) -> pd.DataFrame:
    """One that failed may be gone on with under the same ID: then it ends again, at another time."""
    return grids.read_curves(run_id, names)


@st.cache_resource(ttl=SECONDS, max_entries=_RUNS, show_spinner=False)
def _growing_curves(run_id: str, names: tuple[str, ...]) -> pd.DataFrame:
    return grids.read_curves(run_id, names)


def read_training(grid: grids.GridRun, organism: str) -> pd.DataFrame:
    """As `grids.read_training`: curves that grow are read again."""
    ended = {
        row.run_id: f"{row.status} {row.end_time}"
        for row in grid.children.itertuples()
        if row.status != "RUNNING"
    }

    def read(run_id: str, names: Any) -> pd.DataFrame:
        if run_id in ended:
            return _ended_curves(run_id, tuple(names), ended[run_id])
        return _growing_curves(run_id, tuple(names))

    with store.explained():
        return grids.read_training(grid, organism, read=read)


class Choice(NamedTuple):
    """The trainings of a grid that are looked at; as a key of what is remembered, it says how far they are."""

    run_id: str
    organism: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    ended: tuple[str, ...]
    """IDs of the runs whose tables there are."""


def _read_or_none(run_id: str, organism: str) -> pd.DataFrame:
    """One training whose table is gone leaves the others to be told of."""
    try:
        return read_tracks(run_id, organism)
    except InputError:
        return pd.DataFrame(columns=["index", "identifier", "category", "pearson_r"])


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def scores(choice: Choice) -> pd.DataFrame:
    """As `grids.read_scores`, of what was chosen."""
    found = grids.read_scores(find_grid(choice.run_id), choice.organism, read=_read_or_none)
    return found[found["variant"].isin(choice.variants) & found["seed"].isin(choice.seeds)]


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def grid(choice: Choice) -> reporting.Grid:
    """What `reporting` says of it; without curves and times, which are read where they are shown."""
    run = find_grid(choice.run_id)
    own = scores(choice)
    with store.explained():
        categories = grids.read_categories(run, own)
    categories = categories[categories["variant"].isin(choice.variants)]
    nothing = pd.DataFrame(columns=["variant", "seed"])
    return reporting.Grid(run.name, choice.organism, own, categories, nothing, nothing, ())


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def facts(run_id: str, ended: int) -> list[tuple[str, str]]:
    """As `grids.grid_facts`, which name the data only when a training has ended: so that many have."""
    with store.explained():
        return grids.grid_facts(find_grid(run_id))


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_tracked() -> pd.DataFrame:
    """As `reading.read_runs`, the runs that have ended and keep a table of tracks."""
    with store.explained():
        return reading.read_runs(finished=True, metric="pearson/mean")


def imported_runs(run_id: str) -> pd.DataFrame:
    """Variants and seeds of a grid that was read from files."""
    return _imported(run_id)[["variant", "seed"]].drop_duplicates()


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def _imported(run_id: str) -> pd.DataFrame:
    run = find_grid(run_id)
    with store.explained():
        return grids.read_scores(run, run.organisms[0])


def training_seconds(grid: grids.GridRun) -> pd.DataFrame:
    """As `grids.training_seconds`."""
    return grids.training_seconds(grid)


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def organisms(run_id: str) -> list[str]:
    """Those that a run has tables of tracks of."""
    with store.explained():
        return reading.list_tables(run_id, "tracks_")


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def pairs(first: str, second: str, organism: str) -> pd.DataFrame:
    """As `reporting.paired_tracks`."""
    return reporting.paired_tracks(read_tracks(first, organism), read_tracks(second, organism))


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_models() -> list[str]:
    """As `registered.list_models`."""
    with store.explained():
        return registered.list_models()


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_versions(name: str) -> pd.DataFrame:
    """As `registered.list_versions`."""
    with store.explained():
        return registered.list_versions(name)


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def alias_history(name: str) -> pd.DataFrame:
    """As `registered.history`."""
    with store.explained():
        return registered.history(name)


def promote(name: str, version: int, alias: str, by: str) -> int | None:
    """As `registered.promote`; what is remembered of models is read anew."""
    with store.explained():
        before = registered.promote(name, version, alias, by)
    for function in (list_models, list_versions, alias_history):
        function.clear()
    return before


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def datasets(run_id: str) -> list[tuple[str, str]]:
    """Name and digest of the data that a run was given; none where the run is gone."""
    if not run_id:
        return []
    with store.explained():
        return runs.find_run(run_id).datasets()


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_signalled() -> pd.DataFrame:
    """Rows of `read_runs`, newest first: those that have ended and may keep signal."""
    with store.explained():
        predicted = reading.read_runs(finished=True, tags={"command": "predict"})
    found = [frame for frame in (predicted, list_tracked()) if not frame.empty]
    if not found:
        return predicted
    return pd.concat(found, ignore_index=True).sort_values("start_time", ascending=False, ignore_index=True)


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def signal_organisms(run_id: str) -> list[str]:
    """As `signals.list_signals`."""
    with store.explained():
        return signals.list_signals(run_id)


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def signal_index(run_id: str, organism: str) -> pd.DataFrame:
    """As `signals.read_signal_index`."""
    with store.explained():
        return signals.read_signal_index(run_id, organism)


@st.cache_resource(max_entries=_RUNS, show_spinner=False)
def signal_panels(
    run_id: str, organism: str, tracks: tuple[int, ...], chrom: str, start: int
) -> list[reporting.SignalPanel]:
    """Those tracks in one region, in the order in which they are named."""
    with store.explained():
        found = signals.read_signals(run_id, organism, tracks, chrom, start)
    return [
        reporting.SignalPanel(
            f"{row.identifier} {row.description}".strip(),
            row.chrom,
            int(row.start),
            int(row.bin_size),
            row.predicted,
            row.sd,
            row.measured,
        )
        for row in found.itertuples()
    ]


class Search(NamedTuple):
    """A search as it stands."""

    words: list[str]
    trials: pd.DataFrame
    plots: Mapping[str, Any]
    """As `reporting.search_plots`."""


@st.cache_resource(ttl=SECONDS, show_spinner=False)
def list_searches() -> pd.DataFrame:
    """Rows of `studies.list_studies`, searches alone."""
    with store.explained():
        return studies.list_studies(kinds=(studies.SEARCH_HEAD,))


def read_search(run_id: str, running: bool) -> Search:
    """The search of a run, which changes while it is under way."""
    return (_growing_search if running else _ended_search)(run_id)


@st.cache_resource(ttl=SECONDS, max_entries=_GRIDS, show_spinner=False)
def _growing_search(run_id: str) -> Search:
    return _search(run_id)


@st.cache_resource(max_entries=_GRIDS, show_spinner=False)
def _ended_search(run_id: str) -> Search:
    return _search(run_id)


def _search(run_id: str) -> Search:
    with store.explained():
        row = reading.read_run(run_id)
        trials = studies.read_trials(run_id)
    objective = row.get("params.objective", "pearson")
    study = reporting.study_of(trials, objective != "loss", row["name"])
    label = f"validation/{objective}"
    return Search(
        reporting.search_words(study, label),
        reporting.search_summary(study),
        reporting.search_plots(study, label),
    )
