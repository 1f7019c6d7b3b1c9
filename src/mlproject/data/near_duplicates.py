"""Clusters of many short sequences, such that those that share much of their k-mers are together.

Made for the hundreds of thousands of sequences of an MPRA library, for which a table of all pairs would not fit: pairs
are looked for among the sequences that have a k-mer in common, and only between clusters that are still apart.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from enformer_core import dna
from mlproject.data.similarity import canonical_kmers

_LETTERS_AT_ONCE = 1 << 17
_PAIRS_AT_ONCE = 1 << 24  # 24 bytes each, at most
_MOST_PAIRS = 1 << 30  # pairs of sequences at a k-mer: some ten seconds
_PASSES = 3
_ADAPTER_SHARE = 0.9
_LEAST_FOR_ADAPTERS = 100  # of fewer sequences, what most begin with may as well be their kinship


class NearDuplicates(NamedTuple):
    """Clusters of sequences."""

    clusters: np.ndarray
    """`[n]` int64, numbered by first appearance."""
    common_kmers: int
    """How many k-mers were in too many sequences of different clusters for all of their pairs to be compared."""
    adapters: tuple[str, str]
    """What the sequences begin and end with that was left out of the comparison."""


def near_duplicates(sequences: Sequence[str], k: int = 15, shared: float = 0.3) -> NearDuplicates:
    """Clusters in which sequences are linked, directly or through others, that are nearly the same in part.

    Two sequences are linked where they have at least `shared` of the different k-mers of the one that has fewer, on
    either strand, and where they are equal, also if they are too short for k-mers or have none without N.

    What nine in ten of at least a hundred sequences begin or end with, such as the adapters of a library, is no
    kinship and left out. k-mers that many otherwise unrelated sequences have, such as those of repeats, make too many
    pairs: the rarest are compared first, up to 2**30 pairs, and the rest only between some of their sequences.

    Args:
      sequences: letters in upper case.
      k: bp, from 1 to 20; 15-mers seldom occur twice by chance in 2**30 bp.
      shared: the least share, above 0.
    """
    assert 1 <= k <= 20 and shared > 0
    different = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
    adapters = _adapters(list(different))
    occurrence, own = _occurrence([_without(sequence, adapters) for sequence in different], k)
    least = np.maximum(1, shared * own - 1e-9)  # of 0.3 * 10 k-mers three are enough
    clusters, common = _linked(occurrence, least)
    found = clusters[[different[sequence] for sequence in sequences]] if different else clusters
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    return NearDuplicates(np.argsort(np.argsort(first))[number], common, adapters)


# --- adapters -----------------------------------------------------------------------------------------------------


def _adapters(sequences: Sequence[str]) -> tuple[str, str]:
    """What nine in ten sequences begin and end with."""
    if len(sequences) < _LEAST_FOR_ADAPTERS:
        return "", ""
    return _beginning(sequences), _beginning([sequence[::-1] for sequence in sequences])[::-1]


def _beginning(sequences: Sequence[str]) -> str:
    """The longest string that nine in ten sequences begin with."""
    wanted, found, having = _ADAPTER_SHARE * len(sequences), "", list(sequences)
    while True:
        at = len(found)
        letters, counts = np.unique([sequence[at : at + 1] for sequence in having], return_counts=True)
        letter = str(letters[counts.argmax()])
        if not letter or counts.max() < wanted:
            return found
        found += letter
        having = [sequence for sequence in having if sequence[at : at + 1] == letter]


def _without(sequence: str, adapters: tuple[str, str]) -> str:
    return sequence.removeprefix(adapters[0]).removesuffix(adapters[1])


# --- k-mers -------------------------------------------------------------------------------------------------------


def _occurrence(sequences: Sequence[str], k: int) -> tuple[sparse.csc_matrix, np.ndarray]:
    """Which k-mers are in which sequences, `[n, F]` of ones, and how many different ones each has, `[n]`.

    The F k-mers are those that two sequences have, or more.
    """
    bits = max(1, len(sequences) - 1).bit_length()
    keys = []  # the k-mer and the sequence in one number each: one sort puts both in order
    for start, part in _parts(sequences):
        found, known = canonical_kmers(dna.codes("N".join(part)), k)
        row = np.repeat(np.arange(start, start + len(part)), [len(sequence) + 1 for sequence in part])
        keys.append((found[known] << bits) | row[: len(found)][known])
    key = np.concatenate(keys) if keys else np.zeros(0, np.int64)
    del keys
    key.sort()
    key = key[_first_of_runs(key)]
    row = (key & ((1 << bits) - 1)).astype(np.int32)
    own = np.bincount(row, minlength=len(sequences))
    key >>= bits
    sizes = np.diff(np.flatnonzero(np.append(_first_of_runs(key), True)))
    kept = sizes > 1
    indptr = np.concatenate([[0], np.cumsum(sizes[kept])])
    row = row[np.repeat(kept, sizes)]
    return sparse.csc_matrix(
        (np.ones(len(row), np.int32), row, indptr), (len(sequences), int(kept.sum()))
    ), own


def _first_of_runs(ordered: np.ndarray) -> np.ndarray:
    """Where another value than the one before is: bool `[n]`."""
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _parts(sequences: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Stretches of the sequences of so many letters that a core has them near, each with where it starts."""
    ends = np.cumsum([len(sequence) + 1 for sequence in sequences])
    start = 0
    while start < len(sequences):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + _LETTERS_AT_ONCE)))
        yield start, sequences[start:end]
        start = end


