"""Predicted signal: fragments on disk as they are done, joined bin by bin, and summarized by region.

FOLDER/000017.npz      one fragment: mean [bins, tracks] float32, and spread, the sum of squared deviations from it
"""

import bisect
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from enformer_core.checkpoints import read_arrays
from enformer_core.enformer import BIN_SIZE_BP
from mlproject.data.head_tracks import Track
from mlproject.data.regions import Fragment, Region, Span
from mlproject.errors import InputError

_FRAGMENT_BYTES = 8192  # of a fragment beside its values, and of the block of the disk that its end is in
_VALUES = 2**24  # that are summarized at once


class Moments(NamedTuple):
    """Of one fragment or several: each value's mean, and the sum of its squared deviations from it."""

    mean: np.ndarray
    """`[bins, tracks]`."""
    spread: np.ndarray | None = None
    """As `mean`; None where no variance is asked for."""


class Stretch(NamedTuple):
    """Bins of one chromosome without a gap: its bins are rows `offset` to `offset + bins` of the values."""

    chrom: str
    start: int
    end: int
    """The end of the last bin, which at the end of a chromosome is a part of one."""
    offset: int

    @property
    def bins(self) -> int:
        """How many bins it has."""
        return -(-(self.end - self.start) // BIN_SIZE_BP)


# --- fragments ----------------------------------------------------------------------------------------------------


class FragmentFolder:
    """Predictions of fragments, each in a file that is there whole or not at all.

    Args:
      folder: of this prediction alone.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder

    @staticmethod
    def size(count: int, bins: int, tracks: int, arrays: int) -> int:
        """The bytes of `count` fragments of one or two arrays, at most."""
        return count * (4 * bins * tracks * arrays + _FRAGMENT_BYTES)

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` fragments are not there; files that are damaged are removed."""
        wanted = []
        for number in range(count):
            try:
                Moments(**read_arrays(self._path(number)))
            except (FileNotFoundError, ValueError, TypeError):
                self._path(number).unlink(missing_ok=True)
                wanted.append(number)
        return wanted

    def save(self, number: int, moments: Moments) -> None:
        """Writes one, on disk when this returns."""
        arrays = {
            name: value.astype(np.float32) for name, value in moments._asdict().items() if value is not None
        }
        self.path.mkdir(parents=True, exist_ok=True)
        unfinished = self.path / f".{number:06d}.{uuid.uuid4().hex[:8]}"
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path(number))
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, number: int) -> Moments:
        """Reads one back.

        Raises:
          InputError: it was damaged or removed after `missing` had looked.
        """
        path = self._path(number)
        try:
            return Moments(**read_arrays(path))
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").split(";")[0]
            raise InputError(f"{path}: {why}; the same command predicts this fragment again") from None

    def remove(self) -> None:
        """Removes every file, those of a killed process too, and the folder."""
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()

    def _path(self, number: int) -> Path:
        return self.path / f"{number:06d}.npz"


# --- joining ------------------------------------------------------------------------------------------------------


def stretches_of(fragments: Sequence[Fragment], bins: int, lengths: dict[str, int]) -> list[Stretch]:
    """The bins that fragments cover, within their chromosomes; in the order of the fragments.

    Args:
      fragments: sorted by chromosome and start.
      bins: of a fragment.
      lengths: of the chromosomes.
    """
    ends: list[list] = []  # chrom, start, end in bins
    for chrom, start in fragments:
        low, high = max(0, start), start + bins * BIN_SIZE_BP
        if ends and ends[-1][0] == chrom and low <= ends[-1][2]:
            ends[-1][2] = max(high, ends[-1][2])
        else:
            ends.append([chrom, low, high])
    found: list[Stretch] = []
    for chrom, start, end in ends:
        offset = found[-1].offset + found[-1].bins if found else 0
        found.append(Stretch(chrom, start, min(end, lengths[chrom]), offset))
    return found


def join(
    fragments: Sequence[Fragment],
    load: Callable[[int], Moments],
    stretches: Sequence[Stretch],
    bins: int,
    count: int,
    values: np.ndarray,
    variance: np.ndarray | None,
) -> None:
    """Averages the fragments bin by bin, a piece as long as a fragment at a time.

    Args:
      fragments: sorted by chromosome and start.
      load: the moments of fragment number N.
      stretches: of these fragments.
      bins: of a fragment.
      count: predictions that each fragment is the mean of; the weight of all is the same.
      values: `[bins in all, tracks]`, which is filled.
      variance: likewise, the population variance over predictions and overlapping fragments; None for none.
    """
    numbers: dict[str, list[int]] = {}
    for number, fragment in enumerate(fragments):
        numbers.setdefault(fragment.chrom, []).append(number)
    for stretch in stretches:
        here = numbers[stretch.chrom]
        starts = np.array([fragments[number].start for number in here]) // BIN_SIZE_BP
        begin = stretch.start // BIN_SIZE_BP
        for low in range(begin, begin + stretch.bins, bins):
            high = min(low + bins, begin + stretch.bins)
            first, last = np.searchsorted(starts, low - bins, "right"), np.searchsorted(starts, high, "left")
            parts = ((int(starts[at]) - low, load(here[at])) for at in range(first, last))
            joined = _merged(parts, high - low, values.shape[1], count, variance is not None)
            rows = slice(stretch.offset + low - begin, stretch.offset + high - begin)
            values[rows] = joined.mean
            if variance is not None:
                variance[rows] = joined.spread
    for array in (values, variance):
        if isinstance(array, np.memmap):
            array.flush()


