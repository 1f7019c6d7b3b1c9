"""Sequence from FASTA and regions from BED. All coordinates are 0-based and half-open, in base pairs."""

import gzip
import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyfaidx

from enformer_core import dna
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
        try:
            state = self.path.stat()
            with open(self.path, "rb") as file:
                magic = file.read(2)
        except OSError as error:
            raise InputError(f"fasta {path}: cannot be read ({error.strerror}).") from None
        if not magic:
            raise InputError(f"fasta {path}: is empty.")
        compressed = magic == b"\x1f\x8b"
        key = hashlib.sha256(
            f"{self.path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()
        ).hexdigest()
        folder = self.work_dir / "genomes"
        folder.mkdir(parents=True, exist_ok=True)
        name = self.path.name.removesuffix(".gz").removesuffix(".bgz")
        plain = folder / f"{key[:16]}-{name}" if compressed else self.path
        index = folder / f"{key[:16]}-{name}.fai"
        if compressed and not plain.exists():
            self._decompress(plain)
        try:
            if not index.exists():
                unfinished = f"{index}.{os.getpid()}"
                pyfaidx.Faidx(str(plain), indexname=unfinished).close()
                os.replace(unfinished, index)
            self._fasta = pyfaidx.Faidx(
                str(plain), indexname=str(index), rebuild=False, as_raw=True, strict_bounds=True
            )
            self.lengths: dict[str, int] = {name: entry.rlen for name, entry in self._fasta.index.items()}
        except (pyfaidx.FastaIndexingError, pyfaidx.IndexNotFoundError, ValueError, UnicodeError) as error:
            Path(f"{index}.{os.getpid()}").unlink(missing_ok=True)
            if compressed:
                plain.unlink(missing_ok=True)
            raise InputError(f"fasta {path}: is not FASTA ({_one_line(error)}).") from None
        if not self.lengths:
            raise InputError(f"fasta {path}: holds no sequence (no line starts with '>').")

    def _decompress(self, plain: Path) -> None:
        unfinished = Path(f"{plain}.{os.getpid()}")
        try:
            with gzip.open(self.path, "rb") as source, open(unfinished, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            os.replace(unfinished, plain)
        except (OSError, EOFError) as error:
            unfinished.unlink(missing_ok=True)
            raise InputError(f"fasta {self.path}: cannot be decompressed ({_one_line(error)}).") from None

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
    path: str | os.PathLike, lengths: dict[str, int] | None = None, name_column: bool = False
) -> list[tuple[Interval, str]]:
    """The regions of a BED file with their labels, in file order.

    Header lines (`#`, `track`, `browser`) and blank lines are skipped; a byte order mark and CRLF are
    accepted.

    Args:
      path: BED file, columns separated by tabs (or blanks), plain or gzip.
      lengths: chromosome lengths; where given, names and ends are checked against them.
      name_column: ask for the fourth column. Without it labels are "".

    Raises:
      InputError: names the file, the line and the field.
    """
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"bed {path}: cannot be read ({_one_line(error)}).") from None
    except (UnicodeError, EOFError):
        raise InputError(f"bed {path}: is not a text file.") from None
    regions: list[tuple[Interval, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        where = f"bed {path}, line {number}"
        if len(fields) < 3 + name_column:
            raise InputError(f"{where}: has {len(fields)} columns, expected at least {3 + name_column}.")
        chrom = fields[0].strip()
        bounds = []
        for field, word in zip(("start", "end"), fields[1:3], strict=True):
            if not word.strip().removeprefix("-").isdecimal():
                raise InputError(f"{where}: {field} is {word.strip()!r}, expected a whole number.")
            bounds.append(int(word))
        start, end = bounds
        if start < 0:
            raise InputError(f"{where}: start is {start}, expected 0 or more.")
        if end <= start:
            raise InputError(f"{where}: end {end} is not greater than start {start}.")
        if lengths is not None and chrom not in lengths:
            raise InputError(
                f"{where}: chromosome {chrom} is not in the FASTA, which has {name_some(lengths)}."
            )
        if lengths is not None and end > lengths[chrom]:
            raise InputError(
                f"{where}: end {end} is off the end of {chrom}, which is {lengths[chrom]} bp long."
            )
        label = fields[3].strip() if name_column else ""
        if name_column and not label:
            raise InputError(f"{where}: the fourth column is empty.")
        regions.append((Interval(chrom, start, end), label))
    return regions


def name_some(names, most: int = 5) -> str:
    """A few of `names` in one line, for messages."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
