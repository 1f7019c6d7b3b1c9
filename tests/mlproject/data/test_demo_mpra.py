import json

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from mlproject.data import demo_mpra
from mlproject.data.demo_mpra import (
    demo_joint_inputs,
    expected_activity,
    make_grammar,
    motif_counts,
    read_joint_grammar,
)
from mlproject.data.genome import Genome, Interval
from mlproject.data.similarity import clusters
from mlproject.data.targets import read_targets
from mlproject.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo_joint_inputs(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def grammar(folder):
    return read_joint_grammar(folder)


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_csv(folder / "mpra.tsv", sep="\t")


def searched(letters: str, motif: str) -> list[int]:
    """Starts of the motif and of its reverse complement, by plain search; overlapping ones each."""
    turned = motif[::-1].translate(str.maketrans("ACGT", "TGCA"))
    return [
        at for one in (motif, turned) for at in range(len(letters)) if letters.startswith(one, at)
    ]  # fmt: skip


def test_the_grammar_is_that_of_the_demo_of_tracks_and_comes_back(folder, grammar):
    made = make_grammar(0)
    assert grammar._replace(weights=0) == made._replace(weights=0)
    np.testing.assert_array_equal(grammar.weights, made.weights)
    assert grammar.weights.shape == (24, 6) and (grammar.weights >= 0).all()
    assert make_grammar(1).motifs != grammar.motifs
    (folder.parent / "other").mkdir(exist_ok=True)
    for damage in ("{", "[]", json.dumps({"motifs": ["A"]})):
        (folder.parent / "other" / "grammar.json").write_text(damage)
        with pytest.raises(InputError, match=r"grammar .*grammar.json: is damaged; remove"):
            read_joint_grammar(folder.parent / "other")
    with pytest.raises(InputError, match="cannot be read"):
        read_joint_grammar(folder.parent / "absent")


@pytest.mark.parametrize("seed", range(5))
def test_cell_types_differ_and_each_has_a_strong_motif(seed):
    weights = make_grammar(seed).weights
    assert (weights.max(axis=0) >= 1).all() and (weights.max(axis=1) >= 1).all()
    alike = np.corrcoef(weights)[np.triu_indices(24, 1)]
    # of 24 vectors of six weights some are alike, in a grammar that has two cell types with one motif even the same
    assert ((alike > -0.3) & (alike < 0.6)).mean() > 0.4 and (alike > 0.9).mean() < 0.1


def test_the_oracle_counts_motifs_on_either_strand_as_plain_search_does(grammar, table):
    motif = grammar.motifs[1]
    turned = motif[::-1].translate(str.maketrans("ACGT", "TGCA"))
    made = [
        "",
        "A",
        motif,
        turned,
        motif[:-1],
        motif[:3] + "N" + motif[4:],
        motif + turned + motif,
        "N" * 300,
    ]
    sequences = made + table["sequence"].drop_duplicates().tolist()[:300]
    counts = np.array([[len(searched(letters, one)) for one in grammar.motifs] for letters in sequences])
    np.testing.assert_array_equal(motif_counts(sequences, grammar), counts)
    assert counts[:8, 1].tolist() == [0, 0, 1, 1, 0, 0, 3, 0]
    for row, cell_type in enumerate(grammar.cell_types):
        np.testing.assert_allclose(
            expected_activity(sequences, cell_type, grammar),
            np.log2(1 + demo_mpra.GAIN * (counts * grammar.weights[row]).sum(axis=1)),
            rtol=1e-12,
        )
    palindrome = grammar._replace(motifs=("ACGT",), weights=np.ones((24, 1)))
    assert motif_counts(["ACGTACGT"], palindrome).tolist() == [[4]]
    assert motif_counts([], grammar).shape == (0, 6)
    with pytest.raises(InputError, match="cell_type 'demo_Z': the demo has demo_A, demo_B, "):
        expected_activity(sequences, "demo_Z", grammar)


def test_the_table_is_the_grammar_with_noise(grammar, table):
    assert list(table) == ["name", "sequence", "cell_type", "activity_rep1", "activity_rep2"]
    assert len(table) == 1_200 * 24 and not table.duplicated(["name", "cell_type"]).any()
    lengths = table["sequence"].str.len()
    assert (lengths == 150).all()
    assert set("".join(table["sequence"].unique())) == set("ACGT")
    missing = table[["activity_rep1", "activity_rep2"]].isna()
    assert 120 < missing.to_numpy().sum() < 600 and not missing.all(axis=1).any()
    mean = table[["activity_rep1", "activity_rep2"]].mean(axis=1)
    correlations = []
    for cell_type, own in table.groupby("cell_type"):
        expected = expected_activity(own["sequence"].tolist(), cell_type, grammar)
        correlations.append(np.corrcoef(expected, mean[own.index])[0, 1])
    assert len(correlations) == 24 and min(correlations) > 0.9
    assert abs(np.mean(correlations) - demo_mpra.CEILING) < 0.02
    replicates = table[["activity_rep1", "activity_rep2"]].dropna().corr().iloc[0, 1]
    # Spearman and Brown: what the mean of two such replicates shares with the truth
    assert abs(np.sqrt(2 * replicates / (1 + replicates)) - demo_mpra.CEILING) < 0.01


def test_motifs_are_in_the_middle_of_slots_and_as_often_none_as_all(grammar, table):
    originals = table[~table["name"].str.endswith("_copy")]["sequence"].unique()
    filled, middles = [], []
    for letters in originals:
        # Twice the middle, because that of a motif of even length is between two letters.
        found = {2 * at + len(motif) for motif in grammar.motifs for at in searched(letters, motif)}
        slots = {(middle - 6) // 32 for middle in found if (middle - 6) % 32 in (15, 16)}
        filled.append(len(slots))
        middles += found
    shares = np.bincount(filled, minlength=10) / len(originals)
    assert len(shares) == 10 and shares.min() > 0.06 and shares.max() < 0.14
    inside = (np.array(middles) - 6) % 32
    assert np.isin(inside, (15, 16)).mean() > 0.95  # the others are there by chance
    strands = [sum(letters.count(motif) for letters in originals) for motif in grammar.motifs]
    counts = motif_counts(originals, grammar).sum(axis=0)
    np.testing.assert_allclose(np.array(strands) / counts, 0.5, atol=0.08)


def test_a_tenth_of_the_sequences_are_near_duplicates(table):
    sequences = dict(zip(table["name"], table["sequence"], strict=True))
    copies = [name for name in sequences if name.endswith("_copy")]
    assert len(copies) == 120
    for name in copies:
        original = sequences[name.removesuffix("_copy")]
        assert len(original) == len(sequences[name])
        assert sum(a != b for a, b in zip(original, sequences[name], strict=True)) == demo_mpra.CHANGES
    assert len(set(sequences.values())) == 1_200
    originals = [letters for name, letters in sequences.items() if name not in copies]
    assert len(set(clusters(originals, 0.1))) == len(originals)


def test_coverage_is_bumps_at_the_motifs(folder, grammar):
    targets = read_targets(folder / "targets.txt")
    assert targets["cell_type"].tolist() == list(grammar.cell_types)
    genome = Genome(folder / "genome.fa", folder.parent)
    assert list(genome.lengths) == ["chr1", "chr2", "chr3", "chr4", "chr5"]
    letters = genome.letters(Interval("chr2", 0, genome.lengths["chr2"]))
    centres = np.arange(0, len(letters), 16) + 8.0
    measured, expected = [], []
    for row, name in enumerate(targets["file"]):
        file = pyBigWig.open(str(folder / name))
        assert file.chroms() == genome.lengths
        measured.append(np.reshape(file.values("chr2", 0, len(letters), numpy=True), (-1, 16)).mean(axis=1))
        file.close()
        height = np.full(len(centres), grammar.baseline)
        for weight, motif in zip(grammar.weights[row], grammar.motifs, strict=True):
            for at in searched(letters, motif) if weight else []:
                height += weight * np.exp(-0.5 * ((centres - at - len(motif) / 2) / grammar.spread_bp) ** 2)
        expected.append(grammar.depth * height)
    bases = genome.codes(Interval("chr2", 0, len(letters)))
    genome.close()
    # Motifs are taken to be in the middle of their block and bumps end at four standard deviations.
    made = demo_mpra.expected_coverage(bases, grammar)
    assert np.corrcoef(made.ravel(), np.ravel(expected))[0, 1] > 0.997
    np.testing.assert_allclose(made.mean(axis=1), np.mean(expected, axis=1), rtol=0.01)
    for one, other in zip(measured, expected, strict=True):
        assert np.corrcoef(np.log1p(one), np.log1p(other))[0, 1] > 0.9
        np.testing.assert_allclose(one.mean(), np.mean(other), rtol=0.02)
    logs = np.log1p(made)
    again = [np.log1p(np.random.default_rng(seed).poisson(made)) for seed in range(2)]
    assert 0.85 < np.corrcoef(again[0].ravel(), again[1].ravel())[0, 1] < 0.97  # replicates
    assert logs.min() < 0.7 and 4 < logs.max() < 6.5


def test_n_has_no_coverage(folder):
    genome = Genome(folder / "genome.fa", folder.parent)
    for chrom, start, end in demo_mpra.UNKNOWN:
        assert set(genome.letters(Interval(chrom, start, end))) == {"N"}
        file = pyBigWig.open(str(folder / "bigwigs" / "demo_A.bw"))
        values = file.values(chrom, start - 16, end + 16, numpy=True)
        file.close()
        assert np.isnan(values[16:-16]).all() and not np.isnan(values[[*range(16), *range(-16, 0)]]).any()
    genome.close()


def test_windows_hold_none_to_several_motifs(folder, grammar):
    genome = Genome(folder / "genome.fa", folder.parent)
    windows = [genome.letters(Interval("chr3", at, at + 512)) for at in range(0, 119_000, 512)]
    genome.close()
    held = motif_counts(windows, grammar).sum(axis=1)
    assert 0.15 < (held == 0).mean() < 0.5 and (held >= 3).mean() > 0.2 and (held <= 8).mean() > 0.95


def test_the_demo_is_the_same_again_and_another_with_another_seed(tmp_path):
    first, again = (demo_joint_inputs(tmp_path / name) for name in ("a", "b"))
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 28
    for name in files:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert demo_joint_inputs(tmp_path / "a") == first
    other = demo_joint_inputs(tmp_path / "a", seed=1)
    assert other != first and (other / "mpra.tsv").read_bytes() != (first / "mpra.tsv").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"work_dir .*file: cannot be written"):
        demo_joint_inputs(tmp_path / "file")
