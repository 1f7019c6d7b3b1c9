"""Windows of sequence with the coverage of cell types at each base, drawn at random from FASTA and bigWigs.

Subsets are whole chromosomes, so that windows of one share no base with those of another; those of one may overlap.
All coordinates are 0-based and half-open, in bp.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlproject.data import head_tracks
from mlproject.data.bigwig import DAMAGED, BigWig
from mlproject.data.files import explained, identity
from mlproject.data.genome import Genome, Interval, name_some
from mlproject.data.records import SUBSETS
from mlproject.data.signals import check_bigwigs
from mlproject.data.targets import read_targets
from mlproject.data.windows import Regions, allowed_regions
from mlproject.errors import InputError

_NEAR = 8_192  # bp: to read what lies between takes less than to look up a place again
_LONGEST = 1 << 21  # bp that are read in one stretch


class CoverageWindows(NamedTuple):
    """Windows in the order in which they were drawn."""

    codes: np.ndarray
    """Bases `[windows, length]` uint8: A 0, C 1, G 2, T 3, N and other letters 4."""
    log_coverage: np.ndarray
    """`[windows, cell types, length]` float16: log(1 + coverage), the mean of the tracks of the cell type; 0 where
    there is no value."""
    chrom: list[str]
    start: np.ndarray
    """`[windows]` int64."""
    notes: tuple[str, ...]
    """What was taken as 0, and stretches too short for a window: a line each."""


class _Signal(NamedTuple):
    """One track of a cell type."""

    identifier: str
    path: Path
    scale: float


@dataclass(frozen=True)
class CoverageSource:
    """Where windows are drawn from: `open_coverage` makes it. It holds no open file."""

    cell_types: tuple[str, ...]
    """In the order in which the table first has them."""
    digest: str
    """SHA-256 over the table, names, sizes and times of change of the files, and the options."""
    notes: tuple[str, ...]
    """What was averaged and what was left out: a line each."""
    stretches: dict[str, list[Interval]]
    """Where windows may lie, by subset."""
    fasta: Path
    work_dir: Path
    """Where the index of the FASTA is kept."""
    signals: tuple[tuple[_Signal, ...], ...]
    """The tracks of each cell type."""

    def check_room(self, subset: str, count: int, length: int) -> None:
        """Refuses what `draw` cannot give whatever the letters are; reads no file.

        Raises:
          InputError: windows are too long, or there are fewer places than asked for.
        """
        own = self.stretches[subset]
        longest = max(own, key=lambda one: one.end - one.start)
        if longest.end - longest.start < length:
            raise InputError(
                f"{subset}: no window of {length} bp fits, the longest stretch is {longest} of "
                f"{longest.end - longest.start} bp; ask for shorter windows."
            )
        places = sum(max(0, one.end - one.start - length + 1) for one in own)
        if places < count:
            raise InputError(
                f"{subset}: there are {places:,} places for a window of {length} bp, {count:,} are asked for; ask for "
                "fewer."
            )

    def draw(self, subset: str, count: int, length: int, seed: int) -> CoverageWindows:
        """Windows at different random places, of each of which at least half is not N.

        It is a function of the files and of these arguments alone.

        Args:
          subset: train, valid or test.
          count: windows.
          length: bp.
          seed: chooses the places.

        Raises:
          InputError: an argument is wrong, there are fewer places than asked for, or a file is damaged.
        """
        if subset not in SUBSETS:
            raise InputError(f"subset {subset!r} is unknown; there are {', '.join(SUBSETS)}.")
        for name, value, least in (("count", count, 1), ("length", length, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"{name} of {subset} windows is {value}, expected {least} or more.")
        genome = Genome(self.fasta, self.work_dir)
        try:
            chrom, start, codes = self._places(genome, subset, count, length, seed)
        finally:
            genome.close()
        notes = []
        stretches = self.stretches[subset]
        short = [stretch for stretch in stretches if stretch.end - stretch.start < length]
        if short:
            notes.append(
                f"{subset}: {len(short)} of {len(stretches)} stretches are shorter than {length} bp and give no "
                f"window ({name_some(short, 3)})."
            )
        log_coverage = np.empty((count, len(self.cell_types), length), np.float16)
        read = list(_together(chrom, start, length))
        zeros: dict[str, list[str]] = {"without a value": [], "with a value below 0": []}
        for column, own in enumerate(self.signals):
            total = np.zeros((count, length), np.float32)
            for signal in own:
                counts = _add(total, signal, 1 / len(own), read, start)
                for what, number in zip(zeros, counts, strict=True):
                    if number:
                        zeros[what].append(f"{signal.identifier} {number:,}")
            log_coverage[:, column] = np.log1p(total)
        for what, tracks in zeros.items():
            if tracks:
                notes.append(
                    f"{subset}: positions {what} count as 0, of {count * length:,} drawn: {name_some(tracks)}."
                )
        return CoverageWindows(codes, log_coverage, chrom, start, tuple(notes))

    def _places(
        self, genome: Genome, subset: str, count: int, length: int, seed: int
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Chromosomes, starts `[count]` int64 and bases `[count, length]` uint8 of the windows."""
        self.check_room(subset, 1, length)
        stretches = [one for one in self.stretches[subset] if one.end - one.start >= length]
        ends = np.cumsum([one.end - one.start - length + 1 for one in stretches])
        total = int(ends[-1])
        size = 4 * count
        while True:
            size = min(size, total)
            order = np.random.default_rng([seed, SUBSETS.index(subset)]).choice(total, size, replace=False)
            found: list[tuple[str, int, np.ndarray]] = []
            for number in order.tolist():
                which = int(np.searchsorted(ends, number, "right"))
                chrom, _, end = stretches[which]
                start = end - length - (int(ends[which]) - 1 - number)
                codes = genome.codes(Interval(chrom, start, start + length))
                if 2 * np.count_nonzero(codes == 4) <= length:
                    found.append((chrom, start, codes))
                if len(found) == count:
                    chroms, starts, bases = zip(*found, strict=True)
                    return list(chroms), np.array(starts, np.int64), np.stack(bases)
            if size == total:
                raise InputError(
                    f"{subset}: there are {len(found)} places for a window of {length} bp that are not mostly N, "
                    f"{count} are asked for; ask for {f'at most {len(found)}' if found else 'other chromosomes'}."
                )
            size *= 8


