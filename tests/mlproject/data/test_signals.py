import struct

import numpy as np
import pandas as pd
import pybigtools
import pytest

from mlproject.data import signals
from mlproject.data.genome import Interval
from mlproject.data.signals import SignalReader, check_bigwigs, coarsen, pool
from mlproject.data.targets import SUM_STATS, read_targets
from mlproject.errors import InputError


@pytest.mark.parametrize("stat", SUM_STATS)
def test_pooling_against_numpy(stat):
    values = np.random.default_rng(0).gamma(1.0, 2.0, 20 * 8).astype(np.float32)
    how = getattr(np, stat.removesuffix("_sqrt"))
    expected = np.array([how(values[8 * i : 8 * i + 8].astype(np.float64)) for i in range(20)])
    if stat.endswith("_sqrt"):
        expected = np.sqrt(expected + 1) - 1
    np.testing.assert_allclose(pool(values, 8, stat), expected, rtol=1e-5)


def test_reading_against_pybigtools(toy):
    targets = read_targets(toy.targets)
    paths = [toy.folder / name for name in targets["file"]]
    reader = SignalReader(targets, paths)
    starts, length = [128, 640, 2048], 768
    found = reader.read("c1", starts, length, 128)
    expected = np.empty((3, 6, 3))
    for track, path in enumerate(paths):
        file = pybigtools.open(str(path))
        for row, start in enumerate(starts):
            values = np.asarray(file.values("c1", start, start + length, fillna=0.0), np.float64)
            bins = values.reshape(6, 128)
            expected[row, :, track] = [
                bins.sum(1),
                np.sqrt(1 + 0.5 * bins.mean(1)) - 1,
                np.sqrt(1 + 2 * bins.sum(1)) - 1,
            ][track]
        file.close()
    soft, clip = np.array([np.inf, 5, 10]), np.array([np.inf, 9, 11.5])
    with np.errstate(invalid="ignore"):
        expected = np.where(expected > soft, soft - 1 + np.sqrt(expected - soft + 1), expected)
    np.testing.assert_allclose(found, np.minimum(expected, clip), rtol=1e-3)  # float16 has 11 bits
    assert (expected > clip).any()
    covered = np.r_[128 : 640 + 768, 2048 : 2048 + 768]
    assert reader.missing.tolist() == [0, int(np.isnan(toy.signal["c1"][1][covered]).sum()), 0]


def test_blacklisted_positions_stay_within_the_median(toy):
    targets = read_targets(toy.targets)[:1]
    reader = SignalReader(targets, [toy.folder / "0.bw"])
    found = reader.read("c1", [0], 256, 128, [Interval("c1", 100, 300)])
    values = toy.signal["c1"][0, :256].copy()
    values[100:] = np.minimum(values[100:], np.median(values))
    np.testing.assert_allclose(found[0, :, 0], values.reshape(2, 128).sum(1), rtol=1e-3)


def test_values_beyond_float16_are_limited_and_counted(toy):
    targets = read_targets(toy.targets)[:1].assign(scale=1e4)
    reader = SignalReader(targets, [toy.folder / "0.bw"])
    assert reader.read("c1", [0], 256, 128).tolist() == [[[65504.0], [65504.0]]]
    assert reader.limited.tolist() == [2]


def test_scale_that_overflows_is_refused(toy):
    targets = read_targets(toy.targets)[:1].assign(scale=3e38)
    with pytest.raises(InputError, match=r"track one, bigWig .*0\.bw.*infinite"):
        SignalReader(targets, [toy.folder / "0.bw"]).read("c1", [0], 256, 128)


