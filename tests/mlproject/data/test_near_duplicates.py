import numpy as np
import pytest

from mlproject.data import near_duplicates as module
from mlproject.data.near_duplicates import near_duplicates

PAIR = dict(zip("ACGT", "TGCA", strict=True))


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def turned(sequence):
    return "".join(PAIR.get(letter, "N") for letter in reversed(sequence))


def mers(sequence, k):
    found = (sequence[at : at + k] for at in range(len(sequence) - k + 1))
    return {min(mer, turned(mer)) for mer in found if "N" not in mer}


def by_sets(sequences, k, shared):
    """Clusters from sets of strings and all pairs, joined one by one; numbered by first appearance."""
    sets = [mers(sequence, k) for sequence in sequences]
    cluster = list(range(len(sequences)))
    for one in range(len(sequences)):
        for other in range(one):
            common, fewer = len(sets[one] & sets[other]), min(len(sets[one]), len(sets[other]))
            same = sequences[one] == sequences[other]
            if same or (common and common >= shared * fewer - 1e-9):
                old, new = cluster[one], cluster[other]
                cluster = [new if own == old else own for own in cluster]
    numbers = {}
    return [numbers.setdefault(own, len(numbers)) for own in cluster]


def library(seed):
    """Unrelated sequences, and ones that share a stretch, are turned round, mutated, have N or are short."""
    random = np.random.default_rng(seed)
    found = [letters(int(random.integers(20, 90)), seed * 1000 + n) for n in range(40)]
    for _ in range(120):
        old = found[random.integers(len(found))]
        kind = random.integers(5)
        if kind == 0:
            start = random.integers(max(1, len(old) - 20))
            old = letters(int(random.integers(5, 60)), int(random.integers(1e9))) + old[start : start + 30]
        elif kind == 1:
            old = turned(old)
        elif kind == 2:
            at = random.integers(len(old))
            old = old[:at] + "N" + old[at + 1 :]
        elif kind == 3:
            old = old[: random.integers(4, 20)]
        found.append(old)
    return [found[n] for n in random.permutation(len(found))]


@pytest.mark.parametrize("k", [1, 5, 11, 15, 20])
@pytest.mark.parametrize("shared", [0.1, 0.3, 1.0])
def test_clusters_are_those_of_all_pairs(k, shared, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_FOR_ADAPTERS", 1000)
    for seed in range(3):
        sequences = library(seed)
        found = near_duplicates(sequences, k, shared)
        assert found.clusters.tolist() == by_sets(sequences, k, shared)
        assert found.common_kmers == 0 and found.clusters.dtype == np.int64


def test_the_size_of_a_part_does_not_matter(monkeypatch):
    sequences = library(7)
    expected = near_duplicates(sequences).clusters
    monkeypatch.setattr(module, "_LETTERS_AT_ONCE", 100)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 3)
    np.testing.assert_array_equal(near_duplicates(sequences).clusters, expected)
    monkeypatch.setattr(module, "_PASSES", 0)  # all pairs, none of neighbours first
    np.testing.assert_array_equal(near_duplicates(sequences).clusters, expected)


def test_a_family_of_any_size_is_one_cluster():
    """Every k-mer of 3,000 mutants is in thousands of them; nine million pairs need not be looked at."""
    random = np.random.default_rng(0)
    codes = np.frombuffer(letters(400, 0).encode(), np.uint8).reshape(2, 200)[np.arange(3000) % 2].copy()
    for _ in range(5):
        codes[np.arange(3000), random.integers(0, 200, 3000)] = random.choice(list(b"ACGT"), 3000)
    clusters = near_duplicates([bytes(row).decode() for row in codes]).clusters
    np.testing.assert_array_equal(clusters, np.arange(3000) % 2)


def test_equal_sequences_are_together_without_any_kmer():
    assert near_duplicates(["ACGT", "", "N" * 40, "ACGA", "ACGT", "N" * 40, ""]).clusters.tolist() == [
        0, 1, 2, 3, 0, 2, 1,
    ]  # fmt: skip
    assert near_duplicates([]).clusters.tolist() == []
    assert near_duplicates(["ACGT"]).clusters.tolist() == [0]


def test_adapters_are_no_kinship():
    """40 bp at both ends are most of the k-mers of 130 bp; one in twenty lacks them."""
    left, right = letters(40, 1), letters(40, 2)
    inner = [letters(50, 10 + n) for n in range(200)]
    sequences = [left + one + right if n % 20 else one for n, one in enumerate(inner)]
    found = near_duplicates(sequences)
    assert found.clusters.tolist() == list(range(200))
    assert found.adapters[0].startswith(left) and found.adapters[1].endswith(right)
    few = near_duplicates(sequences[1:19])  # too few to tell an adapter from kinship
    assert few.clusters.max() == 0 and few.adapters == ("", "")


def test_kmers_that_are_too_common_are_counted(monkeypatch):
    """A fifth of each sequence is a repeat: no more than it is said to be."""
    monkeypatch.setattr(module, "_MOST_PAIRS", 8000)  # 90 ** 2 at each of the 16 15-mers of the repeat
    repeat = letters(30, 0)
    sequences = [letters(60, 1 + n) + repeat + letters(60, 500 + n) for n in range(90)]
    found = near_duplicates(sequences)
    assert found.clusters.tolist() == list(range(90)) and found.common_kmers == 16
