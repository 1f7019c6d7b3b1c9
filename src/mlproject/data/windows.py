"""Regions to windows: where the examples of a dataset lie and which subset each belongs to."""

import bisect
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlproject.data.genome import Interval, name_some, read_bed
from mlproject.data.records import SUBSETS
from mlproject.errors import InputError


class Window(NamedTuple):
    """One example: the sequence's stretch and the subset it belongs to. The target is its centre."""

    chrom: str
    start: int
    end: int
    subset: str


class Placement(NamedTuple):
    """Windows in the order they are written, and how many were left out: reason to number."""

    windows: list[Window]
    dropped: dict[str, int]


def allowed_regions(
    bed: str | os.PathLike | None,
    lengths: dict[str, int],
    split_column: bool,
    valid: Sequence[str],
    test: Sequence[str],
) -> list[tuple[Interval, str]]:
    """The regions that targets must lie in, with labels where `split_column`; None for whole chromosomes.

    Raises:
      InputError: the BED is wrong, or it and the subsets do not name the same chromosomes.
    """
    if bed is None:
        if split_column:
            raise InputError(
                "split_column needs regions: a BED whose fourth column says train, valid or test."
            )
        regions = [(Interval(chrom, 0, length), "") for chrom, length in lengths.items()]
    else:
        regions = read_bed(bed, lengths, SUBSETS if split_column else ())
        if not regions:
            raise InputError(f"bed {bed}: has no regions.")
    if split_column:
        if valid or test:
            raise InputError("give split_column or the chromosomes valid and test, not both.")
        return regions
    if not valid or not test:
        raise InputError(
            f"{'test' if valid else 'valid'} names no chromosome; choose from {name_some(lengths)} "
            "(or give split_column and a BED with train, valid or test in its fourth column)."
        )
    there = dict.fromkeys(interval.chrom for interval, _ in regions)
    for name, chosen in (("valid", valid), ("test", test)):
        for number, chrom in enumerate(chosen):
            if chrom in chosen[:number]:
                raise InputError(f"{name} names chromosome {chrom} twice.")
            if chrom not in there:
                side = "FASTA" if bed is None else f"BED {bed}"
                raise InputError(f"{name} names chromosome {chrom}, the {side} has {name_some(there)}.")
    both = sorted(set(valid) & set(test))
    if both:
        raise InputError(f"chromosome {both[0]} is in valid and in test; a chromosome belongs to one subset.")
    return regions


def read_blacklist(bed: str | os.PathLike | None, lengths: dict[str, int]) -> list[Interval]:
    """The regions of a blacklist; chromosomes that the FASTA lacks are no mistake unless it lacks all.

    Raises:
      InputError: the BED is wrong, leaves a chromosome, or has no chromosome of the FASTA.
    """
    if bed is None:
        return []
    black = [interval for interval, _ in read_bed(bed, lengths, other_chromosomes=True)]
    chroms = dict.fromkeys(interval.chrom for interval in black)
    if black and not any(chrom in lengths for chrom in chroms):
        raise InputError(
            f"blacklist {bed} names chromosomes {name_some(chroms)}, the FASTA has {name_some(lengths)}: "
            "none match."
        )
    return black


class Regions:
    """Sorted intervals per chromosome with quick overlap; touching and overlapping ones are joined.

    Args:
      intervals: the regions.
      name: what to call them in a message.
    """

    def __init__(self, intervals: Sequence[Interval], name: str = "") -> None:
        self.name = name
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        for chrom, start, end in sorted(intervals):
            starts = self._starts.setdefault(chrom, [])
            ends = self._ends.setdefault(chrom, [])
            if ends and start <= ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                starts.append(start)
                ends.append(end)

    def within(self, chrom: str, start: int, end: int) -> list[Interval]:
        """The parts of the regions that lie in `chrom:start-end`."""
        if chrom not in self._starts:
            return []
        starts, ends = self._starts[chrom], self._ends[chrom]
        low, high = bisect.bisect_right(ends, start), bisect.bisect_left(starts, end)
        return [
            Interval(chrom, max(start, a), min(end, b))
            for a, b in zip(starts[low:high], ends[low:high], strict=True)
        ]

    def overlap(self, chrom: str, start: int, end: int) -> int:
        """How many bp of `chrom:start-end` lie in the regions."""
        return sum(part.end - part.start for part in self.within(chrom, start, end))