def _merged(
    parts: Iterator[tuple[int, Moments]], bins: int, tracks: int, count: int, with_variance: bool
) -> Moments:
    """Mean and population variance of a piece, from the fragments that overlap it, by where each starts in it.

    The moments of two sets are merged as in Chan et al. 1979: sums of squares would lose what small variances have.
    """
    seen = np.zeros([bins, 1])
    mean, spread = np.zeros([bins, tracks]), np.zeros([bins, tracks]) if with_variance else None
    for start, part in parts:
        low, high = max(0, start), min(bins, start + len(part.mean))
        here, there = slice(low, high), slice(low - start, high - start)
        before = seen[here]
        total = before + count
        step = part.mean[there] - mean[here]
        mean[here] += step * (count / total)
        if spread is not None:
            assert part.spread is not None
            spread[here] += part.spread[there] + step**2 * (before * count / total)
        seen[here] = total
    return Moments(mean, None if spread is None else spread / seen)


def open_values(path: Path, bins: int, tracks: int) -> np.ndarray:
    """A new `[bins, tracks]` float32 array in a .npy file, each track in one piece, which need not fit into memory.

    Its place on the disk is taken at once: on a disk that fills up later, writing to it would end the process.

    Raises:
      OSError: the disk has no room for it.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float32, (bins, tracks), fortran_order=True)
    if hasattr(os, "posix_fallocate"):  # which macOS lacks
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


# --- summaries ----------------------------------------------------------------------------------------------------


def rows_of(span: Span, stretches: Sequence[Stretch]) -> tuple[slice, int]:
    """The rows of the values that a span, or a part of one, covers, and where the first of its bins starts."""
    low = max(0, span.start) // BIN_SIZE_BP * BIN_SIZE_BP
    stretch = _stretch_with(span.chrom, low, stretches)
    first = stretch.offset + (low - stretch.start) // BIN_SIZE_BP
    last = stretch.offset - (stretch.start - min(span.end, stretch.end)) // BIN_SIZE_BP
    return slice(first, last), low


def _stretch_with(chrom: str, position: int, stretches: Sequence[Stretch]) -> Stretch:
    """The stretch that has a predicted position."""
    keys = (chrom.encode(), position)
    at = bisect.bisect(stretches, keys, key=lambda stretch: (stretch.chrom.encode(), stretch.start))
    found = stretches[at - 1]
    assert found.chrom == chrom and found.start <= position < found.end, (
        f"{chrom}:{position} was not predicted"
    )
    return found


def summarize(
    region: Region,
    span: Span,
    unknown: tuple[int, int],
    stretches: Sequence[Stretch],
    tracks: Sequence[Track],
    values: np.ndarray,
) -> pd.DataFrame:
    """A row for each track, of the predicted bins that overlap a region.

    Args:
      region: as it was asked for.
      span: what was predicted for it.
      unknown: bases of what was read that are N or beyond the chromosome, and other letters.
      stretches: of the values.
      tracks: their columns.
      values: `[bins in all, tracks]`.
    """
    part = Span(region.chrom, max(region.start, span.start), min(region.end, span.end))
    rows, start = rows_of(part, stretches)
    first = rows_of(span, stretches)[1]
    last = min(span.end, _stretch_with(span.chrom, first, stretches).end)
    bins = rows.stop - rows.start
    mean, total, most, place = (np.empty(len(tracks)) for _ in range(4))
    at_once = max(1, _VALUES // bins)
    for low in range(0, len(tracks), at_once):
        some = slice(low, low + at_once)
        block = np.asarray(values[rows, some], np.float64)
        total[some], most[some], place[some] = block.sum(0), block.max(0), block.argmax(0)
        mean[some] = total[some] / bins
    return pd.DataFrame(
        {
            "region": region.name,
            "chrom": region.chrom,
            "start": region.start,
            "end": region.end,
            "predicted_start": first,
            "predicted_end": last,
            "bins": bins,
            "n_bases": unknown[0],
            "iupac": unknown[1],
            "index": [track.index for track in tracks],
            "identifier": [track.identifier for track in tracks],
            "mean": mean,
            "max": most,
            "sum": total,
            "max_position": start + BIN_SIZE_BP * place.astype(np.int64),
        }
    )


def write_table(
    path: Path,
    regions: Sequence[Region],
    spans: Sequence[Span],
    unknown: Sequence[tuple[int, int]],
    stretches: Sequence[Stretch],
    tracks: Sequence[Track],
    values: np.ndarray,
    most: int,
) -> pd.DataFrame | None:
    """Writes the rows of `summarize` for every region, and returns them unless they are more than `most`."""
    few = len(regions) * len(tracks) <= most
    kept = []
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for region, span, letters in zip(regions, spans, unknown, strict=True):
            rows = summarize(region, span, letters, stretches, tracks, values)
            rows.to_csv(file, sep="\t", index=False, header=file.tell() == 0, float_format="%.6g")
            if few:
                kept.append(rows)
    return pd.concat(kept, ignore_index=True) if few else None
