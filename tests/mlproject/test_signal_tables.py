"""Which windows and tracks are kept, where they are, and that the numbers are those that were predicted."""

import numpy as np
import pandas as pd
import pytest

from enformer_core.dna import codes
from mlproject import signal_tables
from mlproject.data.batches import windows_in_order
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import Stretch
from mlproject.data.regions import Span
from mlproject.errors import InputError
from mlproject.signal_tables import SignalSample, Window, choose, predicted_table, signal_table, windows_of
from toys import toy_tracks

RANDOM = np.random.default_rng(0)


def frame(table):
    return table.to_pandas()


def test_as_many_windows_as_there_is_room_for():
    categories = ["DNASE", "CAGE", "CHIP"]
    assert choose([10] * 100, categories).windows == np.floor(np.linspace(0, 99, 16)).tolist()
    for most, windows in (
        (3 * 10 * 4, [0, 1, 3, 5]),
        (3 * 10 * 4 - 1, [0, 2, 5]),
        (30, [0]),
        (10**6, range(6)),
    ):
        chosen = choose([10] * 6, categories, most)
        assert chosen == (list(windows), [0, 1, 2], 10)


def test_of_windows_of_other_lengths_their_sum_counts():
    assert choose([5, 100, 7], ["DNASE"], 112).windows == [0, 1, 2]
    assert choose([5, 100, 7], ["DNASE"], 111).windows == [0, 2]


