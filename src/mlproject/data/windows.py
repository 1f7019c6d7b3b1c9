"""Regions to windows: where the examples of a dataset lie and which subset each belongs to."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlproject.data.genome import Interval, name_some
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


class Regions:
    """Sorted intervals per chromosome with quick overlap; touching and overlapping ones are joined."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
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

    A window's target lies inside a region; its sequence may leave the region but not the chromosome. Windows whose
    target is more than half blacklisted are left out. Where the BED labels the regions, a train window whose
    sequence touches a valid or test region is left out, since the model would see it.

    Runs of up to `run_length` neighbouring windows stay together, so that their signal is read in one stretch; the
    runs are shuffled by the seed.

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
      run_length: windows read together.

    Raises:
      InputError: regions of different subsets overlap, or a subset ends empty.
    """
    target_bp = sequence_length - 2 * crop_bp
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
    dropped = {"too short": 0, "blacklisted": 0, "next to held-out": 0}
    rng = np.random.default_rng([seed, 1])
    windows: list[Window] = []
    for subset in SUBSETS:
        placed: list[Window] = []
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
        if not placed:
            where = f"regions labelled {subset}" if labelled else f"the {subset} chromosomes"
            there = name_some(dict.fromkeys(f"{interval}" for interval in merged[subset])) or "none"
            raise InputError(
                f"no {subset} window would be made: {where} ({there}) leave no room for {sequence_length} bp "
                f"of sequence with {target_bp} bp of target."
            )
        runs: list[list[Window]] = []
        for window in placed:
            run = runs[-1] if runs else []
            joins = run and run[-1].chrom == window.chrom and window.start - run[-1].start <= 2 * stride
            if joins and len(run) < run_length:
                run.append(window)
            else:
                runs.append([window])
        windows += [window for i in rng.permutation(len(runs)) for window in runs[i]]
    return Placement(windows, dropped)


def _refuse_overlap(merged: dict[str, list[Interval]]) -> None:
    for subset in SUBSETS:
        others = Regions([i for name in SUBSETS if name != subset for i in merged[name]])
        for interval in merged[subset]:
            if others.overlap(*interval):
                raise InputError(
                    f"region {interval} is labelled {subset} and overlaps a region of another subset "
                    f"({others.within(*interval)[0]}); subsets must not share bases."
                )
