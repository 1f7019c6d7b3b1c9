"""Signal from bigWig files, binned and transformed.

The order is that of new Baskerville, `TRANSFORM_ORDER`: multiply by `scale`, pool to bins with `sum_stat`,
then `clip_soft`, then `clip` (hound_data_read.py of calico/baskerville). Old Basenji scaled last; a dataset
says in `statistics.json` (`transform_order`) which one made it.

    *_sqrt        y = -1 + sqrt(1 + x), x the pooled value
    clip_soft c   y > c becomes c - 1 + sqrt(y - c + 1)
    clip c        y is kept within [-c, c]
"""

import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlproject.data.bigwig import DAMAGED, MAGIC, BigWig
from mlproject.data.files import explained
from mlproject.data.genome import Interval
from mlproject.errors import InputError

TRANSFORM_ORDER = "scale,sum_stat,clip_soft,clip"
_TOGETHER = 64  # tracks that are clipped and limited at once
_POOLS = {"sum": np.sum, "mean": np.mean, "max": np.max, "median": np.median}


def pool(values: np.ndarray, bin_size: int, sum_stat: str) -> np.ndarray:
    """Pool `[n * bin_size]` values to `[n]` float32 with one of `targets.SUM_STATS`.

    A `_sqrt` of a pooled value below -1 is NaN.
    """
    how: Any = _POOLS[sum_stat.removesuffix("_sqrt")]
    with np.errstate(over="ignore", invalid="ignore"):
        pooled = how(values.reshape(-1, bin_size), axis=1).astype(np.float32)
        return np.sqrt(1 + pooled) - 1 if sum_stat.endswith("_sqrt") else pooled


def clipped(values: np.ndarray, clip_soft: float | np.ndarray, clip: float | np.ndarray) -> np.ndarray:
    """`clip_soft`, then `clip`; NaN means none. The limits may be one per track along the last axis."""
    with np.errstate(invalid="ignore"):
        soft = clip_soft - 1 + np.sqrt(values - clip_soft + 1)
        values = np.where(values > clip_soft, soft, values)
    limit = np.where(np.isnan(clip), np.inf, clip)
    return np.clip(values, -limit, limit)


def coarsen(target: np.ndarray, factor: int, targets: pd.DataFrame) -> np.ndarray:
    """Join every `factor` bins of stored targets into one, as if they had been binned so from the start.

    `clip_soft` and the square root are undone, the bins joined by their track's `sum_stat`, and both done
    again. That is exact for sum, mean and max except where `clip` had cut a bin; a median becomes the mean of
    medians.

    Args:
      target: `[..., bins, tracks]`.
      factor: bins per new bin.
      targets: the table of tracks.

    Returns:
      `[..., bins // factor, tracks]` float32.
    """
    values = target.astype(np.float32)
    if factor == 1:
        return values
    stats = targets["sum_stat"].to_numpy(str)
    soft = targets["clip_soft"].to_numpy(np.float32)
    rooted = np.char.endswith(stats, "_sqrt")
    with np.errstate(invalid="ignore"):
        values = np.where(values > soft, (values - soft + 1) ** 2 + soft - 1, values)
        values = np.where(rooted, (values + 1) ** 2 - 1, values)
    values = values.reshape(*values.shape[:-2], -1, factor, values.shape[-1])
    joined = values.mean(axis=-2)
    joined = np.where(np.char.startswith(stats, "sum"), joined * factor, joined)
    joined = np.where(np.char.startswith(stats, "max"), values.max(axis=-2), joined)
    joined = np.where(rooted, np.sqrt(np.maximum(1 + joined, 0)) - 1, joined)
    return clipped(joined, soft, targets["clip"].to_numpy(np.float32)).astype(np.float32)


# path, size and time of change -> chromosome lengths. A command checks before it opens a run, and again.
_probed: dict[str, dict[str, int]] = {}


def check_bigwigs(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, int]]:
    """The chromosome lengths of each bigWig, after reading a little of each.

    Args:
      paths: the files.
      names: what to call each in a message.

    Raises:
      InputError: a file is absent, not a bigWig, damaged, or stores NaN or infinite values; names it.
    """
    found = []
    for path, name in zip(paths, names, strict=True):
        with explained(f"bigWig {path} ({name}): cannot be read"):
            _check_header(path, name)
            state = os.stat(path)
        key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
        if key not in _probed:
            with explained(f"bigWig {path} ({name}): is damaged", DAMAGED):
                file = BigWig(path)
                lengths = {chrom: length for chrom, (_, length) in file.chromosomes.items()}
                for chrom, length in list(lengths.items())[:64]:
                    for start in (0, length // 2):
                        file.values(chrom, start, min(start + 1000, length))
            if not lengths or file.empty:
                raise InputError(f"bigWig {path} ({name}): holds no values.")
            _probed[key] = lengths
        found.append(_probed[key])
    return found


def _check_header(path: Path, name: str) -> None:
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:4] not in MAGIC or len(header) < 64:
            raise InputError(f"bigWig {path} ({name}): is not a bigWig file.")
        summary_at = struct.unpack_from(MAGIC[header[:4]] + "Q", header, 44)[0]
        size = file.seek(0, os.SEEK_END)
        if summary_at > size - 40:
            raise InputError(f"bigWig {path} ({name}): is truncated.")
        if summary_at:
            file.seek(summary_at)
            summary = struct.unpack(MAGIC[header[:4]] + "Q4d", file.read(40))
            if not all(math.isfinite(value) for value in summary[1:]):
                raise InputError(
                    f"bigWig {path} ({name}): stores NaN or infinite values; "
                    "leave positions out of the file where nothing was measured."
                )


