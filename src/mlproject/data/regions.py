"""Regions to predict: read, resized to whole fragments, broken into them, and what letters they are of.

    region      [start, end)                      as it was asked for
    predicted   [first, last)                     fragments about its centre, on the genome's grid of bins
    fragment    [start, start + span)             what one call of the model predicts
    input       [start - flank, ... + length)     what the model reads for it; beyond the chromosome is N

All coordinates are 0-based and half-open, in base pairs.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from enformer_core import dna
from enformer_core.enformer import BIN_SIZE_BP
from mlproject.data.files import read_lines, whole_number
from mlproject.data.genome import Genome, Interval, name_some, read_bed
from mlproject.errors import InputError
from mlproject.options import nearest

LONG_RUN = 1_000  # bp of N in a row that are worth a word
_CHUNK = 4_000_000  # letters read at once
_WORD = re.compile(r"(.+):([^:-]+)-([^:-]+)")
_REGION = re.compile(r".+:[0-9,]+-[0-9,]+")  # which no path of a BED file is taken for


class Region(NamedTuple):
    """A stretch that was asked for."""

    name: str
    chrom: str
    start: int
    end: int

    def __str__(self) -> str:
        place = f"{self.chrom}:{self.start}-{self.end}"
        return place if self.name in ("", place) else f"{self.name} ({place})"


class Span(NamedTuple):
    """What is predicted for a region: whole fragments, which may leave the chromosome."""

    chrom: str
    start: int
    end: int


class Fragment(NamedTuple):
    """What one call of the model predicts; its end follows from the length of all."""

    chrom: str
    start: int


def read_regions(words: str, lengths: dict[str, int]) -> list[Region]:
    """The regions that an option names, in their order; each is inside a chromosome.

    Args:
      words: a comma list of `chrom:start-end`, commas in numbers allowed; or the path of a BED file, whose fourth
        column is a name if it has one; or nothing: every chromosome whole.
      lengths: of the chromosomes.

    Raises:
      InputError: names the file and line or the word, what was found and what was expected.
    """
    if not words.strip():
        whole = [Region(chrom, chrom, 0, length) for chrom, length in lengths.items() if length]
        if not whole:
            raise InputError("the FASTA has no bases, only names.")
        return whole
    parts = [word.strip() for word in re.split(r",\s*(?=[^,]*:)", words.strip().strip(","))]
    are_regions = all(_REGION.fullmatch(word) for word in parts)
    if not are_regions and (os.path.isfile(words) or ":" not in words):
        regions = [
            Region(name or str(interval), *interval)
            for (interval, _), name in zip(read_bed(words, lengths), _names(words), strict=True)
        ]
        if not regions:
            raise InputError(f"bed {words}: has no regions.")
        return regions
    return [_region(word, lengths) for word in parts]


def _names(bed: str) -> list[str]:
    """The fourth column of each region, empty where there is none."""
    names = []
    for _, line in read_lines(bed, "bed"):
        if line.startswith("#") or line.split()[0] in ("track", "browser"):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        names.append(fields[3].strip() if len(fields) > 3 else "")
    return names


def _region(word: str, lengths: dict[str, int]) -> Region:
    where = f"--regions: {word!r:.80}"
    found = _WORD.fullmatch(word)
    if not found:
        raise InputError(f"{where} is no region; expected a BED file or chrom:start-end.")
    chrom = found[1]
    start, end = (
        whole_number(number.replace(",", ""), where, name)
        for number, name in zip(found.groups()[1:], ("start", "end"), strict=True)
    )
    if chrom not in lengths:
        hint = nearest(chrom, list(lengths))
        raise InputError(
            f"{where}: chromosome {chrom} is not in the FASTA, which has {name_some(lengths)}{hint}"
        )
    if end <= start:
        raise InputError(f"{where}: end {end} is not greater than start {start}.")
    if end > lengths[chrom]:
        raise InputError(f"{where}: end {end} is off the end of {chrom}, which is {lengths[chrom]} bp long.")
    return Region(f"{chrom}:{start}-{end}", chrom, start, end)


def resized(region: Region, span: int) -> Span:
    """The region resized about its centre to a multiple of `span`, then moved by up to 64 bp to the grid of bins.

    On the grid the bins of regions that overlap are the same bins. Where the region is as long as the multiple, up to
    64 bp of it can be left out at one end.
    """
    count = -(-(region.end - region.start) // span)
    twice = region.start + region.end - count * span  # the start, times two: it may be half a base
    start = (twice + BIN_SIZE_BP) // (2 * BIN_SIZE_BP) * BIN_SIZE_BP
    return Span(region.chrom, start, start + count * span)


def fragments_of(spans: Sequence[Span], span: int) -> list[Fragment]:
    """The fragments of all spans, each once, in order of chromosome (by bytes of its name) and start."""
    found = {Fragment(s.chrom, start) for s in spans for start in range(s.start, s.end, span)}
    return sorted(found, key=lambda fragment: (fragment.chrom.encode(), fragment.start))


def read_codes(genome: Genome, chrom: str, start: int, end: int) -> np.ndarray:
    """The bases of a stretch that may leave its chromosome: `[end - start]` uint8, as `Genome.codes`, beyond it N."""
    codes = np.full(end - start, 4, np.uint8)
    low, high = max(start, 0), min(end, genome.lengths[chrom])
    if low < high:
        codes[low - start : high - start] = genome.codes(Interval(chrom, low, high))
    return codes


class Letters(NamedTuple):
    """What is not A, C, G or T in the stretches that are read, each base counted once."""

    runs: dict[str, np.ndarray]
    """Runs of N by chromosome, `[runs, 2]`: start and end, in order."""
    other: dict[str, np.ndarray]
    """Positions of other letters by chromosome, in order."""
    digest: str
    """sha256 of the stretches and their letters."""

    def unknown_in(self, interval: Interval, length: int) -> tuple[int, int]:
        """Bases of an interval that are N or beyond the ends of its chromosome of `length`, and other letters."""
        chrom, start, end = interval
        beyond = max(0, min(end, 0) - start) + max(0, end - max(start, length))
        runs = self.runs[chrom]
        first, last = np.searchsorted(runs[:, 1], start, "right"), np.searchsorted(runs[:, 0], end, "left")
        within = np.clip(runs[first:last], start, end)
        low, high = np.searchsorted(self.other[chrom], (start, end))
        return beyond + int((within[:, 1] - within[:, 0]).sum()), int(high - low)

    def summary(self) -> str:
        """One line that counts them; empty where there are none."""
        lengths = np.concatenate(
            [np.zeros(0, int), *(runs[:, 1] - runs[:, 0] for runs in self.runs.values())]
        )
        other = sum(map(len, self.other.values()))
        parts = []
        if lengths.sum():
            parts.append(f"{lengths.sum():,} bp of N")
        if long := int((lengths >= LONG_RUN).sum()):
            chrom, start, end = max(
                ((chrom, int(a), int(b)) for chrom, runs in self.runs.items() for a, b in runs),
                key=lambda run: run[2] - run[1],
            )
            parts[-1] += (
                f" ({long} run{'s' if long > 1 else ''} of {LONG_RUN:,} bp or more, "
                f"the longest {chrom}:{start}-{end})"
            )
        if other:
            parts.append(f"{other:,} letters other than A, C, G, T and N, which are read as N")
        return f"in the sequence that is read: {', '.join(parts)}" if parts else ""


def read_letters(genome: Genome, intervals: Sequence[Interval]) -> Letters:
    """Reads the intervals, which may overlap and leave their chromosomes, and counts their letters."""
    runs: dict[str, list[tuple[int, int]]] = {}
    other: dict[str, list[np.ndarray]] = {}
    total = hashlib.sha256()
    for chrom, start, end in _merged(intervals, genome.lengths):
        total.update(f"{chrom}:{start}-{end}\n".encode())
        of_chrom = runs.setdefault(chrom, [])
        others = other.setdefault(chrom, [])
        for low in range(start, end, _CHUNK):
            letters = genome.letters(Interval(chrom, low, min(end, low + _CHUNK))).encode(
                "latin-1", "replace"
            )
            total.update(letters)
            array = np.frombuffer(letters, np.uint8)
            unknown = array == ord("N")
            edges = low + np.flatnonzero(np.diff(np.concatenate([[0], unknown.view(np.int8), [0]])))
            for a, b in edges.reshape(-1, 2).tolist():
                if of_chrom and of_chrom[-1][1] == a:
                    a = of_chrom.pop()[0]
                of_chrom.append((a, b))
            others.append(low + np.flatnonzero((dna.codes(letters.decode("latin-1")) == 4) & ~unknown))
    return Letters(
        {chrom: np.array(found, np.int64).reshape(-1, 2) for chrom, found in runs.items()},
        {chrom: np.concatenate(found) for chrom, found in other.items()},
        total.hexdigest(),
    )


def _merged(intervals: Sequence[Interval], lengths: dict[str, int]) -> list[Interval]:
    """Within their chromosomes and in order; those that touch or overlap are one."""
    merged: list[Interval] = []
    for chrom, start, end in sorted(set(intervals)):
        start, end = max(start, 0), min(end, lengths[chrom])
        if merged and merged[-1].chrom == chrom and start <= merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(end, merged[-1].end))
        else:
            merged.append(Interval(chrom, start, end))
    return merged