def open_coverage(
    fasta: str | os.PathLike,
    targets: str | os.PathLike,
    *,
    valid: Sequence[str],
    test: Sequence[str],
    regions: str | os.PathLike | None = None,
    work_dir: str | os.PathLike = "work",
    tracks: str = "",
) -> CoverageSource:
    """Check FASTA, tracks and subsets, and say what there is to draw from.

    Args:
      fasta: sequence, plain or compressed.
      targets: table of tracks, as `read_targets` reads it; relative files are relative to its folder. A column
        `cell_type` names the cell type, or else what follows the first colon of the description, or else the
        identifier. Values are multiplied by `scale`; what is said about bins (clip, clip_soft, sum_stat) is not used.
      valid, test: chromosomes of these subsets; all others that every bigWig has are train.
      regions: BED of the places that windows must lie in; all of every chromosome without one.
      work_dir: for index and decompressed copy of the FASTA.
      tracks: which rows of the table, as `head_tracks.choose` reads it, such as `ATAC*`; all without it.

    Raises:
      InputError: a file is wrong, names or lengths of chromosomes differ between them, or a subset has no chromosome.
    """
    table = read_targets(targets)
    chosen = sorted(track.position for track in head_tracks.choose(tracks, head_tracks.of_targets(table)))
    table = table.iloc[chosen]
    names = _cell_types(table, targets)
    paths = [Path(targets).parent / name for name in table["file"]]
    genome = Genome(fasta, work_dir)
    lengths = genome.lengths
    genome.close()
    allowed = [interval for interval, _ in allowed_regions(regions, lengths, False, valid, test)]
    sizes = check_bigwigs(paths, list(table["identifier"]))
    there = dict.fromkeys(interval.chrom for interval in allowed)
    side = f"BED {regions}" if regions else f"FASTA {fasta}"
    lacking = _lacking(there, lengths, paths, sizes, fasta, side)
    usable = [chrom for chrom in there if chrom not in lacking]
    for option, chroms in (("valid", valid), ("test", test)):
        for chrom in chroms:
            if chrom in lacking:
                raise InputError(
                    f"{option} names chromosome {chrom}, which bigWig {lacking[chrom]} has not; choose from "
                    f"{name_some(usable)}, which the FASTA{', the BED' if regions else ''} and every bigWig have."
                )
    if set(usable) <= {*valid, *test}:
        raise InputError(
            f"no chromosome is left to train on: valid and test name all that {fasta} and every bigWig have "
            f"({name_some(usable)})."
        )
    notes = []
    if lacking:
        notes.append(
            f"{len(lacking)} of {len(there)} chromosomes are left out ({name_some(lacking)}): bigWig "
            f"{next(iter(lacking.values()))} has not {next(iter(lacking))}; used are {name_some(usable)}."
        )
    joined = Regions(allowed)
    stretches: dict[str, list[Interval]] = {subset: [] for subset in SUBSETS}
    for chrom in usable:
        subset = "valid" if chrom in valid else "test" if chrom in test else "train"
        stretches[subset] += joined.within(chrom, 0, lengths[chrom])
    cell_types = tuple(dict.fromkeys(names))
    rows = zip(names, table["identifier"], paths, table["scale"], strict=True)
    signals: dict[str, list[_Signal]] = {cell_type: [] for cell_type in cell_types}
    for cell_type, identifier, path, scale in rows:
        signals[cell_type].append(_Signal(identifier, path, float(scale)))
    for cell_type, own in signals.items():
        if len(own) > 1:
            identifiers = name_some([signal.identifier for signal in own])
            notes.append(f"cell type {cell_type}: coverage is the mean of {len(own)} tracks ({identifiers}).")
    made_of = {
        "targets": hashlib.sha256(Path(targets).read_bytes()).hexdigest(),
        "files": [identity(path) for path in [fasta, *([regions] if regions else []), *paths]],
        "tracks": list(table["identifier"]),
        "valid": sorted(valid),
        "test": sorted(test),
    }
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    ordered = tuple(tuple(signals[cell_type]) for cell_type in cell_types)
    return CoverageSource(cell_types, digest, tuple(notes), stretches, Path(fasta), Path(work_dir), ordered)