class SignalReader:
    """Binned signal of several tracks.

    Args:
      targets: the table of tracks.
      paths: the bigWig of each track.
    """

    def __init__(self, targets: pd.DataFrame, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._identifiers = list(targets["identifier"])
        self._scale = targets["scale"].to_numpy(np.float32)
        self._clip = targets["clip"].to_numpy(np.float32)
        self._clip_soft = targets["clip_soft"].to_numpy(np.float32)
        self._sum_stat = list(targets["sum_stat"])
        self._files: dict[Path, BigWig] = {}
        self.missing = np.zeros(len(paths), np.int64)  # bp without a value, per track
        self.limited = np.zeros(len(paths), np.int64)  # bins outside float16, per track

    def _values(self, track: int, chrom: str, start: int, end: int) -> np.ndarray:
        path = self._paths[track]
        with explained(f"bigWig {path}: {chrom}:{start}-{end} cannot be read", DAMAGED):
            if path not in self._files:
                self._files[path] = BigWig(path)
            return self._files[path].values(chrom, start, end)

    def read(
        self,
        chrom: str,
        starts: Sequence[int],
        length: int,
        bin_size: int,
        blacklist: Sequence[Interval] = (),
    ) -> np.ndarray:
        """Targets of windows of one chromosome: `[windows, length // bin_size, tracks]` float16.

        Each track is read in one stretch from the first start to the last end, and where windows lie on one grid
        of bins, what they share is pooled once. Positions without a value count as 0. Blacklisted positions are
        kept within plus and minus the window's median of the track, as Baskerville does. Values beyond float16
        are limited to its range and counted.

        Args:
          chrom: chromosome name.
          starts: ascending start of each window's target, in bp.
          length: bp per window.
          bin_size: bp per bin.
          blacklist: regions of this chromosome.

        Raises:
          InputError: a value is NaN or infinite after the transform, or the file cannot be read.
        """
        out = np.empty((len(starts), length // bin_size, len(self._paths)), np.float16)
        covered = np.zeros(starts[-1] + length - starts[0], bool)
        for start in starts:
            covered[start - starts[0] : start - starts[0] + length] = True
        limit = np.float32(np.finfo(np.float16).max)
        for first in range(0, len(self._paths), _TOGETHER):
            tracks = range(len(self._paths))[first : first + _TOGETHER]
            together = slice(first, first + len(tracks))
            binned = np.empty((len(tracks), *out.shape[:2]), np.float32)
            for track in tracks:
                values = self._scaled(track, chrom, starts[0], covered)
                binned[track - first] = self._pooled(values, starts, length, bin_size, blacklist, track)
            finite = np.isfinite(binned)
            if not finite.all():
                number, row, place = map(int, np.unravel_index(np.argmin(finite), finite.shape))
                track = tracks[number]
                raise InputError(
                    f"track {self._identifiers[track]}, bigWig {self._paths[track]}: the target at "
                    f"{chrom}:{starts[row] + bin_size * place} is NaN or infinite "
                    f"(after scale {self._scale[track]:g} and {self._sum_stat[track]})."
                )
            limits = (self._clip_soft[together, None, None], self._clip[together, None, None])
            binned = clipped(binned, *limits)
            self.limited[together] += np.count_nonzero(np.abs(binned) > limit, axis=(1, 2))
            out[..., together] = np.moveaxis(np.clip(binned, -limit, limit), 0, -1)
        return out

    def _scaled(self, track: int, chrom: str, start: int, covered: np.ndarray) -> np.ndarray:
        """The track's value at each position of `covered`, missing ones 0 and, where it is True, counted."""
        values = self._values(track, chrom, start, start + covered.size)
        if np.isnan(values.min()):
            absent = np.isnan(values)
            self.missing[track] += np.count_nonzero(absent & covered)
            values[absent] = 0
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported where it is binned
            values *= self._scale[track]
        return values

    def _pooled(
        self,
        values: np.ndarray,
        starts: Sequence[int],
        length: int,
        bin_size: int,
        blacklist: Sequence[Interval],
        track: int,
    ) -> np.ndarray:
        """Bins of each window, `[windows, bins]`, of values that begin at the first of `starts`."""
        offsets = np.subtract(starts, starts[0])
        sum_stat = self._sum_stat[track]
        if not blacklist and not (offsets % bin_size).any():
            return pool(values, bin_size, sum_stat)[
                np.add.outer(offsets // bin_size, np.arange(length // bin_size))
            ]
        windows = [values[offset : offset + length] for offset in offsets]
        tamed = [self._tamed(window, start, blacklist) for window, start in zip(windows, starts, strict=True)]
        return np.stack([pool(window, bin_size, sum_stat) for window in tamed])

    @staticmethod
    def _tamed(window: np.ndarray, start: int, blacklist: Sequence[Interval]) -> np.ndarray:
        inside = [(max(b.start - start, 0), min(b.end - start, window.size)) for b in blacklist]
        inside = [(low, high) for low, high in inside if low < high]
        if not inside:
            return window
        limit = abs(float(np.median(window)))
        window = window.copy()
        for low, high in inside:
            window[low:high] = np.clip(window[low:high], -limit, limit)
        return window
