import numpy as np
import pytest

from mlproject.data.similarity import assign_folds, clusters, kmers, leaks, shared_kmers
from mlproject.errors import InputError

PAIR = dict(zip("ACGT", "TGCA", strict=True))


def letters(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def turned(sequence: str) -> str:
    return "".join(PAIR.get(letter, "N") for letter in reversed(sequence))


def sets(sequence: str) -> set[str]:
    """The 31-mers written out, as the first in the alphabet of both strands."""
    found = (sequence[at : at + 31] for at in range(len(sequence) - 30))
    return {min(mer, turned(mer)) for mer in found if "N" not in mer}


def test_31mers_are_those_of_either_strand_without_n():
    sequence = letters(500, 0) + "A" * 40 + "N" + letters(100, 1) + "ACGN" + letters(30, 2)
    assert len(kmers(sequence)) == len(sets(sequence))
    np.testing.assert_array_equal(kmers(sequence), kmers(turned(sequence)))
    assert [len(kmers(letters(n, 3))) for n in (0, 30, 31, 32)] == [0, 0, 1, 2]
    assert len(kmers("A" * 31)) == 1 and kmers("A" * 31) == kmers("T" * 31)


def test_shared_31mers_are_those_of_sets():
    common = letters(300, 0)
    sequences = [common, letters(50, 1) + turned(common[:200]), common[100:] + "N" + common[:150], "", "ACGT"]
    written = [sets(sequence) for sequence in sequences]
    expected = [[len(one & other) for other in written] for one in written]
    np.testing.assert_array_equal(shared_kmers(sequences), expected)


def test_a_leak_is_the_most_that_one_sequence_of_another_fold_knows():
    common = letters(300, 0)
    sequences = [common, common[:165] + letters(200, 1), common[150:], letters(300, 2), ""]
    shares = leaks(sequences, ["a", "b", "b", "b", "a"])
    expected = [135 / 270, 135 / 335, 1.0, 0.0, np.nan]  # 165 bp have 135 31-mers, 150 bp 120
    np.testing.assert_allclose(shares, expected)
    np.testing.assert_array_equal(leaks(sequences[:3], ["a", "a", "a"]), 0)


def test_clusters_are_joined_by_the_mean_similarity():
    base = letters(1_000, 0)
    half = base[:520] + letters(480, 1)  # 490 of 970 31-mers shared: Jaccard 490 / 1450 = 0.34
    sequences = [base, letters(800, 2), half, turned(base), ""]
    assert clusters(sequences, 0.3) == [0, 1, 0, 0, 2]
    assert clusters(sequences, 0.4) == [0, 1, 2, 0, 3]
    assert clusters(sequences[:1], 0.3) == [0]
    assert clusters(["", base, "ACGT", "", "ACGT"], 0.3) == [0, 1, 2, 0, 2]


def test_folds_keep_clusters_whole_and_meet_the_ratios():
    sizes = [30, 20, 11, 9, 7, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1]
    of = [f"c{cluster}" for cluster, size in enumerate(sizes) for _ in range(size)]
    folds = assign_folds(of, {"train": 6, "valid": 2, "test": 2}, seed=0)
    assert len({(cluster, fold) for cluster, fold in zip(of, folds, strict=True)}) == len(sizes)
    counts = {fold: folds.count(fold) for fold in ("train", "valid", "test")}
    assert sum(counts.values()) == 100
    assert all(
        abs(counts[fold] - wanted) <= 1 for fold, wanted in (("train", 60), ("valid", 20), ("test", 20))
    )
    assert folds == assign_folds(of, {"train": 6, "valid": 2, "test": 2}, seed=0)


def test_folds_of_a_member_do_not_depend_on_the_order_of_the_others():
    of = [f"c{n}" for n in range(40)]
    folds = dict(zip(of, assign_folds(of, {"0": 1, "1": 1, "2": 1}, 3), strict=True))
    assert sorted(list(folds.values()).count(fold) for fold in "012") == [13, 13, 14]
    turned_round = assign_folds(of[::-1], {"0": 1, "1": 1, "2": 1}, 3)
    assert dict(zip(of[::-1], turned_round, strict=True)) == folds
    assert assign_folds(of, {"0": 1, "1": 1, "2": 1}, 4) != list(folds.values())


@pytest.mark.parametrize("sizes", [[50, 1, 1], [50, 40, 1], [1, 1, 1], [9, 9, 9, 1]])
def test_every_fold_gets_a_cluster(sizes):
    of = [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)]
    assert set(assign_folds(of, {"train": 98, "valid": 1, "test": 1}, 0)) == {"train", "valid", "test"}


def test_a_fold_of_no_part_gets_nothing_and_too_few_clusters_are_refused():
    assert set(assign_folds(["a", "b"], {"train": 1, "valid": 0, "test": 1}, 0)) == {"train", "test"}
    with pytest.raises(InputError, match=r"2 clusters of constructs \(of 9 constructs\) cannot fill 3 folds"):
        assign_folds(["a"] * 5 + ["b"] * 4, {"train": 1, "valid": 1, "test": 1}, 0)
