import os

import numpy as np
import pybigtools
import pyBigWig
import pytest

from mlproject.data.coverage import open_coverage
from mlproject.data.demo_mpra import TEST, VALID, demo_joint_inputs, expected_coverage, read_joint_grammar
from mlproject.errors import InputError

CODES = {letter: "ACGT".find(letter) if letter in "ACGT" else 4 for letter in "ACGTN"}


def opened(toy, **options):
    chosen = {"valid": ["c2"], "test": ["c3"], "work_dir": toy.folder / "work"} | options
    return open_coverage(chosen.pop("fasta", toy.fasta), chosen.pop("targets", toy.targets), **chosen)


def table(toy, rows: str, header="identifier\tfile\tdescription\tcell_type"):
    """A table of targets beside the toy's bigWigs."""
    path = toy.folder / "other.txt"
    path.write_text(f"{header}\n{rows}")
    return path


def cleaned(values) -> np.ndarray:
    return np.maximum(np.nan_to_num(np.asarray(values, np.float64)), 0)


def test_windows_against_pybigwig_pybigtools_and_the_letters(toy):
    source = opened(toy)
    assert source.cell_types == ("one", "two +", "two -") and source.notes == ()
    windows = source.draw("train", 100, 300, seed=3)
    assert windows.codes.shape == (100, 300) and windows.codes.dtype == np.uint8
    assert windows.log_coverage.shape == (100, 3, 300) and windows.log_coverage.dtype == np.float16
    assert windows.chrom == ["c1"] * 100 and windows.start.dtype == np.int64
    for track, scale in enumerate((1, 0.5, 2)):
        ours = pyBigWig.open(str(toy.folder / f"{track}.bw"))
        other = pybigtools.open(str(toy.folder / f"{track}.bw"))
        for row, start in enumerate(windows.start.tolist()):
            letters = toy.letters["c1"][start : start + 300].upper()
            assert windows.codes[row].tolist() == [CODES[letter] for letter in letters]
            for values in (
                ours.values("c1", start, start + 300, numpy=True),
                other.values("c1", start, start + 300, fillna=0.0),
            ):
                expected = np.log1p(scale * cleaned(values))
                # float16 has 11 bits
                np.testing.assert_allclose(windows.log_coverage[row, track], expected, rtol=6e-4, atol=1e-6)
        ours.close()
        other.close()
    places = windows.start[:, None] + np.arange(300)
    assert (windows.codes == 4).any()
    absent = int(np.isnan(toy.signal["c1"][1][places]).sum())
    assert windows.notes == (f"train: positions without a value count as 0, of 30,000 drawn: NA {absent:,}.",)


def test_tracks_of_one_cell_type_are_averaged_and_values_below_0_count_as_0(toy, bigwig_writer):
    rng = np.random.default_rng(0)
    signal = {chrom: rng.normal(size=(2, len(letters))) for chrom, letters in toy.letters.items()}
    signal["c1"][1, 2_000:2_500] = np.nan
    lengths = {chrom: len(letters) for chrom, letters in toy.letters.items()}
    for row in range(2):
        bigwig_writer(toy.folder / f"ratio{row}.bw", lengths, {c: v[row] for c, v in signal.items()})
    rows = "a\tratio0.bw\tX:q\tliver\nb\t0.bw\tX:r\tbrain\nc\tratio1.bw\tX:s\tliver \n"
    source = opened(toy, targets=table(toy, rows))
    assert source.cell_types == ("liver", "brain")
    assert source.notes == ("cell type liver: coverage is the mean of 2 tracks (a, c).",)
    windows = source.draw("train", 100, 200, seed=0)
    places = windows.start[:, None] + np.arange(200)
    expected = np.mean([cleaned(signal["c1"][row])[places] for row in range(2)], axis=0)
    np.testing.assert_allclose(windows.log_coverage[:, 0], np.log1p(expected), rtol=6e-4, atol=1e-6)
    brain = np.log1p(toy.signal["c1"][0][places])
    np.testing.assert_allclose(windows.log_coverage[:, 1], brain, rtol=6e-4, atol=1e-6)
    below = [int((signal["c1"][row][places] < 0).sum()) for row in range(2)]
    absent = int(np.isnan(signal["c1"][1][places]).sum())
    assert windows.notes == (
        f"train: positions without a value count as 0, of 20,000 drawn: c {absent:,}.",
        f"train: positions with a value below 0 count as 0, of 20,000 drawn: a {below[0]:,}, c {below[1]:,}.",
    )


