from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mlproject.data.mpra import MpraColumns, MpraTable, read_mpra
from mlproject.data.mpra_split import split_mpra
from mlproject.errors import InputError


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def table(sizes, chromosomes=None):
    """Families of sequences that differ in their last bases; without chromosomes unless they are given."""
    sequences = [
        letters(100, family)[:90] + letters(10, 1000 * family + n)
        for family, size in enumerate(sizes)
        for n in range(size)
    ]
    n = len(sequences)
    places, unknown = np.arange(n), np.full(n, np.nan)
    names = tuple(f"s{place}" for place in places)
    where = tuple(chromosomes or [""] * n)
    zeros = np.zeros(n, np.int64)
    return MpraTable(names, tuple(sequences), where, ("mpra",), places, zeros, places * 1.0, unknown, unknown)


def test_families_are_on_one_side_and_shares_are_met():
    sizes = [1 + n % 7 for n in range(150)]
    made = table(sizes)
    split = split_mpra(made, seed=0, valid_share=0.1, test_share=0.2)
    family = np.repeat(np.arange(150), sizes)
    np.testing.assert_array_equal(split.clusters, family)
    assert all(len(set(split.subset[family == one])) == 1 for one in range(150))
    counts = Counter(split.subset.tolist())
    assert set(counts) == {"train", "valid", "test"}
    for name, share in (("valid", 0.1), ("test", 0.2)):
        assert abs(counts[name] - share * len(family)) <= 4  # half of a family, and one
        held = Counter(sizes[one] for one in set(family[split.subset == name]))
        assert len(held) == 7  # of families of every size, not of the smallest alone
    clusters = [len(set(family[split.subset == name])) for name in ("train", "valid", "test")]
    assert split.notes == (
        f"train {counts['train']:,} sequences in {clusters[0]}, valid {counts['valid']} sequences in {clusters[1]}, "
        f"test {counts['test']} sequences in {clusters[2]} clusters of near-duplicates",
    )
    again = split_mpra(made, seed=0, valid_share=0.1, test_share=0.2)
    np.testing.assert_array_equal(again.subset, split.subset)
    other = split_mpra(made, seed=1, valid_share=0.1, test_share=0.2)
    assert (other.subset != split.subset).any()


def test_a_family_too_large_to_hold_out_trains():
    for seed in range(5):
        split = split_mpra(table([60, *[1] * 40]), seed=seed)
        assert set(split.subset[:60]) == {"train"} and Counter(split.subset.tolist())["test"] == 10
        assert split.notes[1].startswith("the largest cluster of near-duplicates has 60 of 100 sequences")


def test_chromosomes_are_held_out_and_relatives_of_theirs_left_out():
    chromosomes = ["chr1", "chr8", "chr2", *["chr1", "chr2"] * 10, "chr8", "chr9", "chr9", ""]
    made = table([3, *[1] * 20, 1, 2, 1], chromosomes)  # the first three sequences are one family
    split = split_mpra(made, seed=0, valid_chromosomes=["chr9"], test_chromosomes=["chr8"])
    subset = split.subset.tolist()
    assert subset == ["", "test", "", *["train"] * 20, "test", "valid", "valid", "train"]
    assert split.notes[1:] == (
        "2 near-duplicates of held-out sequences are on other chromosomes: left out",
        "without a chromosome: 1 of 27 sequences",
    )
    drawn = split_mpra(made, seed=0, test_chromosomes=["chr8", "chr9"]).subset
    assert [place for place, name in enumerate(drawn) if name == "test"] == [1, 23, 24, 25]
    assert (drawn == "valid").sum() == 3 and drawn[0] == drawn[2] == ""  # 0.1 of 27
    both = replace(made, chromosomes=("chr9", "chr8", *made.chromosomes[2:]))
    assert split_mpra(both, seed=0, valid_chromosomes=["chr9"], test_chromosomes=["chr8"]).subset[0] == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"test_chromosomes": ["chr3"]},
      r"--mpra_test: found 'chr3'; did you mean chr\d\?; the MPRA table has chr1"),
     ({"valid_chromosomes": ["chr8"], "test_chromosomes": ["chr8"]},
      "--mpra_valid: chr8 is in --mpra_test"),
     ({"test_chromosomes": ["chr1", "chr8"]}, "mpra: train has no sequence: 12 sequences are 12 clusters"),
     ({"valid_share": 0}, "--valid_share: found 0; it must be above 0"),
     ({"test_share": 1.5}, "--test_share: found 1.5"),
     ({"test_share": float("nan")}, "--test_share: found nan"),
     ({"test_share": 0.5, "valid_share": 0.5}, "found 1 together")],
)  # fmt: skip
def test_splits_that_cannot_be_are_refused(changes, said):
    made = table([1] * 12, ["chr1"] * 6 + ["chr8"] * 6)
    with pytest.raises(InputError, match=said):
        split_mpra(made, **({"seed": 0} | changes))


def test_one_family_cannot_be_split_and_a_table_without_places_has_no_chromosome():
    with pytest.raises(InputError, match=r"(test|valid) has no sequence"):
        split_mpra(table([30]), seed=0)
    with pytest.raises(InputError, match="names no chromosomes"):
        split_mpra(table([1] * 9), seed=0, test_chromosomes=["chr8"])


def test_wild_types_and_their_mutants_are_together(crx_mpra):
    made = read_mpra(
        crx_mpra / "rhoActivityJoinedAnnotated.txt",
        MpraColumns(activity=("expression",)),
        fasta=crx_mpra / "library1And2.fasta",
        max_length=164,
    )
    split = split_mpra(made, seed=0, test_chromosomes=["chr8", "chr9", "chr10"])
    place = [name.rsplit("_", 1)[0] for name in made.names]
    wild = {where: n for n, where in enumerate(place) if made.names[n].endswith("_WT")}
    pairs = [(n, wild[where]) for n, where in enumerate(place) if where in wild and wild[where] != n]
    assert len(pairs) > 4500
    assert all(split.clusters[one] == split.clusters[other] for one, other in pairs)
    assert split.clusters.max() + 1 > 4800  # and no more than they are: 4,844 places
    test = np.isin(made.chromosomes, ["chr8", "chr9", "chr10"])
    np.testing.assert_array_equal(split.subset == "test", test)