# --- links --------------------------------------------------------------------------------------------------------


def _linked(occurrence: sparse.csc_matrix, least: np.ndarray) -> tuple[np.ndarray, int]:
    """The cluster of each sequence, `[n]`, and how many k-mers were not compared between all that have them.

    A family of m sequences has m**2 pairs, but m - 1 links make it a cluster. So the sequences that have a k-mer are
    put in a row, in a few orders, and neighbours are linked first; what is then within one cluster needs no more
    looking at, and the pairs of the rest are few.
    """
    random = np.random.default_rng(0)
    count = occurrence.shape[0]
    clusters = np.arange(count)
    left = occurrence
    for turn in range(_PASSES):
        order = random.permutation(count) if turn else np.arange(count)
        clusters = _joined(clusters, *_links_of_neighbours(left, order, least))
        left = left[:, _spans(left, clusters)]
    sizes = np.diff(left.indptr).astype(np.int64)
    rarest = np.argsort(sizes, kind="stable")
    compared = np.cumsum(sizes[rarest] ** 2) <= _MOST_PAIRS
    left = left[:, np.sort(rarest[compared])]
    for first, second in _links_of_pairs(left.tocsr(), left.T.tocsr(), least):
        clusters = _joined(clusters, first, second)
    return clusters, int((~compared).sum())


def _joined(clusters: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The clusters after those of each two linked sequences have become one."""
    if not len(first):
        return clusters
    links = (np.ones(len(first), np.int8), (clusters[first], clusters[second]))
    graph = sparse.coo_matrix(links, (len(clusters), len(clusters)))
    return csgraph.connected_components(graph, directed=False)[1][clusters].astype(np.int64)


def _spans(occurrence: sparse.csc_matrix, clusters: np.ndarray) -> np.ndarray:
    """Which k-mers are in more than one cluster: bool `[F]`."""
    if not occurrence.shape[1]:
        return np.zeros(0, bool)
    of = clusters[occurrence.indices]
    starts = occurrence.indptr[:-1]  # none is empty
    return np.minimum.reduceat(of, starts) < np.maximum.reduceat(of, starts)


def _links_of_neighbours(
    occurrence: sparse.csc_matrix, order: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are neighbours, in this order of the sequences, at enough k-mers to be linked."""
    count = len(order)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    kmer = np.repeat(np.arange(occurrence.shape[1]), np.diff(occurrence.indptr))
    key = kmer * count + place[occurrence.indices]
    key.sort()
    key -= kmer * count  # each k-mer has its places, ascending
    pair = (key[:-1] * count + key[1:])[kmer[:-1] == kmer[1:]]
    pair.sort()
    starts = np.flatnonzero(_first_of_runs(pair))
    counts = np.diff(np.append(starts, len(pair)))
    first, second = order[pair[starts] // count], order[pair[starts] % count]
    enough = counts >= np.minimum(least[first], least[second])
    return first[enough], second[enough]


def _links_of_pairs(
    rows: sparse.csr_matrix, columns: sparse.csr_matrix, least: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that have enough k-mers in common to be linked, of some sequences with all at a time.

    Args:
      rows: `[n, F]`, which k-mers are in which sequences.
      columns: `[F, n]`, the same.
      least: `[n]`.
    """
    work = np.cumsum(rows @ np.diff(columns.indptr).astype(np.int64))  # pairs of each row and of those before
    start = 0
    while start < len(work):
        before = work[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(work, before + _PAIRS_AT_ONCE)))
        if work[end - 1] > before:
            pairs = (rows[start:end] @ columns).tocoo()
            first, second = pairs.row + start, pairs.col
            enough = (first < second) & (pairs.data >= np.minimum(least[first], least[second]))
            yield first[enough], second[enough]
        start = end