def test_a_cell_type_is_named_by_its_column_or_description_or_identifier(toy):
    header = "identifier\tfile\tdescription"
    rows = "x\t0.bw\tCHIP:H3K27ac:liver\ny\t1.bw\tplain\nz\t2.bw\tATAC: \n"
    assert opened(toy, targets=table(toy, rows, header)).cell_types == ("H3K27ac:liver", "y", "z")
    with pytest.raises(InputError, match=r"targets .*other.txt, track y: cell_type is empty"):
        opened(toy, targets=table(toy, "x\t0.bw\tA:b\tliver\ny\t1.bw\tA:b\t \n"))


def test_tracks_chooses_rows_by_pattern(toy):
    assert opened(toy, tracks="CAGE*").cell_types == ("two +", "two -")
    assert opened(toy, tracks="2,one").cell_types == ("one", "two -")  # in the order of the table
    with pytest.raises(InputError, match=r"--tracks: found 'ATAC\*', which is none of 3 tracks"):
        opened(toy, tracks="ATAC*")


def test_a_draw_is_a_function_of_its_arguments(toy):
    first, again = (opened(toy).draw("train", 30, 500, 1) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    places = {tuple(opened(toy).draw("train", 30, 500, seed).start) for seed in range(3)}
    assert len(places) == 3
    alone = opened(toy, tracks="one").draw("train", 30, 500, 1)
    np.testing.assert_array_equal(alone.start, first.start)
    np.testing.assert_array_equal(alone.log_coverage[:, 0], first.log_coverage[:, 0])


@pytest.mark.parametrize(("subset", "chrom", "length"), [("train", "c1", 8_500), ("valid", "c2", 4_500)])
def test_each_subset_has_its_chromosomes_and_every_place_can_be_drawn_once(toy, subset, chrom, length):
    windows = opened(toy).draw(subset, 501, length, 0)
    assert set(windows.chrom) == {chrom}
    assert sorted(windows.start) == list(range(501))
    with pytest.raises(
        InputError, match=f"{subset}: there are 501 places for a window of {length} bp .* 502 are"
    ):
        opened(toy).draw(subset, 502, length, 0)


def test_places_are_drawn_evenly(toy):
    starts = opened(toy).draw("train", 4_000, 1_000, 0).start
    # c1 has 8,001 places: half are drawn, of each eighth of them its share (sd 16)
    counts = np.histogram(starts, 8, (0, 8_001))[0]
    assert len(set(starts.tolist())) == 4_000 and np.abs(counts - 500).max() < 70


def test_places_that_are_mostly_n_are_not_drawn(toy):
    toy.fasta.write_text(
        "".join(
            f">{chrom}\n{'N' * 7_000 + letters[7_000:] if chrom == 'c1' else letters}\n"
            for chrom, letters in toy.letters.items()
        )
    )
    windows = opened(toy).draw("train", 1_801, 400, 0)
    assert sorted(windows.start) == list(range(6_800, 8_601))
    assert ((windows.codes == 4).sum(axis=1) <= 200).all()
    with pytest.raises(
        InputError, match=r"train: there are 1801 places .* 1802 are asked for; ask for at most 1801"
    ):
        opened(toy).draw("train", 1_802, 400, 0)
    toy.fasta.write_text("".join(f">{c}\n{'N' * len(s)}\n" for c, s in toy.letters.items()))
    with pytest.raises(InputError, match=r"there are 0 places .* ask for other chromosomes"):
        opened(toy).draw("train", 1, 400, 0)


def test_windows_lie_in_the_regions(toy, tmp_path):
    bed = tmp_path / "regions.bed"
    bed.write_text("c1\t100\t700\nc1\t600\t1000\nc1\t5000\t5400\nc1\t8000\t8100\nc2\t0\t2000\nc3\t50\t900\n")
    source = opened(toy, regions=bed)
    windows = source.draw("train", 702, 300, 0)
    assert sorted(windows.start) == [*range(100, 701), *range(5_000, 5_101)]
    assert windows.notes[0] == (
        "train: 1 of 3 stretches are shorter than 300 bp and give no window (c1:8000-8100)."
    )
    for row, start in enumerate(windows.start.tolist()):
        values = cleaned(toy.signal["c1"][0][start : start + 300])
        np.testing.assert_allclose(windows.log_coverage[row, 0], np.log1p(values), rtol=6e-4, atol=1e-6)
    assert source.digest != opened(toy).digest
    with pytest.raises(
        InputError, match=r"train: no window of 1000 bp fits, the longest stretch is c1:100-1000 of 900"
    ):
        source.draw("train", 1, 1_000, 0)
    bed.write_text("c1\t100\t700\nc2\t600\t1000\n")
    with pytest.raises(InputError, match=r"test names chromosome c3, the BED .*regions.bed has c1, c2\."):
        opened(toy, regions=bed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training", 1, 100, 0), "subset 'training' is unknown; there are train, valid, test"),
        (("train", 0, 100, 0), "count of train windows is 0, expected 1 or more"),
        (("train", 1, 0, 0), "length of train windows is 0, expected 1 or more"),
        (("train", 1, 100, -1), "seed of train windows is -1, expected 0 or more"),
        (
            ("valid", 1, 5_001, 0),
            "valid: no window of 5001 bp fits, the longest stretch is c2:0-5000 of 5000 bp",
        ),
    ],
)
def test_what_cannot_be_drawn(toy, arguments, message):
    with pytest.raises(InputError, match=message):
        opened(toy).draw(*arguments)


