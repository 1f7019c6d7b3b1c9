import itertools
import shutil
import threading

import numpy as np
import pytest

from mlproject.data import batches
from mlproject.data.batches import (
    evaluation_batches,
    other_strand,
    training_batches,
    training_rows,
    windows_in_order,
)
from mlproject.data.records import Example, open_dataset, read_shard, write_shard
from mlproject.data.signals import coarsen
from mlproject.data.targets import strand_order
from mlproject.errors import InputError


@pytest.fixture(params=["memory", "disk"])
def source(request, monkeypatch):
    """Both ways data reach the batches: kept in memory, and shuffled from disk."""
    monkeypatch.setattr(batches, "_decoded", {})
    if request.param == "disk":
        monkeypatch.setattr(batches, "MEMORY_BUDGET", 0)
        monkeypatch.setattr(batches, "_OPEN_SHARDS", 2)
    return request.param


@pytest.fixture(params=["manifest", "published"])
def dataset(request, toy_dataset, tmp_path):
    shutil.copytree(toy_dataset.path, tmp_path / "data" / "toy")
    if request.param == "published":
        (tmp_path / "data" / "toy" / "manifest.json").unlink()
    return open_dataset(tmp_path / "data", "toy")


def stored(dataset, subset):
    return [e for shard in dataset.shards(subset) for e in read_shard(shard, dataset.statistics)]


def one_hot(codes):
    return np.stack([codes == base for base in range(4)], axis=-1).astype(np.float32)


def take(dataset, count, tmp_path, **options):
    stream = training_batches(dataset, work_dir=tmp_path / "work", **options)
    return [(b["sequence"].numpy(), b["target"].numpy()) for b in itertools.islice(stream, count)]


def equal(one, other):
    assert len(one) == len(other)
    for (s, t), (u, v) in zip(one, other, strict=True):
        np.testing.assert_array_equal(s, u)
        np.testing.assert_array_equal(t, v)


def test_every_pass_is_another_order_of_the_same_windows(dataset, source, tmp_path):
    expected = sorted(one_hot(e.sequence).tobytes() for e in stored(dataset, "train"))
    passes = take(dataset, 3, tmp_path, batch_size=10, seed=5)
    for sequence, target in passes:
        assert sequence.shape == (10, 1024, 4) and sequence.dtype == np.float32
        assert target.shape == (10, 6, 3) and target.dtype == np.float32
        assert sorted(row.tobytes() for row in sequence) == expected
    assert len({sequence.tobytes() for sequence, _ in passes}) == 3


def test_a_sequence_keeps_its_own_target(dataset, source, tmp_path):
    known = {one_hot(e.sequence).tobytes(): e.target.astype(np.float32) for e in stored(dataset, "train")}
    for sequence, target in take(dataset, 4, tmp_path, batch_size=3, seed=1):
        for row, values in zip(sequence, target, strict=True):
            np.testing.assert_array_equal(values, known[row.tobytes()])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 25])
def test_a_resumed_stream_is_the_stream(dataset, source, tmp_path, batch_size):
    options = {"batch_size": batch_size, "seed": 2, "reverse_complement": True, "max_shift": 3}
    whole = take(dataset, 12, tmp_path, **options)
    for start in (1, 3, 4, 9, 10):
        equal(take(dataset, 2, tmp_path, start=start, **options), whole[start : start + 2])


def test_batch_size_does_not_change_the_order(dataset, source, tmp_path):
    ones = take(dataset, 24, tmp_path, batch_size=1, seed=3, max_shift=2)
    fours = take(dataset, 6, tmp_path, batch_size=4, seed=3, max_shift=2)
    np.testing.assert_array_equal(np.concatenate([s for s, _ in ones]), np.concatenate([s for s, _ in fours]))


def test_seeds_give_other_orders(dataset, source, tmp_path):
    one, other = (take(dataset, 1, tmp_path, batch_size=10, seed=seed) for seed in (0, 1))
    assert one[0][0].tobytes() != other[0][0].tobytes()
    equal(one, take(dataset, 1, tmp_path, batch_size=10, seed=0))


def test_reverse_complement_turns_sequence_bins_and_strands(toy_dataset, source, tmp_path):
    plain = take(toy_dataset, 4, tmp_path, batch_size=10, seed=4)
    turned = take(toy_dataset, 4, tmp_path, batch_size=10, seed=4, reverse_complement=True)
    flips = 0
    for (s, t), (u, v) in zip(plain, turned, strict=True):
        for row in range(10):
            if u[row].tobytes() == s[row].tobytes():
                np.testing.assert_array_equal(v[row], t[row])
            else:
                flips += 1
                np.testing.assert_array_equal(u[row], s[row][::-1, ::-1])
                np.testing.assert_array_equal(v[row], t[row][::-1, [0, 2, 1]])
    assert 8 < flips < 32


