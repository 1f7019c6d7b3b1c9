"""Tables of predicted and measured signal along the genome, which a run keeps to be looked at.

A table has a row for each track and window, sorted by the track's index, then by window:

    identifier, index, description    of the track
    chrom, start, end                 of the window's bins; 0-based, half-open, bp
    bin_size                          bp
    predicted                         list of float32, one for each bin
    measured, sd                      likewise, NaN where a bin's is not known; null where none of them is

It has at most about `MOST_NUMBERS` numbers of each kind: see `choose`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from enformer_core import dna
from enformer_core.enformer import BIN_SIZE_BP
from mlproject.data import predictions
from mlproject.data.batches import evaluation_batches
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import Stretch
from mlproject.data.records import TrackDataset
from mlproject.data.regions import Span
from mlproject.data.targets import category

MOST_NUMBERS = 5_000_000  # one window of all published human tracks is 5,313 x 896
_MOST_WINDOWS = 16


class Window(NamedTuple):
    """Bins next to each other."""

    chrom: str
    start: int
    """Of the first bin, 0-based."""
    bins: int


class Chosen(NamedTuple):
    """What of all there is a table has: positions of windows and of tracks, and the most bins of a window."""

    windows: list[int]
    tracks: list[int]
    most_bins: int


def table_name(organism: str) -> str:
    """What the table of a head or organism is called in a run; characters that no file should have become `_`."""
    return "signals_" + re.sub(r"[^A-Za-z0-9_.-]", "_", organism)


def sample_name(head: str) -> str:
    """The same of the table of sequences."""
    return "sample_" + re.sub(r"[^A-Za-z0-9_.-]", "_", head)


def windows_of(dataset: TrackDataset, split: str) -> list[Window]:
    """Where the bins of 128 bp of each window of a split are, in the order of the records.

    Where `sequences.bed` does not say, window 3 of the split `valid` is on `valid window 3`, from 0 on.

    Raises:
        InputError: `sequences.bed` is damaged, or of another number of windows.
    """
    bins = dataset.head_bins(BIN_SIZE_BP)
    if not (places := dataset.places(split)):
        return [Window(f"{split} window {number}", 0, bins) for number in range(dataset.count(split))]
    # the bins are its central ones, whether the file has the whole window or, as newer ones, the bins
    return [Window(chrom, (start + end - bins * BIN_SIZE_BP) // 2, bins) for chrom, start, end in places]


def choose(bins: Sequence[int], categories: Sequence[str], most: int = MOST_NUMBERS) -> Chosen:
    """What a table of at most `most` numbers of each kind has of these windows and tracks.

    Every track, of as many evenly spaced windows, the first of all among them, as there is room for, 16 at most. If
    that is not even one: evenly spaced tracks of each category, about the same share of each and at least one, of the
    first window; where one of each is too much, of as many of its first bins as there is room for.

    Args:
        bins: of each window.
        categories: of each track.
        most: numbers.
    """
    tracks = list(range(len(categories)))
    for count in range(min(_MOST_WINDOWS, len(bins)), 0, -1):
        windows = _spaced(len(bins), count)
        if len(tracks) * sum(bins[window] for window in windows) <= most:
            return Chosen(windows, tracks, max(bins))
    tracks = _of_each(categories, most // max(1, bins[0]))
    return Chosen([0], tracks, max(1, most // len(tracks)))


def _spaced(total: int, count: int) -> list[int]:
    """So many of the positions from 0 to total - 1, at even distances; the first, and the last if it is not alone."""
    return np.linspace(0, total - 1, count).astype(int).tolist()


def _of_each(categories: Sequence[str], most: int) -> list[int]:
    """Positions of evenly spaced tracks of each category: one of each, and of the rest the same share."""
    names, member = np.unique(np.asarray(categories), return_inverse=True)
    share = max(0, most - len(names)) / max(1, len(member) - len(names))
    found: list[int] = []
    for name in range(len(names)):
        positions = np.flatnonzero(member == name)
        count = 1 + int(min(1.0, share) * (len(positions) - 1))
        found += positions[_spaced(len(positions), count)].tolist()
    return sorted(found)


class SignalSample:
    """The table of an evaluation, gathered as its batches pass: what is kept is what was evaluated, predicted once.

    Args:
        dataset: of the evaluation.
        split: likewise.
        windows: how many of its first windows are evaluated; more than there are means all.
        most: as in `choose`.
    """

    def __init__(self, dataset: TrackDataset, split: str, windows: int, most: int = MOST_NUMBERS) -> None:
        self._dataset, self._split = dataset, split
        places = windows_of(dataset, split)[:windows]
        self._chosen = choose([place.bins for place in places], list(dataset.targets["category"]), most)
        self._places = [
            place._replace(bins=min(place.bins, self._chosen.most_bins))
            for place in (places[number] for number in self._chosen.windows)
        ]
        self._targets = dataset.targets.iloc[self._chosen.tracks]
        self._passed = 0
        self._measured: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []

    def see(self, measured: np.ndarray, predicted: np.ndarray) -> None:
        """Takes what it wants of the next batch: `[B, bins, tracks]` each."""
        for row in range(len(measured)):
            if self._passed in self._chosen.windows:
                wanted = (slice(self._chosen.most_bins), self._chosen.tracks)
                self._measured.append(np.asarray(measured[row])[wanted])
                self._predicted.append(np.asarray(predicted[row])[wanted])
            self._passed += 1

    def table(self) -> pa.Table:
        """The table of what has passed."""
        places = self._places[: len(self._predicted)]
        return signal_table(self._targets, places, self._predicted, measured=self._measured)

    def sequence_table(self) -> pa.Table:
        """The sequence that the first window was predicted from: chrom, start (of its first bin), sequence.

        With it, whoever has the model can predict again what the run has measured of it.
        """
        first = self._places[0]
        (batch,) = evaluation_batches(self._dataset, self._split, batch_size=1, limit=1)
        (letters,) = dna.letters(dna.codes_of(np.asarray(batch["sequence"])))
        return pa.table({"chrom": [first.chrom], "start": [first.start], "sequence": [letters]})


def predicted_table(
    spans: Sequence[Span],
    stretches: Sequence[Stretch],
    tracks: Sequence[Track],
    values: np.ndarray,
    variance: np.ndarray | None = None,
) -> pa.Table:
    """The table of a prediction, whose windows are what was predicted for each region; none is there twice.

    Args:
        spans: of the regions.
        stretches: of the values.
        tracks: their columns.
        values: `[bins in all, tracks]`.
        variance: likewise, of which `sd` is the root; None where it is not known.
    """
    rows, windows = [], []
    for span in dict.fromkeys(spans):
        found, start = predictions.rows_of(span, stretches)
        rows.append(found)
        windows.append(Window(span.chrom, start, found.stop - found.start))
    categories = [category(track.description) for track in tracks]
    chosen = choose([window.bins for window in windows], categories, MOST_NUMBERS)
    kept, means, deviations = [], [], []
    for number in chosen.windows:
        bins = min(windows[number].bins, chosen.most_bins)
        kept.append(windows[number]._replace(bins=bins))
        some = slice(rows[number].start, rows[number].start + bins)
        means.append(values[some][:, chosen.tracks])
        if variance is not None:
            deviations.append(np.sqrt(variance[some][:, chosen.tracks]))
    table = pd.DataFrame([tracks[column] for column in chosen.tracks], columns=Track._fields)
    return signal_table(table, kept, means, sd=deviations if variance is not None else None)


def signal_table(
    tracks: pd.DataFrame,
    windows: Sequence[Window],
    predicted: Sequence[np.ndarray],
    *,
    measured: Sequence[np.ndarray] | None = None,
    sd: Sequence[np.ndarray] | None = None,
) -> pa.Table:
    """The table of all tracks and windows that it is given.

    Args:
        tracks: columns identifier, index and description.
        windows: of bins of 128 bp.
        predicted: of each window `[bins, tracks]`; NaN stays NaN.
        measured: likewise; None where it is not known.
        sd: likewise, the standard deviation of what is predicted.
    """
    order = np.argsort(tracks["index"].to_numpy(), kind="stable")
    count = len(order)
    track, window = np.repeat(order, len(windows)), np.tile(np.arange(len(windows)), count)
    bins = np.array([place.bins for place in windows], np.int64)
    start = np.array([place.start for place in windows], np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.tile(bins, count))]).astype(np.int32)

    def numbers(values: Sequence[np.ndarray] | None) -> pa.Array:
        if values is None:
            return pa.nulls(len(track), pa.list_(pa.float32()))
        # after each other for one track, then for the next
        flat = [np.asarray(of_window, np.float32)[:, order].T for of_window in values]
        every = np.concatenate(flat, axis=1).ravel() if flat else np.zeros(0, np.float32)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(every, pa.float32()))

    def words(name: str) -> pa.Array:
        return pa.array(tracks[name].astype(str).to_numpy()[track], pa.string())

    return pa.table(
        {
            "identifier": words("identifier"),
            "index": pa.array(tracks["index"].to_numpy(np.int64)[track]),
            "description": words("description"),
            "chrom": pa.array([windows[at].chrom for at in window], pa.string()),
            "start": pa.array(start[window]),
            "end": pa.array((start + BIN_SIZE_BP * bins)[window]),
            "bin_size": pa.array(np.full(len(track), BIN_SIZE_BP, np.int32)),
            "predicted": numbers(predicted),
            "measured": numbers(measured),
            "sd": numbers(sd),
        }
    )