def _cell_types(table: pd.DataFrame, path: str | os.PathLike) -> list[str]:
    """The cell type of each row."""
    if "cell_type" in table.columns:
        names = [name.strip() for name in table["cell_type"]]
        if "" in names:
            identifier = table["identifier"].iloc[names.index("")]
            raise InputError(f"targets {path}, track {identifier}: cell_type is empty, expected a name.")
        return names
    after = [description.partition(":")[2].strip() for description in table["description"]]
    return [name or identifier for name, identifier in zip(after, table["identifier"], strict=True)]


def _lacking(
    chroms: Collection[str],
    lengths: dict[str, int],
    paths: Sequence[Path],
    sizes: Sequence[dict[str, int]],
    fasta: str | os.PathLike,
    side: str,
) -> dict[str, Path]:
    """The chromosomes that a bigWig has not, each with the first such bigWig.

    Raises:
      InputError: a bigWig has none of them, they have another length there, or no chromosome is in all bigWigs.
    """
    lacking: dict[str, Path] = {}
    for path, own in zip(paths, sizes, strict=True):
        if not any(chrom in own for chrom in chroms):
            raise InputError(
                f"{side} has chromosomes {name_some(chroms)}, bigWig {path} has {name_some(own)}: "
                "none match; the names must be the same."
            )
        for chrom in chroms:
            if chrom not in own:
                lacking.setdefault(chrom, path)
            elif own[chrom] != lengths[chrom]:
                raise InputError(
                    f"chromosome {chrom} is {lengths[chrom]} bp in {fasta} and {own[chrom]} bp in bigWig "
                    f"{path}: they are of different genomes."
                )
    if len(lacking) == len(chroms):
        raise InputError(
            f"no chromosome is in every bigWig: of {name_some(chroms)} in {side}, "
            f"{next(iter(lacking.values()))} has not {next(iter(lacking))}, and so on; choose other tracks."
        )
    return lacking


def _together(chrom: Sequence[str], start: np.ndarray, length: int) -> Iterator[tuple[Interval, np.ndarray]]:
    """Stretches to read, each with the rows of the windows that lie in it."""
    order = sorted(range(len(start)), key=lambda row: (chrom[row], start[row]))
    rows: list[int] = []
    for row in order:
        first, last = (rows[0], rows[-1]) if rows else (row, row)
        end = int(start[row]) + length
        far = start[row] > start[last] + length + _NEAR or end - start[first] > _LONGEST
        if rows and (chrom[row] != chrom[first] or far):
            yield Interval(chrom[first], int(start[first]), int(start[last]) + length), np.array(rows)
            rows = []
        rows.append(row)
    if rows:
        yield Interval(chrom[rows[0]], int(start[rows[0]]), int(start[rows[-1]]) + length), np.array(rows)


def _add(
    total: np.ndarray,
    signal: _Signal,
    share: float,
    read: Sequence[tuple[Interval, np.ndarray]],
    start: np.ndarray,
) -> tuple[int, int]:
    """Add a share of a track's values to `total`; those that are absent or below 0 count as 0.

    Args:
      total: `[windows, length]` float32, changed in place.
      signal: the track.
      share: what its values are multiplied by.
      read: stretches with the rows of the windows in them.
      start: of the windows.

    Returns:
      How many are absent and how many below 0.

    Raises:
      InputError: the file is damaged, or a value is infinite.
    """
    missing = negative = 0
    length = total.shape[1]
    with explained(f"bigWig {signal.path}: cannot be read", DAMAGED):
        file = BigWig(signal.path)
    for interval, rows in read:
        with explained(f"bigWig {signal.path}: {interval} cannot be read", DAMAGED):
            values = file.values(*interval)
        with np.errstate(over="ignore"):
            values *= np.float32(signal.scale)
        windows = np.lib.stride_tricks.sliding_window_view(values, length)[start[rows] - interval.start]
        absent, below = np.isnan(windows), windows < 0
        missing += int(np.count_nonzero(absent))
        negative += int(np.count_nonzero(below))
        windows[absent | below] = 0
        if np.isinf(windows).any():
            row, place = map(int, np.unravel_index(np.argmax(windows), windows.shape))
            raise InputError(
                f"track {signal.identifier}, bigWig {signal.path}: the value at "
                f"{interval.chrom}:{start[rows[row]] + place} is infinite (after scale {signal.scale:g})."
            )
        total[rows] += windows * np.float32(share)
    return missing, negative
