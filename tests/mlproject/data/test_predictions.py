import shutil
import subprocess

import numpy as np
import pyBigWig
import pytest

from mlproject.data import predictions
from mlproject.data.bigwig import BigWig
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import FragmentFolder, Moments, Stretch
from mlproject.data.regions import Fragment, Region, Span

# Byte order of names differs from the order of numbers; the last bin of each chromosome is a part of one.
LENGTHS = {"chr2": 128 * 40 + 7, "chr10": 128 * 30 + 1, "I": 100, "chrM": 128 * 3}
BINS = 6  # of a fragment
FRAGMENTS = [
    *(Fragment("I", -384),),
    *(Fragment("chr10", start) for start in (-256, 512, 640, 128 * 26)),
    *(Fragment("chr2", start) for start in (0, 128, 256, 384, 128 * 20, 128 * 26, 128 * 30, 128 * 36)),
    *(Fragment("chrM", 0),),
]
COUNT = 3  # predictions of a fragment
TRACKS = [Track(0, "a", "DNASE:x", 0), Track(3, "NA", "CAGE:y", 4), Track(4, "b/../c d", "", 3)]


def made_up(fragments, tracks=3, seed=0):
    """Predictions `[fragments, COUNT, BINS, tracks]`, of one size or of very different ones."""
    random = np.random.default_rng(seed)
    return 100 + random.normal(size=[len(fragments), COUNT, BINS, tracks])


def bin_by_bin(fragments, values):
    """For each bin on its chromosome all that was predicted for it: {(chrom, start): [predictions, tracks]}."""
    found = {}
    for (chrom, start), of_fragment in zip(fragments, values, strict=True):
        for row in range(BINS):
            place = start + 128 * row
            if 0 <= place < LENGTHS[chrom]:
                found.setdefault((chrom, place), []).extend(of_fragment[:, row])
    return {place: np.array(all_of_it) for place, all_of_it in found.items()}


def joined(fragments, values):
    stretches = predictions.stretches_of(fragments, BINS, LENGTHS)
    means = values.mean(1)
    spreads = ((values - means[:, None]) ** 2).sum(1)
    bins = stretches[-1].offset + stretches[-1].bins
    mean, variance = np.full([2, bins, values.shape[-1]], np.nan)
    predictions.join(
        fragments, lambda n: Moments(means[n], spreads[n]), stretches, BINS, COUNT, mean, variance
    )
    return stretches, mean, variance


def places(stretches):
    return [(s.chrom, s.start + 128 * row) for s in stretches for row in range(s.bins)]