def test_chromosomes_that_a_bigwig_lacks_are_left_out(toy, bigwig_writer):
    lengths = {"c1": 9_000, "c2": 5_000, "c9": 100}
    signal = {chrom: np.ones(length) for chrom, length in lengths.items()}
    bigwig_writer(toy.folder / "some.bw", lengths, signal)
    with open(toy.targets, "a") as file:
        file.write("3\tsome\tsome.bw\t\t\t1\tsum\t3\tATAC:some\n")
    with pytest.raises(
        InputError, match=r"test names chromosome c3, which bigWig .*some.bw has not; choose from c1, c2"
    ):
        opened(toy)
    with pytest.raises(InputError, match=r"no chromosome is left to train on: valid and test .*\(c1, c2\)"):
        opened(toy, test=["c1"])
    with open(toy.fasta, "a") as file:
        file.write(">c9\n" + "A" * 100 + "\n>c10\n" + "ACGT" * 30 + "\n")
    with pytest.raises(InputError, match=r"valid names chromosome c9, which bigWig .*0.bw has not"):
        opened(toy, tracks="one,some", valid=["c9"], test=["c1"])
    toy.fasta.write_text(
        "".join(f">{c}\n{'ACGTA' * (n // 5)}\n" for c, n in (lengths | {"c3": 4_000}).items())
    )
    source = opened(toy, tracks="some", valid=["c9"], test=["c2"])
    assert source.notes[0].startswith("1 of 4 chromosomes are left out (c3): bigWig ")
    assert source.notes[0].endswith("some.bw has not c3; used are c1, c2, c9.")
    assert set(source.draw("train", 20, 50, 0).chrom) == {"c1"}
    np.testing.assert_allclose(source.draw("valid", 5, 50, 0).log_coverage, np.log(2), rtol=6e-4)


def test_names_and_lengths_that_differ_name_both_sides(toy, bigwig_writer):
    for file, lengths, message in (
        (
            "named.bw",
            {"chr1": 9_000, "chr2": 5_000},
            "FASTA .*toy.fa has chromosomes c1, c2, c3, bigWig .*named.bw has chr1, chr2",
        ),
        (
            "long.bw",
            {"c1": 9_000, "c2": 5_001, "c3": 4_000},
            "c2 is 5000 bp in .*toy.fa and 5001 bp in bigWig .*long.bw",
        ),
        ("apart.bw", {"c2": 5_000, "c3": 4_000}, "no chromosome is left to train on"),
    ):
        bigwig_writer(toy.folder / file, lengths, {c: np.ones(n) for c, n in lengths.items()})
        with pytest.raises(InputError, match=message):
            opened(toy, targets=table(toy, f"x\t{file}\tA:b\tliver\n"))
    bigwig_writer(toy.folder / "first.bw", {"c1": 9_000}, {"c1": np.ones(9_000)})
    rows = "x\tfirst.bw\tA:b\tliver\ny\tapart.bw\tA:b\tliver\n"
    with pytest.raises(
        InputError, match=r"no chromosome is in every bigWig: of c1, c2, c3 in FASTA .*first.bw has not c2"
    ):
        opened(toy, targets=table(toy, rows))


