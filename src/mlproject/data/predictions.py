"""Predicted signal: fragments on disk as they are done, joined bin by bin, and written for others to read.

FOLDER/000017.npz      one fragment: mean [bins, tracks] float32, and spread, the sum of squared deviations from it
predictions.npz        see `write_npz`
0003_NAME.bw           one track; 0003_NAME.variance.bw its variance
0003_NAME.bedgraph     likewise
"""

import bisect
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from enformer_core.checkpoints import read_arrays
from enformer_core.enformer import BIN_SIZE_BP
from mlproject.data.head_tracks import Track
from mlproject.data.regions import Fragment, Region, Span

FORMATS = ("npz", "bedgraph", "bigwig")
_LINES = 100_000  # of a bedGraph, made at once
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
        self._folder = folder

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` fragments are not there; files that are damaged are removed."""
        wanted = []
        for number in range(count):
            try:
                read_arrays(self._path(number))
            except (FileNotFoundError, ValueError):
                self._path(number).unlink(missing_ok=True)
                wanted.append(number)
        return wanted

    def save(self, number: int, moments: Moments) -> None:
        """Writes one, on disk when this returns."""
        arrays = {
            name: value.astype(np.float32) for name, value in moments._asdict().items() if value is not None
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".{number:06d}.{uuid.uuid4().hex[:8]}"
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
          ValueError: it is damaged.
        """
        return Moments(**read_arrays(self._path(number)))

    def remove(self) -> None:
        """Removes every file, those of a killed process too, and the folder."""
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"


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
    """A new `[bins, tracks]` float32 array in a .npy file, each track in one piece, which need not fit into memory."""
    return np.lib.format.open_memmap(path, "w+", np.float32, (bins, tracks), fortran_order=True)


# --- formats ------------------------------------------------------------------------------------------------------


def file_name(track: Track, ending: str) -> str:
    """A name that every file system takes, different for each track whatever their identifiers."""
    safe = re.sub(r"[^A-Za-z0-9.+-]+", "_", track.identifier).strip("._")[:80]
    return f"{track.position:04d}_{safe}{ending}" if safe else f"{track.position:04d}{ending}"


def cost(bins: int, tracks: int, arrays: int, formats: Sequence[str]) -> str:
    """One line that says what so many tracks take on disk; a value of a bedGraph is a line of about 36 bytes."""
    one = bins * tracks * arrays * 4 / 1e9
    of_formats = one * sum({"npz": 1, "bigwig": 1, "bedgraph": 9}[name] for name in formats)
    files = tracks * arrays * len({"bigwig", "bedgraph"} & set(formats))
    return (
        f"{tracks:,} tracks x {bins:,} bins: up to {2 * one + of_formats:.1f} GB on disk while they are written, "
        f"{of_formats:.1f} GB and {files:,} files of single tracks in the end; --tracks chooses fewer"
    )


def write_npz(
    path: Path, arrays: dict[str, Path], stretches: Sequence[Stretch], tracks: Sequence[Track]
) -> None:
    """Everything in one file that `numpy.load` reads: values [bins, tracks], and where they lie.

    `chrom`, `start`, `end` `[stretches]` and `offset` `[stretches + 1]`: bins of stretch i are rows offset[i] to
    offset[i + 1], 128 bp each from start[i] on, the last to end[i]. `index`, `identifier` and `description` `[tracks]`.

    Args:
      path: to write.
      arrays: .npy files by name (values, variance), which are copied piece by piece.
      stretches: of the bins.
      tracks: of the columns.
    """
    ends = [stretch.offset + stretch.bins for stretch in stretches]
    small = {
        "chrom": np.array([stretch.chrom for stretch in stretches]),
        "start": np.array([stretch.start for stretch in stretches], np.int64),
        "end": np.array([stretch.end for stretch in stretches], np.int64),
        "offset": np.array([0, *ends], np.int64),
        "bin_size": np.array(BIN_SIZE_BP),
        "index": np.array([track.position for track in tracks], np.int64),
        "identifier": np.array([track.identifier for track in tracks]),
        "description": np.array([track.description for track in tracks]),
    }
    with zipfile.ZipFile(path, "w") as file:

        def member(name: str) -> IO[bytes]:  # without the time of day: the same numbers are the same file
            return file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        for name, source in arrays.items():
            with source.open("rb") as array_file, member(name) as target:
                shutil.copyfileobj(array_file, target, 1 << 20)
        for name, array in small.items():
            with member(name) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)


def write_bedgraph(path: Path, stretches: Sequence[Stretch], column: np.ndarray) -> None:
    """One track as chrom, start, end, value: a line for each bin, sorted as by `sort -k1,1 -k2,2n` (LC_ALL=C)."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for stretch in stretches:
            for low in range(0, stretch.bins, _LINES):
                high = min(stretch.bins, low + _LINES)
                starts = (stretch.start + BIN_SIZE_BP * np.arange(low, high)).tolist()
                # the shortest words that read back as the same float32
                words = np.asarray(column[stretch.offset + low : stretch.offset + high]).astype("U").tolist()
                ends = [*starts[1:], min(starts[-1] + BIN_SIZE_BP, stretch.end)]
                rows = zip(starts, ends, words, strict=True)
                file.writelines(f"{stretch.chrom}\t{a}\t{b}\t{word}\n" for a, b, word in rows)


def write_bigwig(
    path: Path, stretches: Sequence[Stretch], column: np.ndarray, lengths: dict[str, int]
) -> None:
    """One track as bigWig: chromosomes that have values, in the order of the bytes of their names.

    Args:
      path: to write.
      stretches: in that order, and by start.
      column: values `[bins in all]`.
      lengths: of the chromosomes.
    """
    import pyBigWig

    chroms = list(dict.fromkeys(stretch.chrom for stretch in stretches))
    file = pyBigWig.open(str(path), "w")
    file.addHeader([(chrom, lengths[chrom]) for chrom in chroms])
    for stretch in stretches:
        values = np.asarray(column[stretch.offset : stretch.offset + stretch.bins], np.float64)
        whole = (stretch.end - stretch.start) // BIN_SIZE_BP
        if whole:
            file.addEntries(
                stretch.chrom, stretch.start, values=values[:whole], span=BIN_SIZE_BP, step=BIN_SIZE_BP
            )
        if whole < stretch.bins:
            start = stretch.start + whole * BIN_SIZE_BP
            file.addEntries([stretch.chrom], [start], ends=[stretch.end], values=values[whole:].tolist())
    file.close()


def write_formats(
    folder: Path,
    formats: Sequence[str],
    arrays: dict[str, Path],
    stretches: Sequence[Stretch],
    tracks: Sequence[Track],
    lengths: dict[str, int],
) -> None:
    """Writes `predictions.npz`, and of each track and array what else is asked for; a track at a time is in memory.

    Args:
      folder: to write into.
      formats: any of `FORMATS`.
      arrays: .npy files of `[bins in all, tracks]` by name: values and perhaps variance.
      stretches: of the bins.
      tracks: of the columns.
      lengths: of the chromosomes.
    """
    if "npz" in formats:
        write_npz(folder / "predictions.npz", arrays, stretches, tracks)
    if not {"bigwig", "bedgraph"} & set(formats):
        return
    opened = {name: np.load(path, mmap_mode="r") for name, path in arrays.items()}
    for column, track in enumerate(tqdm(tracks, "write", unit="track", disable=None, leave=False)):
        for name, array in opened.items():
            ending = "" if name == "values" else f".{name}"
            if "bigwig" in formats:
                write_bigwig(folder / file_name(track, f"{ending}.bw"), stretches, array[:, column], lengths)
            if "bedgraph" in formats:
                write_bedgraph(folder / file_name(track, f"{ending}.bedgraph"), stretches, array[:, column])


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
            "index": [track.position for track in tracks],
            "identifier": [track.identifier for track in tracks],
            "mean": mean,
            "max": most,
            "sum": total,
            "max_position": start + BIN_SIZE_BP * place.astype(np.int64),
        }
    )
