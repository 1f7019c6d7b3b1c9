"""Which sequences of an MPRA table train, validate and test: near-duplicates are on one side."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlproject.data.genome import name_some
from mlproject.data.mpra import MpraTable
from mlproject.data.near_duplicates import near_duplicates
from mlproject.errors import InputError
from mlproject.options import nearest

_MOST_OF_A_SUBSET = 0.5  # what part of a held-out subset one cluster may be


class MpraSplit(NamedTuple):
    """Where each sequence is. n sequences."""

    subset: np.ndarray
    """`[n]` str: train, valid, test, or "" where it is left out."""
    clusters: np.ndarray
    """`[n]` int64, numbered by first appearance: near-duplicates have one number."""
    notes: tuple[str, ...]
    """What a reader of the figures should know, a line each."""


def split_mpra(
    table: MpraTable,
    *,
    seed: int,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    valid_chromosomes: Sequence[str] = (),
    test_chromosomes: Sequence[str] = (),
    shared: float = 0.3,
) -> MpraSplit:
    """A subset for each sequence; no cluster of `near_duplicates` is in two.

    Where chromosomes are given, their sequences are the subset. Of a cluster with sequences on test chromosomes the
    others are left out, and then of one with sequences on validation chromosomes. What is not taken by chromosome is
    divided by cluster: clusters in an order drawn by the seed fill test, then valid, and the rest trains. One that
    would be more than half of a held-out subset trains. A pure function of its arguments.

    Args:
      table: what to split.
      seed: of the draw.
      valid_share: of the sequences; not read where there are chromosomes for it.
      test_share: likewise.
      valid_chromosomes: as the table calls them.
      test_chromosomes: likewise.
      shared: the share of k-mers that makes two sequences near-duplicates.

    Raises:
      InputError: a chromosome is not in the table or in both subsets, shares are not between 0 and 1, or a subset
        would be empty.
    """
    _check(table, valid_share, test_share, valid_chromosomes, test_chromosomes)
    found = near_duplicates(table.sequences, shared=shared)
    clusters = found.clusters
    chromosomes = np.array(table.chromosomes)
    count = len(clusters)
    subset = np.full(count, "train", "<U5")
    free = np.ones(count, bool)  # not on a chromosome that was given, and no relative of what is
    left_out = 0
    for name, given in (("test", test_chromosomes), ("valid", valid_chromosomes)):
        held = free & np.isin(chromosomes, list(given))
        relatives = free & ~held & np.isin(clusters, clusters[held])
        subset[held], subset[relatives] = name, ""
        free &= ~held & ~relatives
        left_out += int(relatives.sum())
    order = np.random.default_rng(seed).permutation(int(clusters.max()) + 1)
    for name, given, share in (
        ("test", test_chromosomes, test_share),
        ("valid", valid_chromosomes, valid_share),
    ):
        if not given:
            taken = free & np.isin(clusters, _drawn(clusters[free], order, share * count))
            subset[taken] = name
            free &= ~taken
    sizes = Counter(subset.tolist())
    _check_filled(sizes, clusters)
    return MpraSplit(subset, clusters, _notes(subset, clusters, chromosomes, left_out, found.common_kmers))


def _drawn(clusters: np.ndarray, order: np.ndarray, wanted: float) -> np.ndarray:
    """The first clusters of `order` with about `wanted` sequences together.

    Args:
      clusters: of the sequences that may be drawn.
      order: every cluster once.
      wanted: sequences.
    """
    sizes = np.bincount(clusters, minlength=len(order))[order]
    fit = (sizes > 0) & (sizes <= max(1.0, _MOST_OF_A_SUBSET * wanted))
    before = np.cumsum(sizes * fit) - sizes  # of each cluster that fits, the sequences of those before it
    return order[fit & (before + sizes / 2 <= max(1.0, wanted))]


def _check(
    table: MpraTable,
    valid_share: float,
    test_share: float,
    valid_chromosomes: Sequence[str],
    test_chromosomes: Sequence[str],
) -> None:
    known = sorted(set(table.chromosomes) - {""})
    for name, given in (("mpra_valid", valid_chromosomes), ("mpra_test", test_chromosomes)):
        for chromosome in given:
            if not known:
                raise InputError(
                    f"--{name}: found {chromosome!r}; the MPRA table names no chromosomes, neither in a column nor in "
                    f"labels such as chr8-100-200; name the column (--mpra_chromosome), or leave --{name} out"
                )
            if chromosome not in known:
                raise InputError(
                    f"--{name}: found {chromosome!r}{nearest(chromosome, known)}; the MPRA table has "
                    f"{name_some(known, 30)}"
                )
    both = set(valid_chromosomes) & set(test_chromosomes)
    if both:
        raise InputError(f"--mpra_valid: {min(both)} is in --mpra_test too; keep it in one of them.")
    shares = 0.0
    for name, share, given in (
        ("valid_share", valid_share, valid_chromosomes),
        ("test_share", test_share, test_chromosomes),
    ):
        if not given:
            shares += share
            if not 0 < share < 1:
                raise InputError(f"--{name}: found {share:g}; it must be above 0 and below 1")
    if shares >= 1:
        raise InputError(f"--valid_share and --test_share: found {shares:g} together; it must be below 1")


def _check_filled(sizes: Counter, clusters: np.ndarray) -> None:
    for name in ("train", "valid", "test"):
        if not sizes[name]:
            largest = int(np.bincount(clusters).max())
            raise InputError(
                f"mpra: {name} has no sequence: {len(clusters):,} sequences are {clusters.max() + 1:,} clusters of "
                f"near-duplicates, the largest of {largest:,}; expected one or more in each subset: hold out other "
                "chromosomes, or give more sequences that are unlike each other."
            )


def _notes(
    subset: np.ndarray, clusters: np.ndarray, chromosomes: np.ndarray, left_out: int, common_kmers: int
) -> tuple[str, ...]:
    parts = [
        f"{name} {(subset == name).sum():,} sequences in {len(np.unique(clusters[subset == name])):,}"
        for name in ("train", "valid", "test")
    ]
    notes = [f"{', '.join(parts)} clusters of near-duplicates"]
    largest = int(np.bincount(clusters).max())
    if largest > max(1, 0.2 * len(clusters)):
        notes.append(
            f"the largest cluster of near-duplicates has {largest:,} of {len(clusters):,} sequences, so that what is "
            "held out is unlike most of the table"
        )
    if left_out:
        notes.append(f"{left_out:,} near-duplicates of held-out sequences are on other chromosomes: left out")
    nowhere = int((chromosomes == "").sum())
    if nowhere and nowhere < len(chromosomes):
        notes.append(f"without a chromosome: {nowhere:,} of {len(chromosomes):,} sequences")
    if common_kmers:
        notes.append(
            f"{common_kmers:,} k-mers are in too many clusters for all pairs of their sequences to be compared"
        )
    return tuple(notes)
