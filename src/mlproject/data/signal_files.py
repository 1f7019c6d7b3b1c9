"""Predicted signal written for others to read.

predictions.npz        see `write_npz`
0003_NAME.bw           the track of index 3; 0003_NAME.variance.bw its variance
0003_NAME.bedgraph     likewise
"""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from enformer_core.enformer import BIN_SIZE_BP
from mlproject.data.files import disk_free, size_text
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import Stretch

# Bytes of a value, at most: a bigWig has its zoom levels too, and a bedGraph writes it as a line.
_BYTES = {"npz": 4, "bedgraph": 48, "bigwig": 6}
_FILE_BYTES = 8192  # of a file beside its values, and of the block of the disk that its end is in
_LINES = 100_000  # of a bedGraph, made at once
FORMATS = tuple(_BYTES)


def file_name(track: Track, ending: str) -> str:
    """A name that every file system takes, different for each track whatever their identifiers."""
    safe = re.sub(r"[^A-Za-z0-9.+-]+", "_", track.identifier).strip("._")[:80]
    return f"{track.index:04d}_{safe}{ending}" if safe else f"{track.index:04d}{ending}"


def cost(bins: int, tracks: int, arrays: int, formats: Sequence[str]) -> str:
    """One line that says what so many tracks take on disk, at most."""
    one = size(["npz"], bins, tracks, arrays)
    of_formats = size(formats, bins, tracks, arrays)
    files = tracks * arrays * len({"bigwig", "bedgraph"} & set(formats))
    return (
        f"{tracks:,} tracks x {bins:,} bins: up to {size_text(2 * one + of_formats)} on disk while they are written, "
        f"{size_text(of_formats)} and {files:,} files of single tracks in the end; --tracks chooses fewer"
    )


def size(formats: Sequence[str], bins: int, tracks: int, arrays: int) -> int:
    """The bytes of these formats, at most."""
    files = sum(1 if name == "npz" else tracks * arrays for name in formats)
    return bins * tracks * arrays * sum(_BYTES[name] for name in formats) + files * _FILE_BYTES


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
        "index": np.array([track.index for track in tracks], np.int64),
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


_START = (
    "import sys; sys.path[0] = sys.argv[1]; from mlproject.data import bigwig_writer; bigwig_writer.main()"
)


def write_bigwigs(
    files: Sequence[tuple[Path, Path, int]], stretches: Sequence[Stretch], lengths: dict[str, int]
) -> Iterator[Path]:
    """Writes tracks as bigWig, and yields each when it is whole: chromosomes that have values, by bytes of their names.

    The library that writes them ends the process where the disk is full, so it is used in one of its own.

    Args:
      files: to write, and for each the .npy file of `[bins in all, tracks]` and the column that go into it.
      stretches: of the bins, in that order, and by start.
      lengths: of the chromosomes.

    Raises:
      OSError: one could not be written.
    """
    task = {
        "files": [(str(path), str(source), column) for path, source, column in files],
        "stretches": stretches,
        "bin_size": BIN_SIZE_BP,
        "lengths": {stretch.chrom: lengths[stretch.chrom] for stretch in stretches},
    }
    with subprocess.Popen(
        [sys.executable, "-c", _START, str(Path(__file__).parents[2])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what the library and the C library say when it crashes
        text=True,
    ) as writer:
        assert writer.stdin and writer.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # how it ended is seen below
                writer.stdin.write(json.dumps(task))
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
            for path, _, _ in files:
                said = writer.stdout.readline()
                if said != "done\n":
                    raise OSError(_why(said, writer.wait(), path))
                yield path
        finally:
            writer.kill()


def _why(said: str, code: int, path: Path) -> str:
    """Why a bigWig is not there: what the writer said, or else how it ended."""
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    free = size_text(disk_free(path.parent))
    return f"{path.name}: {said.strip() or f'its writer ended with {ended}'}; {free} free there"


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
    of_tracks = [(column, name) for column in range(len(tracks)) for name in arrays]

    def place(column: int, name: str, ending: str) -> Path:
        return folder / file_name(tracks[column], ending if name == "values" else f".{name}{ending}")

    if "bedgraph" in formats:
        opened = {name: np.load(path, mmap_mode="r") for name, path in arrays.items()}
        for column, name in tqdm(of_tracks, "write bedGraph", unit="file", disable=None, leave=False):
            write_bedgraph(place(column, name, ".bedgraph"), stretches, opened[name][:, column])
    if "bigwig" in formats:
        files = [(place(column, name, ".bw"), arrays[name], column) for column, name in of_tracks]
        written = write_bigwigs(files, stretches, lengths)
        for _ in tqdm(written, "write bigWig", len(files), False, unit="file", disable=None):
            pass
