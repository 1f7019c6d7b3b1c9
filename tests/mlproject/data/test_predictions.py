import resource

import numpy as np
import pandas as pd
import pytest

from mlproject.data import predictions
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import FragmentFolder, Moments, Stretch
from mlproject.data.regions import Fragment, Region, Span
from mlproject.errors import InputError

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
TRACKS = [
    *(Track(0, 0, "a", "DNASE:x", 0), Track(2, 3, "NA", "CAGE:y", 3)),  # index 3 is no position
    Track(3, 4, "b/../c d", "", 2),
]


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


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"PK"), lambda path: path.unlink()])
def test_a_fragment_that_is_damaged_after_all_were_there_is_one_line(tmp_path, damage):
    folder = FragmentFolder(tmp_path / "work")
    folder.save(0, Moments(np.zeros([2, 1])))
    assert not folder.missing(1)
    damage(tmp_path / "work" / "000000.npz")
    with pytest.raises(InputError) as caught:
        folder.load(0)
    (line,) = str(caught.value).splitlines()
    assert "000000.npz: " in line and line.endswith("; the same command predicts this fragment again")
    assert folder.missing(1) == [0]


def test_a_fragment_takes_no_more_than_its_size(tmp_path):
    folder = FragmentFolder(tmp_path / "work")
    values = np.random.default_rng(0).normal(size=[2, 896, 7])
    folder.save(0, Moments(*values))
    size = (tmp_path / "work" / "000000.npz").stat().st_size
    assert size <= FragmentFolder.size(1, 896, 7, 2) < 1.5 * size


def test_an_array_takes_its_place_on_the_disk_or_is_an_error(tmp_path):
    array = predictions.open_values(tmp_path / "a.npy", 1000, 30)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            predictions.open_values(tmp_path / "b.npy", 1000, 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


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


@pytest.mark.parametrize(("most", "is_kept"), [(6, True), (5, False)])
def test_the_table_has_the_rows_of_every_region(tmp_path, most, is_kept):
    stretches, mean, _ = joined(FRAGMENTS, made_up(FRAGMENTS))
    regions = [Region("r", "chr10", 700, 1025), Region("s", "I", 3, 99)]
    spans, unknown = [Span("chr10", 512, 1408), Span("I", -384, 384)], [(5, 1), (0, 0)]
    path = tmp_path / "regions.tsv"
    found = predictions.write_table(path, regions, spans, unknown, stretches, TRACKS, mean, most)
    parts = [
        predictions.summarize(*place, stretches, TRACKS, mean)
        for place in zip(regions, spans, unknown, strict=True)
    ]
    expected = pd.concat(parts, ignore_index=True)
    written = pd.read_csv(path, sep="\t", keep_default_na=False)
    pd.testing.assert_frame_equal(written, expected, rtol=1e-5)  # six digits
    assert (found is not None) == is_kept
    if is_kept:
        pd.testing.assert_frame_equal(found, expected)
