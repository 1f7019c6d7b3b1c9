"""Signal from bigWig files, binned and transformed.

The order is that of new Baskerville, `TRANSFORM_ORDER`: multiply by `scale`, pool to bins with `sum_stat`,
then `clip_soft`, then `clip` (hound_data_read.py of calico/baskerville). Old Basenji scaled last; a dataset
says in `statistics.json` (`transform_order`) which one made it.

    *_sqrt        y = -1 + sqrt(1 + x), x the pooled value
    clip_soft c   y > c becomes c - 1 + sqrt(y - c + 1)
    clip c        y is kept within [-c, c]
"""

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlproject.data.files import explained
from mlproject.data.genome import Interval
from mlproject.errors import InputError

TRANSFORM_ORDER = "scale,sum_stat,clip_soft,clip"
_MAGIC = {b"\x26\xfc\x8f\x88": "<", b"\x88\x8f\xfc\x26": ">"}
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
_PROBE = """
import json, sys
import pyBigWig
for line in sys.stdin:
    path = json.loads(line)
    print(json.dumps([path, None]), flush=True)
    try:
        file = pyBigWig.open(path)
        chroms = file.chroms()
        for chrom, length in list(chroms.items())[:64]:
            if len(file.values(chrom, 0, min(length, 1000), numpy=True)) == 0:
                chroms = {}  # a header without data
                break
            file.values(chrom, length // 2, min(length // 2 + 1000, length), numpy=True)
        print(json.dumps([path, chroms]), flush=True)
    except Exception as error:
        print(json.dumps([path, " ".join(str(error).split())]), flush=True)
        break
"""


def check_bigwigs(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, int]]:
    """The chromosome lengths of each bigWig, after reading a little of each in a process of its own.

    A damaged header can crash the reader (libBigWig), so the first look is taken where a crash does no harm.

    Args:
      paths: the files.
      names: what to call each in a message.

    Raises:
      InputError: a file is absent, not a bigWig, damaged, or stores NaN or infinite values; names it.
    """
    keys: dict[str, str] = {}
    for path, name in zip(paths, names, strict=True):
        with explained(f"bigWig {path} ({name}): cannot be read"):
            with open(path, "rb") as file:
                header = file.read(64)
                if header[:4] not in _MAGIC or len(header) < 64:
                    raise InputError(f"bigWig {path} ({name}): is not a bigWig file.")
                summary_at = struct.unpack_from(_MAGIC[header[:4]] + "Q", header, 44)[0]
                file.seek(0, os.SEEK_END)
                size = file.tell()
                if 0 < summary_at <= size - 40:
                    file.seek(summary_at)
                    summary = struct.unpack(_MAGIC[header[:4]] + "Q4d", file.read(40))
                    if not all(math.isfinite(value) for value in summary[1:]):
                        raise InputError(
                            f"bigWig {path} ({name}): stores NaN or infinite values; "
                            "leave positions out of the file where nothing was measured."
                        )
                elif summary_at > size - 40:
                    raise InputError(f"bigWig {path} ({name}): is truncated.")
            state = os.stat(path)
        keys[str(path)] = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    unique = [path for path, key in keys.items() if key not in _probed]
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE],
        input="".join(json.dumps(path) + "\n" for path in unique),
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[str, int] | str | None] = dict(
        json.loads(line) for line in probe.stdout.splitlines()
    )
    for path, name in zip(paths, names, strict=True):
        if keys[str(path)] in _probed:
            continue
        chroms = found.get(str(path))
        if isinstance(chroms, str) or chroms is None:
            reason = chroms or "the bigWig reader crashes on it"
            raise InputError(f"bigWig {path} ({name}): is damaged ({reason}).")
        if not chroms:
            raise InputError(f"bigWig {path} ({name}): holds no values.")
        _probed[keys[str(path)]] = chroms
    return [_probed[keys[str(path)]] for path in paths]


class SignalReader:
    """Binned signal of several tracks; each bigWig is opened once, at its first use.

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
        self._files: dict[str, object] = {}
        self.missing = np.zeros(len(paths), np.int64)  # bp without a value, per track
        self.limited = np.zeros(len(paths), np.int64)  # bins outside float16, per track

    def _values(self, track: int, chrom: str, start: int, end: int) -> np.ndarray:
        import pyBigWig

        path = str(self._paths[track])
        if path not in self._files:
            self._files[path] = pyBigWig.open(path)
        file = self._files[path]
        try:
            values = file.values(chrom, start, end, numpy=True)  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise InputError(f"bigWig {path}: {chrom}:{start}-{end} cannot be read ({error}).") from None
        return values.astype(np.float32, copy=False)

    def read(
        self,
        chrom: str,
        starts: Sequence[int],
        length: int,
        bin_size: int,
        blacklist: Sequence[Interval] = (),
    ) -> np.ndarray:
        """Targets of windows of one chromosome: `[windows, length // bin_size, tracks]` float16.

        Each track is read in one stretch from the first start to the last end. Positions without a value
        count as 0. Blacklisted positions are kept within plus and minus the window's median of the track, as
        Baskerville does. Values beyond float16 are limited to its range and counted.

        Args:
          chrom: chromosome name.
          starts: ascending start of each window's target, in bp.
          length: bp per window.
          bin_size: bp per bin.
          blacklist: regions of this chromosome.

        Raises:
          InputError: a value is NaN or infinite after the transform, or the file cannot be read.
        """
        first, last = starts[0], starts[-1] + length
        out = np.empty((len(starts), length // bin_size, len(self._paths)), np.float16)
        covered = np.zeros(last - first, bool)
        for start in starts:
            covered[start - first : start - first + length] = True
        whole = bool(covered.all())
        for track, sum_stat in enumerate(self._sum_stat):
            values = self._values(track, chrom, first, last)
            absent = np.isnan(values)
            if absent.any():
                self.missing[track] += int(absent.sum() if whole else (absent & covered).sum())
                values = np.where(absent, np.float32(0), values)
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported below
                values = values * self._scale[track]
            for row, start in enumerate(starts):
                window = values[start - first : start - first + length]
                window = self._tamed(window, start, blacklist)
                binned = pool(window, bin_size, sum_stat)
                if not np.isfinite(binned).all():
                    where = start + bin_size * int(np.argmin(np.isfinite(binned)))
                    raise InputError(
                        f"track {self._identifiers[track]}, bigWig {self._paths[track]}: the target at "
                        f"{chrom}:{where} is NaN or infinite "
                        f"(after scale {self._scale[track]:g} and {sum_stat})."
                    )
                binned = clipped(binned, self._clip_soft[track], self._clip[track])
                limit = np.float32(np.finfo(np.float16).max)
                outside = np.abs(binned) > limit
                if outside.any():
                    self.limited[track] += int(outside.sum())
                    binned = np.clip(binned, -limit, limit)
                out[row, :, track] = binned
        return out

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