@pytest.mark.parametrize("most", [40, 50, 77, 100, 390])
def test_where_one_window_is_too_much_tracks_of_each_category_are_kept(most):
    categories = ["CHIP"] * 30 + ["CAGE"] * 8 + ["ATAC"] + ["DNASE"]
    chosen = choose([10, 10], categories, most)
    kept = [categories[track] for track in chosen.tracks]
    assert chosen.windows == [0] and chosen.most_bins * len(kept) <= most
    assert set(kept) == set(categories) and chosen.tracks == sorted(set(chosen.tracks))
    assert len(kept) <= max(4, most // 10)
    if most == 390:  # all but a few
        assert len(kept) >= 37 and kept.count("CHIP") > 3 * kept.count("CAGE")
    assert chosen.most_bins == (10 if most == 40 else most // len(kept))


def test_tracks_are_evenly_spaced_and_of_a_window_too_long_the_first_bins_are_kept():
    assert choose([10], ["CHIP"] * 9, 50) == ([0], [0, 2, 4, 6, 8], 10)
    assert choose([1000], ["CHIP", "CAGE"] * 5, 50) == ([0], [0, 1], 25)


def test_the_published_sizes():
    categories = ["DNASE"] * 674 + ["ATAC"] * 10 + ["CHIP"] * 3991 + ["CAGE"] * 638
    assert choose([896] * 1937, categories) == ([0], list(range(5313)), 896)
    assert choose([896] * 2017, ["CHIP"] * 1643).windows == [0, 1008, 2016]


@pytest.mark.parametrize("stretch", ["window", "bins", "unknown"])
def test_windows_are_where_their_bins_are(tmp_path, stretch):
    """Whether sequences.bed has whole windows, as the published data, or their bins, as newer ones, or nothing."""
    dataset = toy_tracks(tmp_path)
    path = dataset.path / "sequences.bed"
    if stretch == "unknown":
        path.unlink()
    if stretch == "bins":
        fields = [line.split("\t") for line in path.read_text().splitlines()]
        path.write_text("".join(f"{c}\t{int(s) + 128}\t{int(e) - 128}\t{w}\n" for c, s, e, w in fields))
    expected = [("cvalid", 3000 * number + 128, 14) for number in range(5)]
    if stretch == "unknown":
        expected = [(f"valid window {number}", 0, 14) for number in range(5)]
    assert windows_of(dataset, "valid") == expected
    if stretch == "window":
        path.write_text(path.read_text().replace("valid", "test"))
        with pytest.raises(InputError, match=r"sequences\.bed"):
            windows_of(dataset, "valid")


@pytest.mark.parametrize(
    ("windows", "most", "kept", "tracks"),
    [(99, 10**6, [0, 1, 2, 3, 4], [0, 1, 2]), (4, 3 * 14 * 2, [0, 3], [0, 1, 2]), (5, 28, [0], [0, 1])],
)
def test_what_is_kept_is_what_was_evaluated(tmp_path, windows, most, kept, tracks):
    dataset = toy_tracks(tmp_path)
    measured = np.stack([window.target for window in windows_in_order(dataset, "valid")]).astype(np.float32)
    predicted = RANDOM.random(measured.shape, np.float32)
    sample = SignalSample(dataset, "valid", windows, most)
    for low in (0, 2, 4):  # the last batch is smaller
        high = min(low + 2, windows)
        if low < high:
            sample.see(measured[low:high], predicted[low:high])
    found = frame(sample.table())
    assert len(found) == len(kept) * len(tracks)
    for row, (track, window) in enumerate([(track, window) for track in tracks for window in kept]):
        one = found.loc[row]
        assert (one["identifier"], one["index"]) == (f"outcome_{track}", track)
        assert one["description"] == ["DNASE:a", "CAGE:b +", "CAGE:b -"][track]
        start = 3000 * window + 128
        assert (one["chrom"], one["start"], one["end"]) == ("cvalid", start, start + 14 * 128)
        assert one["bin_size"] == 128 and one["sd"] is None
        np.testing.assert_array_equal(one["predicted"], predicted[window, :, track])
        np.testing.assert_array_equal(one["measured"], measured[window, :, track])
        assert one["predicted"].dtype == one["measured"].dtype == np.float32


def test_an_evaluation_that_saw_nothing_is_a_table_without_rows(tmp_path):
    assert SignalSample(toy_tracks(tmp_path), "valid", 5).table().num_rows == 0


def test_rows_are_sorted_by_index_and_nan_stays(tmp_path):
    tracks = pd.DataFrame({"identifier": ["b", "a", "c"], "index": [7, 3, 7], "description": ["x"] * 3})
    windows = [Window("chr2", 256, 2), Window("chr1", 0, 1)]
    predicted = [np.array([[1, 2, 3], [4, 5, np.nan]]), np.array([[6, 7, 8]])]
    found = frame(signal_table(tracks, windows, predicted, sd=[part * 2 for part in predicted]))
    assert found["identifier"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert found["chrom"].tolist() == ["chr2", "chr1"] * 3 and found["end"].tolist() == [512, 128] * 3
    expected = [[2, 5], [7], [1, 4], [6], [3, np.nan], [8]]
    for row, values in enumerate(expected):
        np.testing.assert_array_equal(found["predicted"][row], values)
        np.testing.assert_array_equal(found["sd"][row], np.multiply(values, 2))
    assert found["measured"].isna().all()


TRACKS = [Track(0, 12, "open", "DNASE:x", 0), Track(2, 4, "plus", "CAGE:x", 2)]
STRETCHES = [Stretch("chr1", 128, 1152, 0), Stretch("chr2", 0, 500, 8)]


@pytest.mark.parametrize("variance", [False, True])
def test_a_prediction_is_kept_by_region(variance):
    """Of regions that overlap each has its own bins; the same span twice is kept once; a start below 0 is cut."""
    values = RANDOM.random((12, 2), np.float32)
    spans = [
        Span("chr2", -128, 512),
        Span("chr1", 128, 640),
        Span("chr2", -128, 512),
        Span("chr1", 384, 1152),
    ]
    found = frame(predicted_table(spans, STRETCHES, TRACKS, values, values**2 if variance else None))
    assert (
        found["identifier"].tolist() == ["plus"] * 3 + ["open"] * 3
        and found["index"].tolist() == [4] * 3 + [12] * 3
    )
    places = [("chr2", 0, slice(8, 12)), ("chr1", 128, slice(0, 4)), ("chr1", 384, slice(2, 8))] * 2
    for row, (chrom, start, rows) in enumerate(places):
        column = 1 - row // 3
        one = found.loc[row]
        end = start + 128 * (rows.stop - rows.start)
        assert (one["chrom"], one["start"], one["end"]) == (chrom, start, end)
        np.testing.assert_array_equal(one["predicted"], values[rows, column])
        assert one["measured"] is None
        if variance:
            np.testing.assert_allclose(one["sd"], values[rows, column], rtol=1e-6)
        else:
            assert one["sd"] is None


def test_a_prediction_of_more_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(signal_tables, "MOST_NUMBERS", 5)
    values = np.arange(24, dtype=np.float32).reshape(12, 2)
    found = frame(predicted_table([Span("chr1", 128, 1152)], STRETCHES, TRACKS, values, None))
    assert [part.tolist() for part in found["predicted"]] == [[1, 3], [0, 2]]
    assert found["end"].tolist() == [384, 384]


@pytest.mark.parametrize(("head", "name"), [("human", "human"), ("a/../b c", "a_.._b_c"), ("ä", "_")])
def test_names_are_those_of_files(head, name):
    assert signal_tables.table_name(head) == f"signals_{name}"


def test_the_sequence_of_the_first_window_is_kept_in_letters(tmp_path):
    dataset = toy_tracks(tmp_path)
    sample = SignalSample(dataset, "valid", 5)
    row = frame(sample.sequence_table()).loc[0]
    stored = next(iter(windows_in_order(dataset, "valid"))).sequence
    np.testing.assert_array_equal(codes(row["sequence"]), stored)
    assert (row["chrom"], row["start"]) == windows_of(dataset, "valid")[0][:2]