def place_windows(
    regions: Sequence[tuple[Interval, str]],
    lengths: dict[str, int],
    *,
    sequence_length: int,
    crop_bp: int,
    stride: int,
    valid: Sequence[str],
    test: Sequence[str],
    labelled: bool,
    blacklist: Regions,
    limits: dict[str, int],
    seed: int,
    run_length: int = 8,
) -> Placement:
    """Tile the regions with windows and deal them to subsets.

    A window's target lies inside a region; its sequence may leave the region but not the chromosome. Windows
    whose target is more than half blacklisted are left out. Where the BED labels the regions, a train window
    whose sequence touches a valid or test region is left out, since the model would see it.

    Runs of neighbouring windows stay together, so that their signal is read in one stretch; the runs are
    shuffled by the seed. A run has up to `run_length` windows, or where targets overlap, so many that it covers
    as much of the genome, at most four times as many.

    Args:
      regions: allowed regions with their label (used where `labelled`).
      lengths: chromosome lengths.
      sequence_length: bp of sequence per window.
      crop_bp: bp at either end that the target does not cover.
      stride: bp from one window to the next.
      valid: chromosomes of the valid subset.
      test: chromosomes of the test subset; every other chromosome is train.
      labelled: whether the labels (train, valid, test) choose the subset instead.
      blacklist: regions not to be trusted.
      limits: most windows per subset, chosen by the seed; 0 for all.
      seed: orders and chooses.
      run_length: windows read together where their targets do not overlap.

    Raises:
      InputError: regions of different subsets overlap, or a subset ends empty.
    """
    target_bp = sequence_length - 2 * crop_bp
    run_length *= min(max(1, target_bp // stride), 4)
    merged: dict[str, list[Interval]] = {subset: [] for subset in SUBSETS}
    for interval, label in regions:
        if labelled:
            subset = label
        else:
            subset = "valid" if interval.chrom in valid else "test" if interval.chrom in test else "train"
        merged[subset].append(interval)
    held_out = Regions(merged["valid"] + merged["test"])
    if labelled:
        _refuse_overlap(merged)
    reasons = {
        "too short": f"too short for {sequence_length} bp of sequence with {target_bp} bp of target",
        "blacklisted": f"more than half blacklisted by {blacklist.name}",
        "next to held-out": "touching a valid or test region",
    }
    total: Counter[str] = Counter(dict.fromkeys(reasons, 0))
    rng = np.random.default_rng([seed, 1])
    windows: list[Window] = []
    for subset in SUBSETS:
        placed: list[Window] = []
        dropped: Counter[str] = Counter()
        joined = Regions(merged[subset])
        for chrom in dict.fromkeys(interval.chrom for interval in merged[subset]):
            for region in joined.within(chrom, 0, lengths[chrom]):
                first = max(region.start, crop_bp)
                last = min(region.end, lengths[chrom] - crop_bp) - target_bp
                if last < first:
                    dropped["too short"] += 1
                for start in range(first, last + 1, stride):
                    begin, end = start - crop_bp, start - crop_bp + sequence_length
                    if 2 * blacklist.overlap(chrom, start, start + target_bp) > target_bp:
                        dropped["blacklisted"] += 1
                    elif labelled and subset == "train" and held_out.overlap(chrom, begin, end):
                        dropped["next to held-out"] += 1
                    else:
                        placed.append(Window(chrom, begin, end, subset))
        limit = limits.get(subset, 0)
        if limit and len(placed) > limit:
            kept = np.sort(rng.choice(len(placed), limit, replace=False))
            placed = [placed[i] for i in kept]
        total.update(dropped)
        if not merged[subset]:
            raise InputError(
                f"no {subset} window would be made: no region is labelled {subset}."
                if labelled
                else f"no {subset} window would be made: valid and test name every chromosome there is."
            )
        if not placed:
            there = name_some(merged[subset])
            why = "; ".join(
                f"{dropped[reason]} {words}" for reason, words in reasons.items() if dropped[reason]
            )
            raise InputError(f"no {subset} window would be made of {there}: {why}.")
        runs: list[list[Window]] = []
        for window in placed:
            run = runs[-1] if runs else []
            joins = run and run[-1].chrom == window.chrom and window.start - run[-1].start <= 2 * stride
            if joins and len(run) < run_length:
                run.append(window)
            else:
                runs.append([window])
        windows += [window for i in rng.permutation(len(runs)) for window in runs[i]]
    return Placement(windows, dict(total))


def _refuse_overlap(merged: dict[str, list[Interval]]) -> None:
    for subset in SUBSETS:
        others = Regions([i for name in SUBSETS if name != subset for i in merged[name]])
        for interval in merged[subset]:
            if others.overlap(*interval):
                raise InputError(
                    f"region {interval} is labelled {subset} and overlaps a region of another subset "
                    f"({others.within(*interval)[0]}); subsets must not share bases."
                )
