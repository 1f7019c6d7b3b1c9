import resource
import shutil
import subprocess

import numpy as np
import pyBigWig
import pytest

from mlproject.data import predictions, signal_files
from mlproject.data.bigwig import BigWig
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import Stretch

# Byte order of names differs from the order of numbers; the last bin of each chromosome is a part of one.
LENGTHS = {"chr2": 128 * 40 + 7, "chr10": 128 * 30 + 1, "I": 100, "chrM": 128 * 3}
STRETCHES = [
    Stretch("I", 0, 100, 0),
    Stretch("chr10", 0, 1408, 1),
    Stretch("chr10", 3328, 3841, 12),
    Stretch("chr2", 0, 1152, 17),
    Stretch("chr2", 2560, 5127, 26),
    Stretch("chrM", 0, 384, 47),
]
TRACKS = [
    *(Track(0, 0, "a", "DNASE:x", 0), Track(2, 3, "NA", "CAGE:y", 3)),  # index 3 is no position
    Track(3, 4, "b/../c d", "", 2),
]


@pytest.fixture
def written(tmp_path):
    """All formats of made-up values, and what went in."""
    mean, variance = np.random.default_rng(0).normal(100, size=[2, 50, 3])
    mean[5, 1], mean[6, 1] = 0, 1e-30
    arrays = {}
    for name, values in (("values", mean), ("variance", variance)):
        array = predictions.open_values(tmp_path / f"{name}.npy", *values.shape)
        array[:] = values
        array.flush()
        arrays[name] = tmp_path / f"{name}.npy"
    folder = tmp_path / "out"
    folder.mkdir()
    signal_files.write_formats(folder, signal_files.FORMATS, arrays, STRETCHES, TRACKS, LENGTHS)
    return folder, STRETCHES, mean.astype(np.float32), variance.astype(np.float32)


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
    assert signal_files.file_name(Track(7, 7, "///", "", 7), ".bw") == "0007.bw"
    assert signal_files.file_name(Track(1, 12345, "x" * 300, "", 7), ".bw") == "12345_" + "x" * 80 + ".bw"


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
    monkeypatch.setattr(signal_files, "_LINES", 7)
    column = np.arange(41, dtype=np.float32) / 3
    stretches = [Stretch("chr2", 0, LENGTHS["chr2"], 0)]
    signal_files.write_bedgraph(tmp_path / "a", stretches, column)
    monkeypatch.undo()
    signal_files.write_bedgraph(tmp_path / "b", stretches, column)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert (tmp_path / "a").read_text().splitlines()[-1] == "chr2\t5120\t5127\t13.333333"


# --- room on the disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def long_track(tmp_path):
    """The .npy file of one track of 100,000 random values, and its stretch."""
    array = predictions.open_values(tmp_path / "values.npy", 100_000, 1)
    array[:] = np.random.default_rng(0).gamma(1, 2, (100_000, 1))
    array.flush()
    return tmp_path / "values.npy", [Stretch("chr1", 0, 12_800_000, 0)]


def limited(size, files, stretches):
    """Writes bigWigs where no file may be larger than `size`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        return list(signal_files.write_bigwigs(files, stretches, {"chr1": 12_800_000}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_bigwig_that_finds_no_room_is_an_error_wherever_it_ends(tmp_path, long_track, capfd):
    """The library that writes it crashes, or says nothing."""
    source, stretches = long_track
    (whole,) = limited(10_000_000, [(tmp_path / "whole.bw", source, 0)], stretches)
    size = whole.stat().st_size
    assert size <= signal_files.size(["bigwig"], 100_000, 1, 1) < 1.3 * size
    for number, most in enumerate((0, 100, 5_000, size // 3, size // 2, size - 5_000, size - 100, size - 1)):
        with pytest.raises(OSError, match=rf"^{number}\.bw: .*; [0-9.]+ .B free there$"):
            limited(most, [(tmp_path / f"{number}.bw", source, 0)], stretches)
    assert capfd.readouterr().err == ""


def test_files_take_no_more_than_their_size(tmp_path, long_track):
    source, stretches = long_track
    for name, file in (("npz", "predictions.npz"), ("bedgraph", "0000_a.bedgraph"), ("bigwig", "0000_a.bw")):
        arrays = {"values": source}
        signal_files.write_formats(tmp_path, [name], arrays, stretches, TRACKS[:1], {"chr1": 12_800_000})
        found = (tmp_path / file).stat().st_size
        assert found <= signal_files.size([name], 100_000, 1, 1) < 2 * found


def test_the_cost_of_many_tracks_is_said():
    line = signal_files.cost(1_000_000, 5313, 2, ["npz", "bigwig"])
    assert "191.36 GB on disk while they are written" in line and "106.35 GB and 10,626 files" in line