def test_files_that_are_wrong(toy):
    with pytest.raises(InputError, match=r"absent.bw"):
        opened(toy, targets=table(toy, "x\tabsent.bw\tA:b\tliver\n"))
    with pytest.raises(InputError, match=r"fasta .*absent.fa: cannot be read"):
        opened(toy, fasta=toy.folder / "absent.fa")
    header = "identifier\tfile\tdescription\tscale"
    source = opened(toy, targets=table(toy, "x\t0.bw\tA:b\t3e38\n", header))
    with pytest.raises(
        InputError, match=r"track x, bigWig .*0.bw: the value at c1:\d+ is infinite \(after scale 3e\+38\)"
    ):
        source.draw("train", 10, 500, 0)
    source = opened(toy)
    whole = (toy.folder / "0.bw").read_bytes()
    (toy.folder / "0.bw").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match=r"bigWig .*0.bw"):
        source.draw("train", 10, 500, 0)


def test_the_digest_says_what_went_in(toy):
    digests = [
        opened(toy).digest,
        opened(toy, tracks="CAGE*").digest,
        opened(toy, valid=["c3"], test=["c2"]).digest,
    ]
    state = os.stat(toy.folder / "0.bw")
    assert opened(toy).digest == digests[0]
    os.utime(toy.folder / "0.bw", ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    digests.append(opened(toy).digest)
    assert len(set(digests)) == 4 and all(len(digest) == 64 for digest in digests)


def test_the_demo_of_cell_types(tmp_path):
    raw = demo_joint_inputs(tmp_path)
    grammar = read_joint_grammar(raw)
    source = open_coverage(
        raw / "genome.fa", raw / "targets.txt", valid=[VALID], test=[TEST], work_dir=tmp_path
    )
    assert source.cell_types == grammar.cell_types and source.notes == ()
    windows = source.draw("train", 300, 1_000, 0)
    assert {*windows.chrom} == {"chr1", "chr2", "chr3"}
    assert {*source.draw("test", 10, 1_000, 0).chrom} == {"chr5"}
    blocks = windows.log_coverage.astype(np.float64)[..., 320:640]  # away from motifs off the ends
    expected = np.log1p(
        [np.repeat(expected_coverage(codes[:992], grammar), 16, axis=1) for codes in windows.codes]
    )
    assert np.corrcoef(blocks.ravel(), expected[..., 320:640].ravel())[0, 1] > 0.9
    assert 4 < blocks.max() < 6.5


def test_real_yeast_bigwigs_that_have_three_chromosomes(yeast, tmp_path):
    files = {"MNase": "MNase.bw", "Scc1": "Scc1.bw"}
    files |= {f"WT_{n}": f"stripeseq/S288C_WT_{n}.fwd.bw" for n in (1, 2)}
    rows = [f"{name}\t{yeast / file}\tX:{name[:2]}" for name, file in files.items()]
    (tmp_path / "targets.txt").write_text("identifier\tfile\tdescription\n" + "\n".join(rows) + "\n")
    fasta = yeast / "Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz"

    def source(**options):
        chosen = {"valid": ["II"], "test": ["XVI"], "work_dir": tmp_path} | options
        return open_coverage(fasta, tmp_path / "targets.txt", **chosen)

    some = source()
    assert some.cell_types == ("MN", "Sc", "WT")
    assert "14 of 17 chromosomes are left out" in some.notes[0] and "used are II, IV, XVI" in some.notes[0]
    assert some.notes[1] == "cell type WT: coverage is the mean of 2 tracks (WT_1, WT_2)."
    windows = some.draw("train", 50, 1_000, 0)
    assert set(windows.chrom) == {"IV"}
    for column, names in enumerate((["MNase"], ["Scc1"], ["WT_1", "WT_2"])):
        expected = np.zeros((50, 1_000))
        for name in names:
            file = pyBigWig.open(str(yeast / files[name]))
            for row, start in enumerate(windows.start.tolist()):
                expected[row] += cleaned(file.values("IV", start, start + 1_000, numpy=True)) / len(names)
            file.close()
        np.testing.assert_allclose(windows.log_coverage[:, column], np.log1p(expected), rtol=6e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"valid names chromosome V, which bigWig .*MNase.bw has not"):
        source(valid=["V"])
    assert len(source(tracks="WT*").stretches["train"]) == 15
