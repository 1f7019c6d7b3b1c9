"""Writes bigWig files in a process of its own, which its library may end: see `signal_files.write_bigwigs`.

It imports nothing of ours, so that it starts in a tenth of a second.

    stdin     JSON: files [[path, .npy file, column]], stretches [[chrom, start, end, offset]], bin_size, lengths
    stdout    for each file in turn a line: `done`, or what went wrong, which is the last one
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyBigWig

_MAGIC = bytes.fromhex("26fc8f88")  # which a file that is whole ends with too
Stretch = tuple[str, int, int, int]


def main() -> None:
    """Does what stdin says."""
    task: dict[str, Any] = json.load(sys.stdin)
    for path, source, column in task["files"]:
        try:
            values = np.load(source, mmap_mode="r")[:, column]
            write(path, task["stretches"], task["bin_size"], values, task["lengths"])
        except (OSError, RuntimeError) as error:
            print(" ".join(str(error).split()), flush=True)
            return
        print("done", flush=True)


def write(
    path: str, stretches: Sequence[Stretch], bin_size: int, column: np.ndarray, lengths: dict[str, int]
) -> None:
    """One track as bigWig.

    Args:
      path: to write.
      stretches: sorted by the bytes of the names of chromosomes, and by start.
      bin_size: bp of a value; the last one of a stretch may be of fewer.
      column: values `[bins in all]`.
      lengths: of the chromosomes, in that order.

    Raises:
      RuntimeError: it could not be written.
    """
    file = pyBigWig.open(path, "w")
    file.addHeader(list(lengths.items()))
    for chrom, start, end, offset in stretches:
        bins = -(-(end - start) // bin_size)
        values = np.asarray(column[offset : offset + bins], np.float64)
        whole = (end - start) // bin_size
        if whole:
            file.addEntries(chrom, start, values=values[:whole], span=bin_size, step=bin_size)
        if whole < bins:
            file.addEntries([chrom], [start + whole * bin_size], ends=[end], values=values[whole:].tolist())
    file.close()
    with open(path, "rb") as written:  # the library does not say what it could not write at the end
        written.seek(-len(_MAGIC), 2)
        if written.read() != _MAGIC:
            raise RuntimeError("it is not whole")
