"""Sequence from FASTA and regions from BED. All coordinates are 0-based and half-open, in base pairs."""

import codecs
import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyfaidx

from enformer_core import dna
from mlproject.data.files import DAMAGED_GZIP, explained, read_lines, whole_number
from mlproject.errors import InputError


class Interval(NamedTuple):
    """A stretch of one chromosome: `start` is 0-based and inside, `end` is outside."""

    chrom: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start}-{self.end}"


class Genome:
    """Random access to the sequences of a FASTA file: plain, bgzip or plain gzip.

    Nothing is written beside the file and no index found beside it is trusted. The index, and for compressed
    files the decompressed sequence, are kept in `work_dir/genomes` under the file's size and time of change.

    Args:
      path: the FASTA file.
      work_dir: where index and decompressed copy are kept.

    Raises:
      InputError: the file is absent, unreadable, empty, or not FASTA.
    """

    def __init__(self, path: str | os.PathLike, work_dir: str | os.PathLike = "work") -> None:
        self.path = Path(path)
        self.work_dir = Path(work_dir)
        with explained(f"fasta {path}: cannot be read"):
            state = self.path.stat()
            with open(self.path, "rb") as file:
                magic = file.read(2)
        if not magic:
            raise InputError(f"fasta {path}: is empty.")
        compressed = magic == b"\x1f\x8b"
        if not compressed and self.path.suffix in (".gz", ".bgz"):
            raise InputError(f"fasta {path}: is not gzip, as its name says.")
        key = hashlib.sha256(
            f"{self.path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()
        ).hexdigest()
        folder = self.work_dir / "genomes"
        name = self.path.name.removesuffix(".gz").removesuffix(".bgz")
        plain = folder / f"{key[:16]}-{name}" if compressed else self.path
        index = folder / f"{key[:16]}-{name}.fai"
        try:
            with explained(f"work_dir {work_dir}: cannot be written", (OSError,)):
                if not (plain.exists() and index.exists()):
                    self._prepare(plain, index)
            self._fasta = pyfaidx.Faidx(
                str(plain), indexname=str(index), rebuild=False, as_raw=True, strict_bounds=True
            )
            self.lengths: dict[str, int] = {name: entry.rlen for name, entry in self._fasta.index.items()}
        except (pyfaidx.FastaIndexingError, pyfaidx.IndexNotFoundError, ValueError, UnicodeError) as error:
            raise InputError(f"fasta {path}: is not FASTA ({_one_line(error)}).") from None
        if not self.lengths:
            raise InputError(f"fasta {path}: holds no sequence (no line starts with '>').")

    def _prepare(self, plain: Path, index: Path) -> None:
        """Make the index, and `plain` where it is not the FASTA itself, both whole or not at all."""
        index.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=index.parent) as scratch:
            source = self.path
            if plain != self.path:
                source = Path(scratch) / plain.name
                with (
                    explained(f"fasta {self.path}: cannot be decompressed", DAMAGED_GZIP),
                    gzip.open(self.path, "rb") as packed,
                    open(source, "wb") as copy,
                ):
                    shutil.copyfileobj(packed, copy, 1 << 20)
            with open(source, "rb") as file:
                if file.read(3) == codecs.BOM_UTF8:
                    raise InputError(
                        f"fasta {self.path}: begins with a byte order mark; save it as plain text, without one."
                    )
            unfinished = Path(scratch) / index.name
            pyfaidx.Faidx(str(source), indexname=str(unfinished)).close()
            if plain != self.path:
                os.replace(source, plain)
            os.replace(unfinished, index)

    def letters(self, interval: Interval) -> str:
        """The letters of `interval`, upper case, exactly `end - start` of them.

        Raises:
          InputError: the chromosome is unknown, or the interval is empty or leaves the chromosome.
        """
        chrom, start, end = interval
        if chrom not in self.lengths:
            raise InputError(
                f"fasta {self.path}: has no chromosome {chrom}; it has {name_some(self.lengths)}."
            )
        if not 0 <= start < end <= self.lengths[chrom]:
            raise InputError(
                f"fasta {self.path}: region {chrom}:{start}-{end} is not inside {chrom}, "
                f"which is {self.lengths[chrom]} bp long."
            )
        return self._fasta.fetch(chrom, start + 1, end).upper()

    def codes(self, interval: Interval) -> np.ndarray:
        """The bases of `interval` as `[end - start]` uint8: A 0, C 1, G 2, T 3; N and all other letters 4."""
        return dna.codes(self.letters(interval))

    def close(self) -> None:
        """Close the file."""
        self._fasta.close()


def read_bed(
    path: str | os.PathLike,
    lengths: dict[str, int],
    labels: Sequence[str] = (),
    other_chromosomes: bool = False,
    named: bool = False,
    rename: Callable[[str], str] = str,
) -> list[tuple[Interval, str]]:
    """The regions of a BED file with their labels, in file order.

    Header lines (`#`, `track`, `browser`) and blank lines are skipped; a byte order mark and CRLF are
    accepted.

    Args:
      path: BED file, columns separated by tabs (or blanks), plain or gzip.
      lengths: chromosome lengths, which names and ends are checked against.
      labels: the words that the fourth column may hold. Without any it is not read and labels are "".
      other_chromosomes: accept regions on chromosomes that `lengths` has not.
      named: the label is the fourth column, any word that is not empty.
      rename: what a chromosome of the file is called in `lengths`.

    Raises:
      InputError: names the file, the line and the field.
    """
    regions: list[tuple[Interval, str]] = []
    for number, line in read_lines(path, "bed"):
        if line.startswith("#") or line.split()[0] in ("track", "browser"):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        where = f"bed {path}, line {number}"
        wanted = 4 if labels or named else 3
        if len(fields) < wanted:
            raise InputError(
                f"{where}: has {len(fields)} columns, expected at least {wanted}, separated by tabs."
            )
        chrom = rename(fields[0].strip())
        start, end = (
            whole_number(word, where, name) for name, word in zip(("start", "end"), fields[1:3], strict=True)
        )
        if start < 0:
            raise InputError(f"{where}: start is {start}, expected 0 or more.")
        if end <= start:
            raise InputError(f"{where}: end {end} is not greater than start {start}.")
        if chrom not in lengths and not other_chromosomes:
            raise InputError(
                f"{where}: chromosome {chrom} is not in the FASTA, which has {name_some(lengths)}."
            )
        if end > lengths.get(chrom, end):
            raise InputError(
                f"{where}: end {end} is off the end of {chrom}, which is {lengths[chrom]} bp long."
            )
        label = fields[3].strip() if labels or named else ""
        if named and not label:
            raise InputError(f"{where}: the fourth column is empty, expected a name.")
        if labels and label not in labels:
            raise InputError(
                f"{where}: the fourth column is {label!r}, expected {', '.join(labels[:-1])} or {labels[-1]}."
            )
        regions.append((Interval(chrom, start, end), label))
    return regions


def name_some(names, most: int = 5) -> str:
    """A few of `names` in one line, for messages."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