def test_overlapping_fragments_are_averaged_bin_by_bin():
    values = made_up(FRAGMENTS)
    stretches, mean, variance = joined(FRAGMENTS, values)
    expected = bin_by_bin(FRAGMENTS, values)
    assert places(stretches) == sorted(expected, key=lambda place: (place[0].encode(), place[1]))
    sizes = {len(all_of_it) // COUNT for all_of_it in expected.values()}
    assert sizes == {1, 2, 3, 4}
    for row, place in enumerate(places(stretches)):
        np.testing.assert_allclose(mean[row], expected[place].mean(0), rtol=1e-12)
        np.testing.assert_allclose(variance[row], expected[place].var(0), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_any_fragments_are_averaged(seed):
    random = np.random.default_rng(seed)
    starts = sorted(set(random.integers(-5, 40, 30).tolist()))
    fragments = [Fragment("chr2", 128 * start) for start in starts]
    values = made_up(fragments, 2, seed)
    stretches, mean, variance = joined(fragments, values)
    expected = bin_by_bin(fragments, values)
    assert places(stretches) == sorted(expected)
    np.testing.assert_allclose(mean, [expected[place].mean(0) for place in places(stretches)], rtol=1e-12)
    np.testing.assert_allclose(variance, [expected[place].var(0) for place in places(stretches)], rtol=1e-9)


def test_stretches_end_where_chromosomes_do():
    assert predictions.stretches_of(FRAGMENTS, BINS, LENGTHS) == [
        Stretch("I", 0, 100, 0),
        Stretch("chr10", 0, 1408, 1),
        Stretch("chr10", 3328, 3841, 12),
        Stretch("chr2", 0, 1152, 17),
        Stretch("chr2", 2560, 5127, 26),
        Stretch("chrM", 0, 384, 47),
    ]


def test_without_variance_there_is_none():
    values = made_up(FRAGMENTS)
    stretches, expected, _ = joined(FRAGMENTS, values)
    mean = np.full_like(expected, np.nan)
    load = lambda n: Moments(values[n].mean(0))  # noqa: E731
    predictions.join(FRAGMENTS, load, stretches, BINS, COUNT, mean, None)
    np.testing.assert_array_equal(mean, expected)


# --- fragments on disk --------------------------------------------------------------------------------------------


def test_fragments_come_back_and_damaged_ones_are_missing(tmp_path):
    folder = FragmentFolder(tmp_path / "work")
    assert folder.missing(3) == [0, 1, 2]
    values = made_up(FRAGMENTS[:2])[:, 0]
    folder.save(0, Moments(values[0]))
    folder.save(2, Moments(values[0], values[1]))
    assert folder.missing(3) == [1]
    assert folder.load(0).spread is None
    np.testing.assert_array_equal(folder.load(2).spread, values[1].astype(np.float32))
    path = tmp_path / "work" / "000002.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert folder.missing(3) == [1, 2] and not path.exists()
    (tmp_path / "work" / ".000001.half").write_bytes(b"x")  # of a process that was killed
    folder.remove()
    assert not (tmp_path / "work").exists()


# --- formats ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """All formats of made-up predictions, and what went in."""
    stretches, mean, variance = joined(FRAGMENTS, made_up(FRAGMENTS))
    mean[5, 1], mean[6, 1] = 0, 1e-30
    arrays = {}
    for name, values in (("values", mean), ("variance", variance)):
        array = predictions.open_values(tmp_path / f"{name}.npy", *values.shape)
        array[:] = values
        array.flush()
        arrays[name] = tmp_path / f"{name}.npy"
    folder = tmp_path / "out"
    folder.mkdir()
    predictions.write_formats(folder, predictions.FORMATS, arrays, stretches, TRACKS, LENGTHS)
    return folder, stretches, mean.astype(np.float32), variance.astype(np.float32)


def intervals(stretches, column):
    return [
        (s.chrom, s.start + 128 * row, min(s.start + 128 * (row + 1), s.end), column[s.offset + row])
        for s in stretches
        for row in range(s.bins)
    ]


def test_names_of_files_are_safe_and_different(written):
    assert sorted(path.name for path in written[0].iterdir()) == sorted(
        f"{stem}{kind}.{ending}"
        for stem in ("0000_a", "0003_NA", "0004_b_.._c_d")
        for kind in ("", ".variance")
        for ending in ("bw", "bedgraph")
    ) + ["predictions.npz"]
    assert predictions.file_name(Track(7, "///", "", 7), ".bw") == "0007.bw"
    assert predictions.file_name(Track(12345, "x" * 300, "", 7), ".bw") == "12345_" + "x" * 80 + ".bw"


def test_arrays_say_where_they_lie(written):
    folder, stretches, mean, variance = written
    with np.load(folder / "predictions.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["values"], mean)
        np.testing.assert_array_equal(found["variance"], variance)
        assert found["values"].dtype == np.float32
        assert found["index"].tolist() == [0, 3, 4] and found["bin_size"] == 128
        assert found["identifier"].tolist() == ["a", "NA", "b/../c d"]
        assert found["description"].tolist() == ["DNASE:x", "CAGE:y", ""]
        for name in ("chrom", "start", "end"):
            assert found[name].tolist() == [getattr(stretch, name) for stretch in stretches]
        assert np.diff(found["offset"]).tolist() == [stretch.bins for stretch in stretches]
        assert len(found["values"]) == found["offset"][-1]


@pytest.mark.parametrize(("name", "column"), [("0000_a", 0), ("0003_NA", 1), ("0003_NA.variance", 1)])
def test_a_bedgraph_is_sorted_and_reads_back(written, name, column):
    folder, stretches, mean, variance = written
    path = folder / f"{name}.bedgraph"
    values = variance if "variance" in name else mean
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert [
        (chrom, int(start), int(end), np.float32(value)) for chrom, start, end, value in rows
    ] == intervals(stretches, values[:, column])
    command = ["sort", "-c", "-k1,1", "-k2,2n", str(path)]
    assert subprocess.run(command, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}).returncode == 0


@pytest.mark.parametrize(("name", "column"), [("0000_a", 0), ("0003_NA", 1), ("0003_NA.variance", 1)])
def test_a_bigwig_reads_back_with_three_readers(written, name, column):
    pybigtools = pytest.importorskip("pybigtools")
    folder, stretches, mean, variance = written
    expected = intervals(stretches, (variance if "variance" in name else mean)[:, column])
    chroms = {chrom: LENGTHS[chrom] for chrom in ("I", "chr10", "chr2", "chrM")}
    first = pyBigWig.open(str(folder / f"{name}.bw"))
    assert list(first.chroms().items()) == list(chroms.items()) and first.isBigWig()
    found = [(chrom, *row) for chrom in chroms for row in first.intervals(chrom)]
    assert found == expected
    assert first.header()["nBasesCovered"] == sum(end - start for _, start, end, _ in expected)
    for chrom, length in chroms.items():
        here = [(end - start, value) for name, start, end, value in expected if name == chrom]
        sizes, values = np.array(here, np.float64).T
        mean_of_bases = first.stats(chrom, 0, length, type="mean", exact=True)[0]
        assert mean_of_bases == pytest.approx(np.average(values, weights=sizes), rel=1e-6)
    with pybigtools.open(str(folder / f"{name}.bw")) as second:
        assert {chrom: second.chroms(chrom) for chrom in chroms} == chroms
        assert [(chrom, *row) for chrom in chroms for row in second.records(chrom)] == expected
        summary = second.info()["summary"]
    assert summary["max"] == max(value for *_, value in expected)
    assert summary["min"] == min(value for *_, value in expected)
    ours = BigWig(folder / f"{name}.bw")
    assert {chrom: entry.length for chrom, entry in ours.chromosomes.items()} == chroms
    for chrom, length in chroms.items():
        by_base = np.full(length, np.nan, np.float32)
        for _, start, end, value in (row for row in expected if row[0] == chrom):
            by_base[start:end] = value
        np.testing.assert_array_equal(ours.values(chrom, 0, length), by_base)


@pytest.mark.skipif(not shutil.which("bigWigInfo"), reason="needs bigWigInfo")
def test_the_tool_of_the_browser_takes_a_bigwig(written):
    done = subprocess.run(["bigWigInfo", str(written[0] / "0000_a.bw")], capture_output=True, text=True)
    assert done.returncode == 0 and "chromCount: 4" in done.stdout, done.stderr


def test_many_bins_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "_LINES", 7)
    column = np.arange(41, dtype=np.float32) / 3
    stretches = [Stretch("chr2", 0, LENGTHS["chr2"], 0)]
    predictions.write_bedgraph(tmp_path / "a", stretches, column)
    monkeypatch.undo()
    predictions.write_bedgraph(tmp_path / "b", stretches, column)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert (tmp_path / "a").read_text().splitlines()[-1] == "chr2\t5120\t5127\t13.333333"


# --- summaries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [2**24, 3])
def test_summaries_are_of_the_bins_of_the_region(monkeypatch, at_once):
    monkeypatch.setattr(predictions, "_VALUES", at_once)
    stretches, mean, _ = joined(FRAGMENTS, made_up(FRAGMENTS))
    region, span = Region("r", "chr10", 700, 1025), Span("chr10", 512, 1408)
    table = predictions.summarize(region, span, (5, 1), stretches, TRACKS, mean)
    rows = [
        row for row, place in enumerate(places(stretches)) if place[0] == "chr10" and 640 <= place[1] <= 1024
    ]
    assert len(rows) == 4 and list(table["bins"]) == [4] * 3
    np.testing.assert_allclose(table["mean"], mean[rows].mean(0))
    np.testing.assert_allclose(table["sum"], mean[rows].sum(0))
    np.testing.assert_array_equal(table["max"], mean[rows].max(0))
    assert table["max_position"].tolist() == [640 + 128 * int(at) for at in mean[rows].argmax(0)]
    first = table.iloc[0]
    assert (first["region"], first["start"], first["end"]) == ("r", 700, 1025)
    assert (first["predicted_start"], first["predicted_end"]) == (512, 1408)
    assert table["index"].tolist() == [0, 3, 4] and (first["n_bases"], first["iupac"]) == (5, 1)


def test_summaries_at_the_ends_of_a_chromosome():
    stretches, mean, _ = joined(FRAGMENTS, made_up(FRAGMENTS))
    table = predictions.summarize(
        Region("r", "I", 3, 99), Span("I", -384, 384), (0, 0), stretches, TRACKS, mean
    )
    assert (table["predicted_start"][0], table["predicted_end"][0], table["bins"][0]) == (0, 100, 1)
    np.testing.assert_allclose(table["mean"], mean[0])
    end = LENGTHS["chr2"]
    span = Span("chr2", 128 * 36, 128 * 42)
    table = predictions.summarize(Region("r", "chr2", end - 1, end), span, (0, 0), stretches, TRACKS, mean)
    assert (table["predicted_end"][0], table["bins"][0], table["max_position"][0]) == (end, 1, 5120)


def test_the_cost_of_many_tracks_is_said():
    line = predictions.cost(1_000_000, 5313, 2, ["npz", "bigwig"])
    assert "170.0 GB on disk while they are written" in line and "85.0 GB and 10,626 files" in line
