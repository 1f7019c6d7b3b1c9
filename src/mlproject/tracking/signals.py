"""Predicted and measured signal that runs have kept: what there is, and a few rows of it, read without the rest.

`mlproject.signal_tables` says what the columns are, and which windows and tracks a run keeps.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from pyarrow import parquet

from mlproject.errors import InputError, one_line
from mlproject.tracking import store

_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # of a head or organism, in that of a file
_ARTIFACT = re.compile(rf"signals_({_NAME.pattern})\.parquet")
_INDEX = ("identifier", "index", "description", "chrom", "start", "end", "bin_size")
_SIGNALS = ("predicted", "measured", "sd")
_FILES_HELD = 4  # in memory, of a store that is not on this machine; one has about 40 MB at most
_MOST_LETTERS = 80  # of what is quoted
_T = TypeVar("_T")


def list_signals(run_id: str) -> list[str]:
    """The organisms, or heads, of which a run has kept signal; none where it has not got there or is of before.

    Raises:
        InputError: there is no such run.
    """
    found = (_ARTIFACT.fullmatch(name) for name in _artifacts(store.open_store(), run_id))
    return sorted(match[1] for match in found if match)


def read_signal_index(run_id: str, organism: str) -> pd.DataFrame:
    """A row for each track and window, without the signal.

    Returns:
        Columns identifier, index, description, chrom, start, end (0-based, half-open, bp) and bin_size (bp), sorted by
        index, then by window. One track has all windows, and one window all tracks.

    Raises:
        InputError: there is no such run, it has kept none, or what it has kept is damaged.
    """
    return _explained(run_id, organism, lambda source: _read_columns(source, _INDEX))


def read_signals(
    run_id: str,
    organism: str,
    tracks: Sequence[int | str],
    chrom: str | None = None,
    start: int | None = None,
) -> pd.DataFrame:
    """Signal of some tracks; of the file little more than their rows is read.

    Args:
        run_id: of the run that kept it.
        organism: one of `list_signals`.
        tracks: indices, or identifiers; the rows come in their order, then by window.
        chrom: of the windows; None for any.
        start: of the windows' first bin, 0-based; None for any.

    Returns:
        The columns of `read_signal_index`, then predicted, measured and sd: float32 arrays `[bins]`, NaN where a bin's
        is not known, or None where none is known.

    Raises:
        InputError: as `read_signal_index`; a track is not there, or no window is at that place.
    """

    def read(source: Any) -> pd.DataFrame:
        index = _read_columns(source, ("identifier", "index", "chrom", "start"))
        wanted = pd.Series(True, index.index)
        if chrom is not None:
            wanted &= index["chrom"] == chrom
        if start is not None:
            wanted &= index["start"] == start
        if not wanted.any():
            raise InputError(f"run {run_id}: keeps no signal at {str(chrom)[:_MOST_LETTERS]}:{start}")
        rows: list[int] = []
        for track in dict.fromkeys(tracks):
            column = index["identifier"] if isinstance(track, str) else index["index"]
            found = index.index[wanted & (column == track)]
            if found.empty:
                raise InputError(f"run {run_id}: keeps no signal of track {str(track)[:_MOST_LETTERS]!r}")
            rows += found.tolist()
        return _frame(_rows(source, rows), [*_INDEX, *_SIGNALS])

    return _explained(run_id, organism, read)


def read_sample(run_id: str, head: str) -> pd.DataFrame | None:
    """Sequences of which a run has kept what it predicts: a row each, with the column sequence; None where it has none.

    Raises:
        InputError: there is no such run, or what it has kept is damaged.
    """
    if f"sample_{head}.parquet" not in _artifacts(store.open_store(), run_id):
        return None
    return _explained(run_id, head, lambda source: parquet.read_table(source).to_pandas(), "sample")


def _read_columns(source: Any, columns: Sequence[str]) -> pd.DataFrame:
    with parquet.ParquetFile(source) as file:
        return _frame(file.read(columns=[*columns]), columns)


def _rows(source: Any, rows: Sequence[int]) -> pa.Table:
    """Those rows of a file, in that order; only the groups that have one of them are read."""
    with parquet.ParquetFile(source) as file:
        sizes = np.array([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)])
        ends = np.cumsum(sizes)
        wanted = np.asarray(rows, np.int64)
        group_of_row = np.searchsorted(ends, wanted, side="right")
        groups = np.unique(group_of_row)
        table = file.read_row_groups(groups.tolist(), columns=[*_INDEX, *_SIGNALS])
    # rows of groups that were not read are before those of each group
    missing = ends[groups] - np.cumsum(sizes[groups])
    return table.take(pa.array(wanted - missing[np.searchsorted(groups, group_of_row)]))


def _frame(table: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    if lacking := set(columns) - set(table.column_names):
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(lacking))}")
    return table.to_pandas(ignore_metadata=True)


def _explained(run_id: str, organism: str, read: Callable[[Any], _T], kind: str = "signals") -> _T:
    """What is read of the file of an organism, which a path or a buffer of its bytes is.

    Raises:
        InputError: there is none, or it is damaged.
    """
    name = f"{kind}_{organism}.parquet"
    if not _NAME.fullmatch(organism):  # it is a part of a path
        raise InputError(
            f"organism {organism[:_MOST_LETTERS]!r}: use letters, digits, '_', '-' and '.'; it names a file"
        )
    client = store.open_store()
    sizes = _artifacts(client, run_id)
    if name not in sizes:
        raise InputError(
            f"run {run_id}: keeps no signal of {organism[:_MOST_LETTERS]}: "
            "it has not ended, or is of an earlier version"
        )
    try:
        return read(_source(client, run_id, name, sizes[name]))
    except (pa.ArrowException, MlflowException, OSError, KeyError) as error:
        raise InputError(f"run {run_id}: {name} cannot be read: {one_line(error)}") from error


def _artifacts(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Sizes of the files of a run by name, without those in folders."""
    try:
        return {item.path: item.file_size or 0 for item in client.list_artifacts(run_id) if not item.is_dir}
    except MlflowException as error:
        raise InputError(f"run {run_id}: {one_line(error)}") from error


def _source(client: MlflowClient, run_id: str, name: str, size: int) -> Any:
    """The file itself where it is on this machine, so that parts of it can be read; or else its bytes."""
    address = client.get_run(run_id).info.artifact_uri
    if urlsplit(address).scheme in ("", "file"):
        return Path(local_file_uri_to_path(address), name)  # `download_artifacts` would copy it
    return pa.BufferReader(_fetched(client.tracking_uri, run_id, name, size))


@functools.lru_cache(_FILES_HELD)
def _fetched(tracking_uri: str, run_id: str, name: str, size: int) -> bytes:
    """The bytes of an artifact; of another size it is another."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(MlflowClient(tracking_uri).download_artifacts(run_id, name, folder)).read_bytes()