@pytest.mark.parametrize("stat", [s for s in SUM_STATS if not s.startswith("median")])
def test_coarsening_equals_binning_wider(stat):
    values = np.random.default_rng(1).gamma(1.0, 3.0, 512).astype(np.float32)
    targets = pd.DataFrame({"sum_stat": [stat], "clip_soft": [4.0], "clip": [1000.0]})

    def binned(width):
        y = pool(values, width, stat).astype(np.float64)
        return np.where(y > 4, 3 + np.sqrt(np.maximum(y - 3, 0)), y)[:, None]

    np.testing.assert_allclose(coarsen(binned(32), 4, targets), binned(128), rtol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stored_nan_or_inf_names_track_and_file(tmp_path, bad):
    import pyBigWig

    file = pyBigWig.open(str(tmp_path / "x.bw"), "w")
    file.addHeader([("c1", 1000)])
    file.addEntries(["c1"] * 3, [0, 10, 20], ends=[5, 15, 25], values=[1.0, float(bad), 2.0])
    file.close()
    with pytest.raises(InputError, match=r"x\.bw \(track x\): stores NaN or infinite values"):
        check_bigwigs([tmp_path / "x.bw"], ["track x"])


def test_damaged_bigwigs_are_refused_by_name(toy, tmp_path):
    whole = (toy.folder / "0.bw").read_bytes()
    (tmp_path / "text.bw").write_bytes(b"chr1 0 100 5\n" * 20)
    (tmp_path / "empty.bw").write_bytes(b"")
    (tmp_path / "cut.bw").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "zeroed.bw").write_bytes(whole[:8] + bytes(56) + whole[64:])
    for name in ("text", "empty", "cut", "zeroed", "absent"):
        with pytest.raises(InputError, match=rf"{name}\.bw") as caught:
            check_bigwigs([toy.folder / "1.bw", tmp_path / f"{name}.bw"], ["good", "bad"])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stat", SUM_STATS)
def test_windows_that_share_bins_are_as_if_read_alone(toy, stat):
    targets = read_targets(toy.targets).assign(sum_stat=stat)
    paths = [toy.folder / name for name in targets["file"]]
    blacklist = [Interval("c1", 1000, 1100)]
    for starts in ([0, 128, 256, 1024, 1792], [7, 135, 300, 1500]):  # on one grid of bins, and not
        together = SignalReader(targets, paths)
        for black in ((), blacklist):
            found = together.read("c1", starts, 768, 128, black)
            for row, start in enumerate(starts):
                alone = SignalReader(targets, paths).read("c1", [start], 768, 128, black)
                np.testing.assert_array_equal(found[row], alone[0])


def test_more_tracks_than_are_binned_at_once_are_as_one_by_one(toy, monkeypatch):
    targets = read_targets(toy.targets)
    paths = [toy.folder / name for name in targets["file"]]
    starts, length = [0, 384, 2048], 768
    whole = SignalReader(targets, paths)
    expected = whole.read("c1", starts, length, 128)
    monkeypatch.setattr(signals, "_TOGETHER", 2)
    parts = SignalReader(targets, paths)
    np.testing.assert_array_equal(parts.read("c1", starts, length, 128), expected)
    np.testing.assert_array_equal(parts.missing, whole.missing)
    np.testing.assert_array_equal(parts.limited, whole.limited)


def test_what_lies_between_windows_is_neither_counted_nor_refused(tmp_path, bigwig_writer):
    values = np.ones(2000)
    values[300:400] = 3e38  # times the scale: infinite
    values[400:450] = np.nan
    values[1500] = np.nan
    bigwig_writer(tmp_path / "x.bw", {"c1": 2000}, {"c1": values})
    (tmp_path / "targets.txt").write_text("identifier\tfile\tscale\tdescription\nx\tx.bw\t4\tx\n")
    targets = read_targets(tmp_path / "targets.txt")
    reader = SignalReader(targets, [tmp_path / "x.bw"])
    found = reader.read("c1", [0, 1024], 256, 128)
    assert found.tolist() == [[[512], [512]]] * 2
    assert reader.missing.tolist() == [0]
    with pytest.raises(InputError, match=r"track x, bigWig .*x\.bw: the target at c1:256 is NaN or infinite"):
        reader.read("c1", [0, 128, 1024], 256, 128)


def test_a_block_that_is_damaged_is_named(toy, tmp_path):
    whole = bytearray((toy.folder / "0.bw").read_bytes())
    (data_at,) = struct.unpack_from("<Q", whole, 16)
    whole[data_at + 100 : data_at + 200] = bytes(100)
    (tmp_path / "0.bw").write_bytes(whole)
    reader = SignalReader(read_targets(toy.targets)[:1], [tmp_path / "0.bw"])
    with pytest.raises(InputError, match=r"bigWig .*0\.bw: c1:0-256 cannot be read \(.+\)"):
        reader.read("c1", [0], 256, 128)