def test_shift_moves_the_sequence_and_fills_with_n(toy_dataset, source, tmp_path):
    plain = take(toy_dataset, 4, tmp_path, batch_size=10, seed=4)
    moved = take(toy_dataset, 4, tmp_path, batch_size=10, seed=4, max_shift=2)
    seen = set()
    for (s, t), (u, v) in zip(plain, moved, strict=True):
        np.testing.assert_array_equal(t, v)
        for row in range(10):
            padded = np.pad(s[row], ((2, 2), (0, 0)))
            fits = [k for k in range(-2, 3) if (padded[2 - k : 1026 - k] == u[row]).all()]
            # what falls off one end must be gone, so compare within the window only
            assert len(fits) == 1
            seen.add(fits[0])
    assert seen == {-2, -1, 0, 1, 2}


def test_evaluation_gives_each_window_once_in_order(dataset, source):
    expected = stored(dataset, "valid")
    for batch_size in (1, 4, 6, 8):
        finite = evaluation_batches(dataset, "valid", batch_size=batch_size)
        for _ in range(2):
            got = list(finite)
            assert len(got) == len(finite) == -(-6 // batch_size)
            np.testing.assert_array_equal(
                np.concatenate([b["sequence"] for b in got]),
                np.stack([one_hot(e.sequence) for e in expected]),
            )
            np.testing.assert_array_equal(
                np.concatenate([b["target"] for b in got]),
                np.stack([e.target for e in expected]).astype(np.float32),
            )
    limited = evaluation_batches(dataset, "valid", batch_size=4, limit=1)
    assert [len(b["target"]) for b in limited] == [4]
    assert [len(b["target"]) for b in evaluation_batches(dataset, "valid", batch_size=4, limit=9)] == [4, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_stored_nan_names_shard_and_track(dataset, source, tmp_path, bad):
    shard = dataset.shards("train")[1]
    examples = [Example(e.sequence, e.target.copy()) for e in read_shard(shard, dataset.statistics)]
    examples[1].target[2, 1] = bad
    write_shard(shard, examples)
    if dataset.manifest:
        dataset.manifest[shard.name]["bytes"] = shard.stat().st_size
    with pytest.raises(InputError, match=r"train-1\.tfr: .* track 1 \(NA, CAGE:two \+\) is NaN or infinite"):
        take(dataset, 10, tmp_path, batch_size=1, seed=0)


def test_damage_comes_after_the_batches_before_it(dataset, monkeypatch):
    monkeypatch.setattr(batches, "MEMORY_BUDGET", 0)
    evaluation = evaluation_batches(dataset, "train", batch_size=2)
    shard = dataset.shards("train")[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    stream = iter(evaluation)
    assert [len(next(stream)["target"]) for _ in range(2)] == [2, 2]
    with pytest.raises(InputError, match=r"train-1\.tfr: is truncated or corrupt"):
        list(stream)
    assert list(stream) == []


@pytest.mark.parametrize("seen", [0, 1, 7])
@pytest.mark.parametrize("end", ["close", "forget", "evaluation"])
def test_a_stream_left_early_leaves_no_thread(toy_dataset, tmp_path, monkeypatch, seen, end):
    monkeypatch.setattr(batches, "MEMORY_BUDGET", 0)
    before = set(threading.enumerate())
    if end == "evaluation":
        stream = iter(evaluation_batches(toy_dataset, "train", batch_size=1))
    else:
        stream = training_batches(toy_dataset, batch_size=1, seed=0, work_dir=tmp_path / "work")
    assert len(list(itertools.islice(stream, seen))) == seen
    if end == "forget":
        del stream
    else:
        stream.close()
    assert set(threading.enumerate()) <= before


def test_the_next_batch_is_made_while_one_is_in_use(toy_dataset, tmp_path, monkeypatch):
    second = threading.Event()

    def batched(examples, batch_size):
        yield "first"
        second.set()
        yield "second"

    monkeypatch.setattr(batches, "MEMORY_BUDGET", 0)
    monkeypatch.setattr(batches, "_batched", batched)
    stream = training_batches(toy_dataset, batch_size=1, seed=0, work_dir=tmp_path / "work")
    assert next(stream) == "first"
    assert second.wait(timeout=30)
    assert list(stream) == ["second"]


def test_a_missing_window_is_noticed(dataset, source, tmp_path):
    shard = dataset.shards("train")[0]
    write_shard(shard, list(read_shard(shard, dataset.statistics))[:-1])
    with pytest.raises(InputError, match=r"9 windows, .* is missing, cut|truncated or corrupt|fewer than"):
        take(dataset, 10, tmp_path, batch_size=1, seed=0)


def test_bad_numbers_are_refused(toy_dataset):
    for options in ({"batch_size": 0}, {"batch_size": 1, "start": -1}, {"batch_size": 1, "max_shift": -1}):
        with pytest.raises(InputError, match="expected at least"):
            training_batches(toy_dataset, seed=0, **options)
    with pytest.raises(InputError, match="limit 0"):
        evaluation_batches(toy_dataset, "valid", batch_size=1, limit=0)
    with pytest.raises(InputError, match="subset 'dev' is unknown"):
        evaluation_batches(toy_dataset, "dev", batch_size=1)


def test_windows_in_order_are_those_of_the_files(dataset, source):
    for subset, count in (("train", 10), ("valid", 6), ("test", 4)):
        found, expected = list(windows_in_order(dataset, subset)), stored(dataset, subset)
        assert len(found) == len(expected) == count
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.sequence, other.sequence)
            np.testing.assert_array_equal(one.target, other.target)


def test_the_other_strand_is_complemented_and_turned_with_its_tracks():
    codes = np.array([0, 1, 2, 3, 4, 0], np.uint8)  # ACGTNA
    target = np.array([[1, 2, 3], [4, 5, 6]], np.float16)
    found = other_strand(Example(codes, target), np.array([0, 2, 1]))
    assert found.sequence.tolist() == [3, 4, 0, 1, 2, 3]  # TNACGT
    assert found.target.tolist() == [[4, 6, 5], [1, 3, 2]]
    again = other_strand(found, np.array([0, 2, 1]))
    np.testing.assert_array_equal(again.sequence, codes)
    np.testing.assert_array_equal(again.target, target)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 25])
