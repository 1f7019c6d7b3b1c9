"""Which of two versions of a registered model is the better one."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from mlproject import reporting
from mlproject.data.batches import evaluation_batches
from mlproject.data.records import TrackDataset, open_dataset
from mlproject.errors import InputError
from mlproject.evaluation import correlation_difference, evaluate
from mlproject.reproducing import saved_model_predictions

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

_TRACKS = "tracks_"  # tables of Pearson r by track


class Compared(NamedTuple):
    """What one version has over another on the same data."""

    challenger: int
    champion: int
    pairs: str
    """How many of what are paired: `5,313 tracks of human`."""
    data: str
    """What both were evaluated on."""
    value: float
    """Pearson r of the challenger minus that of the champion."""
    low: float
    high: float
    """Ends of the 95% interval, of tracks or of clusters of sequences; NaN where there are too few."""
    table: pd.DataFrame
    """Of tracks index, identifier, description, category, r_x (champion), r_y (challenger) and difference; of an
    activity name, cluster, activity, predicted_x, predicted_y and what else says whose it is."""

    def words(self) -> str:
        """The comparison in a sentence."""
        interval = (
            f"{self.low:+.4f} to {self.high:+.4f}" if np.isfinite(self.low) else "too few for an interval"
        )
        return (
            f"version {self.challenger} minus version {self.champion}: Pearson r {self.value:+.4f} "
            f"({interval}), paired, of {self.pairs} on {self.data}; the interval says nothing "
            "of other seeds"
        )

    def keep(self, run: "Run") -> None:
        """Keeps the table and the numbers."""
        run.keep_table("comparison", self.table)
        run.summarize({"difference": self.value, "low": self.low, "high": self.high})


class Data(NamedTuple):
    """A dataset on which versions are evaluated anew."""

    folder: str
    split: str
    """train, valid or test."""
    batch_size: int


class _Activity(NamedTuple):
    """A table of predicted activities: what its rows are, which columns say whose, and within what r is taken."""

    rows: str
    key: list[str]
    group: str


_ACTIVITY = {
    "constructs": _Activity("constructs", ["index", "name"], "fold"),
    "predictions": _Activity("sequences in cell types", ["name", "cell_type"], "cell_type"),
}


def compare(name: str, challenger: str, champion: str, on: Data | None = None, head: str = "") -> Compared:
    """Compares two versions of a registered model.

    Without `on` by what their runs have kept: Pearson r of each track, else what was predicted of each held-out
    construct or MPRA sequence.

    Args:
        name: of the registered model.
        challenger: number or alias.
        champion: likewise.
        on: both predict its windows, by what is served of them; tracks alone.
        head: of tracks, with `on` the organism too; empty: the first that both have.

    Raises:
        InputError: there is no such version, it is of no run that keeps such tables, or both were evaluated on other
            data, windows or tracks; with `on`, the dataset or its head does not fit both.
    """
    from mlproject.tracking import reading, registered  # takes seconds to import
    from mlproject.tracking.runs import find_run

    first, second = (registered.find_version(name, words) for words in (champion, challenger))
    versions = second["version"], first["version"]
    if first["version"] == second["version"]:
        raise InputError(
            f"registered model {name!r}: {challenger} and {champion} are both version {first['version']}"
        )
    if on is not None:
        return _evaluated(name, versions, on, head)
    kept, data = [], []
    for row in (first, second):
        if not row["run_id"]:
            raise InputError(
                f"registered model {name!r}: version {row['version']} was made by no run; nothing is known of it"
            )
        tables = reading.list_tables(row["run_id"], "")
        kept.append([table for table in tables if table.startswith(_TRACKS) or table in _ACTIVITY])
        data.append(_evaluated_on(row["run_id"]))
    both = [table for table in kept[0] if table in kept[1] and (not head or table == f"{_TRACKS}{head}")]
    if not both:
        of_head = f" of {head!r}" if head else ""
        raise InputError(
            f"registered model {name!r}: versions {first['version']} and {second['version']} have no table{of_head} in "
            f"common by which to compare them; they have {', '.join(kept[0]) or 'none'} and "
            f"{', '.join(kept[1]) or 'none'}"
        )
    if data[0] != data[1]:
        raise InputError(
            f"registered model {name!r}: version {first['version']} was evaluated on {data[0]}, version "
            f"{second['version']} on {data[1]}; only the same data can be compared: --data names a dataset for both"
        )
    tables = [find_run(row["run_id"]).table(both[0]) for row in (first, second)]
    if both[0] in _ACTIVITY:
        return _of_activity(versions, _ACTIVITY[both[0]], data[0], tables)
    return _of_tracks(versions, both[0].removeprefix(_TRACKS), data[0], tables)


def _evaluated(name: str, versions: tuple[int, int], on: Data, wanted: str) -> Compared:
    from mlproject.tracking.sequence_models import fetch_sequence_model

    with tempfile.TemporaryDirectory() as folder:
        models = [
            fetch_sequence_model(f"models:/{name}/{version}", Path(folder, str(version)))
            for version in reversed(versions)
        ]
        heads = [[head for head, own in about["heads"].items() if own["bins"]] for _, about in models]
        both = [head for head in heads[0] if head in heads[1]]
        if not both or (wanted and wanted not in both):
            raise InputError(
                f"--head: found {wanted!r}; version {versions[1]} has {', '.join(heads[0]) or 'no head of tracks'}, "
                f"version {versions[0]} {', '.join(heads[1]) or 'no head of tracks'}"
            )
        head = wanted or both[0]
        dataset = open_dataset(on.folder, head)
        for version, (_, about) in zip(reversed(versions), models, strict=True):
            _check_fits(f"version {version}", about, head, dataset)
        tables = [_track_table(saved_model, head, dataset, on) for saved_model, _ in models]
    words = f"the {on.split} split of {Path(on.folder).name}/{head}, digest {dataset.digest[:16]}"
    return _of_tracks(versions, head, words, tables)


def _track_table(saved_model: Path, head: str, dataset: TrackDataset, on: Data) -> pd.DataFrame:
    predict = saved_model_predictions(saved_model)
    found = evaluate(
        lambda batch: tf.constant(predict(batch["sequence"].numpy())[head]),
        evaluation_batches(dataset, on.split, batch_size=on.batch_size),
        dataset.statistics.num_targets,
    )
    return reporting.track_table(dataset.targets, found.pearson_r, found.r2, found.n)


def _check_fits(what: str, about: Mapping[str, Any], head: str, dataset: TrackDataset) -> None:
    own = about["sequence_length"], about["heads"][head]["bins"], len(about["heads"][head]["tracks"])
    there = dataset.statistics.seq_length, dataset.head_bins(), dataset.statistics.num_targets
    for words, one, other in zip(("bp", "bins", "tracks"), own, there, strict=True):
        if one != other:
            raise InputError(f"--data {dataset.path}: has {other} {words} where {what} has {one}")
    for track, identifier in zip(about["heads"][head]["tracks"], dataset.targets["identifier"], strict=True):
        if (
            track["description"] and track["identifier"] != identifier
        ):  # else the model has names of ours alone
            raise InputError(
                f"--data {dataset.path}: has the track {identifier} where {what} has {track['identifier']}"
            )


def _of_tracks(versions: tuple[int, int], head: str, data: str, tables: Sequence[pd.DataFrame]) -> Compared:
    key = ["index", "identifier"]
    counts = tables[0][[*key, "n"]].merge(tables[1][[*key, "n"]], on=key)
    if len(counts) < max(map(len, tables)):
        raise InputError(
            f"versions {versions[1]} and {versions[0]}: have {len(tables[0]):,} and {len(tables[1]):,} tracks of "
            f"{head}, of which {len(counts):,} are the same; only the same can be compared"
        )
    if (counts["n_x"] != counts["n_y"]).any():
        raise InputError(
            f"versions {versions[1]} and {versions[0]}: were evaluated on {counts['n_x'].max():,} and "
            f"{counts['n_y'].max():,} bins of {data}; only the same windows can be compared: "
            "--data names a dataset for both"
        )
    pairs = reporting.paired_tracks(*tables)
    scores = pairs.assign(seed=0, track=np.arange(len(pairs)))
    found = reporting.paired_difference(scores, "r_y", "r_x")
    return Compared(
        *versions, f"{found.tracks:,} tracks of {head}", data, found.value, found.low, found.high, pairs
    )


def _of_activity(
    versions: tuple[int, int], what: _Activity, data: str, tables: Sequence[pd.DataFrame]
) -> Compared:
    same = [*dict.fromkeys([*what.key, what.group, "cluster", "activity"])]
    # one sequence may be there twice under one name
    numbered = [
        table[[*same, "predicted"]].assign(time=table.groupby(same, dropna=False).cumcount())
        for table in tables
    ]
    pairs = numbered[0].merge(numbered[1], on=[*same, "time"]).drop(columns="time")
    if len(pairs) < max(map(len, tables)):
        raise InputError(
            f"versions {versions[1]} and {versions[0]}: were evaluated on {len(tables[0]):,} and {len(tables[1]):,} "
            f"{what.rows}, of which {len(pairs):,} are the same; only the same can be compared"
        )
    columns = [
        pairs[name].to_numpy() for name in ("activity", "predicted_x", "predicted_y", "cluster", what.group)
    ]
    value, low, high = correlation_difference(*columns)
    return Compared(*versions, f"{len(pairs):,} {what.rows}", data, value, low, high, pairs)


def _evaluated_on(run_id: str) -> str:
    from mlproject.tracking import reading, studies

    row = reading.read_run(run_id)
    parent: dict[str, Any] = reading.read_run(row["parent"]) if row.get("parent") else row
    split = row.get("params.eval_split") or parent.get("params.eval_split") or "test"
    names = [f"{one.name}, digest {one.digest}" for one in studies.datasets_of(run_id)]
    return f"the {split} split of {'; '.join(names) or 'unknown data'}"
