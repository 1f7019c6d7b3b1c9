"""How alike sequences are by the short stretches they share, clusters of them, and folds that keep clusters whole.

Sequences that share long stretches give away each other's activity, so that a random split of them says little.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from enformer_core import dna
from mlproject.errors import InputError

K = 31  # bp: a 31-mer seldom occurs twice by chance in any genome, and two bits a base fit an int64


def kmers(sequence: str, k: int = K) -> np.ndarray:
    """The different k-mers of a sequence, each as the lesser of it and its reverse complement: `[n]` int64.

    Those with N or another letter are left out; a sequence of less than `k` bp has none. `k` is 31 at most.
    """
    found, known = canonical_kmers(dna.codes(sequence), k)
    return np.unique(found[known])


def canonical_kmers(bases: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k-mer at each place, `[L - k + 1]` int64, and which of them are without other letters, bool."""
    count = max(0, len(bases) - k + 1)
    forward, backward = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for offset in range(k):
        base = bases[offset : offset + count].astype(np.int64)
        forward *= 4
        forward += base
        backward += (3 - base) << (2 * offset)
    unknown = np.cumsum(np.concatenate([[0], bases > 3]))
    known = unknown[len(unknown) - count :] == unknown[:count]
    return np.minimum(forward, backward), known


def shared_kmers(sequences: Sequence[str]) -> np.ndarray:
    """How many 31-mers each two sequences have in common: `[n, n]` int64, on the diagonal how many each has."""
    sets = [kmers(sequence) for sequence in sequences]
    ends = np.cumsum([0, *map(len, sets)])
    different, columns = np.unique(np.concatenate(sets), return_inverse=True)
    shape = (len(sets), len(different))
    occurrence = sparse.csr_matrix((np.ones(len(columns), np.int64), columns, ends), shape)
    return (occurrence @ occurrence.T).toarray()


def clusters(sequences: Sequence[str], similarity: float) -> list[int]:
    """The cluster of each sequence, numbered by first appearance.

    Average linkage: two clusters become one as long as the mean over their pairs of the Jaccard similarity of
    31-mers is at least `similarity`; that of equal sequences is 1.
    """
    if len(sequences) < 2:
        return [0] * len(sequences)
    shared = shared_kmers(sequences)
    own = shared.diagonal()
    distance = 1 - shared / np.maximum(own[:, None] + own - shared, 1)
    first: dict[str, int] = {}
    same = np.array([first.setdefault(sequence, len(first)) for sequence in sequences])
    distance[same[:, None] == same] = 0  # also where they are too short for 31-mers
    tree = hierarchy.linkage(squareform(distance, checks=False), "average")
    found = hierarchy.fcluster(tree, 1 - similarity, "distance")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in found]


def leaks(sequences: Sequence[str], folds: Sequence[str]) -> np.ndarray:
    """The highest share of each sequence's 31-mers that one sequence of another fold has too: `[n]` float64.

    NaN for a sequence without 31-mers.
    """
    shared = shared_kmers(sequences).astype(np.float64)
    own = shared.diagonal().copy()
    names = np.asarray(folds)
    shared[names[:, None] == names] = 0
    return np.divide(shared.max(1), own, out=np.full(len(own), math.nan), where=own > 0)


def assign_folds(of: Sequence[str], ratios: Mapping[str, float], seed: int) -> list[str]:
    """The fold of each member, such that the members of a cluster are in one fold.

    The larger clusters go first, those of one size in an order drawn by the seed, each to the fold that lacks most
    members. A pure function of its arguments.

    Args:
      of: the cluster of each member.
      ratios: what part of the members each fold should get, in any unit; a fold of 0 gets none.
      seed: of the draw.

    Raises:
      InputError: there are fewer clusters than folds.
    """
    ratios = {fold: ratio for fold, ratio in ratios.items() if ratio > 0}
    sizes = Counter(of)
    if len(sizes) < len(ratios):
        raise InputError(
            f"{len(sizes)} clusters of constructs (of {len(of)} constructs) cannot fill {len(ratios)} folds "
            f"({', '.join(ratios)}); expected at least one for each: ask for fewer folds, or split finer."
        )
    total = sum(ratios.values())
    lacking = {fold: len(of) * ratio / total for fold, ratio in ratios.items()}
    names = sorted(sizes)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda name: -sizes[name])
    fold_of: dict[str, str] = {}
    empty = set(ratios)
    for position, name in enumerate(order):
        open_to = empty if len(order) - position <= len(empty) else lacking
        fold = max((fold for fold in ratios if fold in open_to), key=lambda fold: lacking[fold])
        lacking[fold] -= sizes[name]
        empty.discard(fold)
        fold_of[name] = fold
    return [fold_of[name] for name in of]


def recorded_leaks(folder: Path) -> dict[str, float]:
    """The mean of `leaks` by fold that `summary.json` of built constructs has; empty where there is none."""
    try:
        folds = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["folds"]
        return {fold: float(found["shared_mean"]) for fold, found in folds.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