@pytest.mark.parametrize("reverse_complement", [False, True])
def test_rows_are_the_windows_and_strands_of_the_batches(
    toy_dataset, tmp_path, batch_size, reverse_complement
):
    windows, swap = stored(toy_dataset, "train"), strand_order(toy_dataset.targets)
    options = {"batch_size": batch_size, "seed": 6, "reverse_complement": reverse_complement}
    for start in (0, 1, 5):
        rows = itertools.islice(training_rows(10, start=start, **options), 9)
        expected, flips = take(toy_dataset, 9, tmp_path, start=start, **options), 0
        for (sequence, target), (row, flipped) in zip(expected, rows, strict=True):
            assert len(row) == len(flipped) == batch_size
            flips += flipped.sum()
            found = [windows[i] for i in row]
            found = [other_strand(e, swap) if f else e for e, f in zip(found, flipped, strict=True)]
            np.testing.assert_array_equal([one_hot(e.sequence) for e in found], sequence)
            np.testing.assert_array_equal([e.target.astype(np.float32) for e in found], target)
        share = flips / (9 * batch_size)
        assert share == 0 if not reverse_complement else batch_size < 10 or 0.3 < share < 0.7


def test_human_records_pooled_to_128(baskerville, source):
    dataset = open_dataset(baskerville, "hg38")
    found = list(evaluation_batches(dataset, "test", batch_size=4))
    assert sum(len(b["sequence"]) for b in found) == 10
    assert found[0]["sequence"].shape == (4, 131_072, 4)
    expected = stored(dataset, "test")[0]
    target = found[0]["target"].numpy()[0]
    assert target.shape == (512, 74)
    dnase = expected.target[:, 24].astype(np.float32)  # a mean, not clipped: the mean of four
    assert dnase.max() < 32
    np.testing.assert_allclose(target[:, 24], dnase.reshape(512, 4).mean(1), rtol=1e-5, atol=1e-6)
    cage = expected.target[:, 0].astype(np.float64)  # sum_sqrt below clip_soft
    assert cage.max() < 64
    summed = np.sqrt(((cage + 1) ** 2 - 1).reshape(512, 4).sum(1) + 1) - 1
    np.testing.assert_allclose(target[:, 0], summed, rtol=1e-4, atol=1e-5)
    assert (coarsen(expected.target, 1, dataset.targets) == expected.target).all()
