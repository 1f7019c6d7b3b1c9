from itertools import islice

import numpy as np
import pytest

from enformer_core.perceiver import MASKED, PADDING
from mlproject.data.coverage import CoverageSource
from mlproject.data.joint import (
    hide_coverage,
    hide_letters,
    join,
    letters_before,
    mpra_batches,
    placed,
    track_batches,
    turned,
)
from mlproject.errors import InputError
from toy_joint import MPRA_LEN, toy_joint, toy_split, toy_table, toy_windows, with_activity

PAIRS = str.maketrans("ACGTN", "TGCAN")


def written(row) -> str:
    """Letters of codes, `_` beyond the end and `?` where hidden."""
    return "".join("ACGTN?_"[code] for code in row)


def reversed_complement(letters: str) -> str:
    return letters.translate(PAIRS)[::-1]


@pytest.fixture
def data():
    return toy_joint()


def mpra_stream(data, start=0, **changes):
    chosen = {"augment": True, "seed": 5, "rows": data.mpra.rows("train"), "batch_size": 8} | changes
    return mpra_batches(data.mpra, chosen.pop("rows"), chosen.pop("batch_size"), start=start, **chosen)


def track_stream(data, start=0, **changes):
    chosen = {"augment": True, "seed": 5} | changes
    return track_batches(data.tracks, toy_windows(6), 4, start=start, **chosen)


@pytest.mark.parametrize("stream", [mpra_stream, track_stream])
def test_batches_are_a_function_of_seed_and_step(data, stream):
    whole = list(islice(stream(data), 14))
    for start in (1, 6, 13):  # in an epoch, at the border of one, and beyond it
        for expected, found in zip(whole[start:], stream(data, start), strict=False):
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
                assert found[name].dtype == value.dtype
    other = next(stream(data, seed=6))
    assert any(not np.array_equal(whole[0][name], other[name], equal_nan=True) for name in other)


@pytest.mark.parametrize("augment", [True, False])
def test_measurements_of_a_batch_are_those_of_the_table(data, augment):
    table = data.mpra.table
    rows = data.mpra.rows("train")
    known = {(int(table.sequence[row]), int(data.mpra.cell[row])): table.activity[row] for row in rows}
    strands, places, unknown, seen = set(), set(), [], []
    for batch in islice(mpra_stream(data, augment=augment), 2 * len(rows) // 8):
        shapes = {name: value.shape for name, value in batch.items()}
        assert shapes["letters"] == shapes["hidden_letters"] == (8, MPRA_LEN)
        for row in range(8):
            number, cell = int(batch["sequence"][row]), int(batch["cell"][row])
            seen.append((number, cell))
            activity = np.float32(known[number, cell])
            assert batch["activity"][row] == activity
            unknown.append(np.isnan(batch["known_activity"][row]))
            assert unknown[-1] or batch["known_activity"][row] == activity
            letters = table.sequences[number]
            for name in ("letters", "whole_letters"):
                shown = written(batch[name][row])
                strand = shown.strip("_")
                assert strand in (letters, reversed_complement(letters))
                if name == "letters":
                    strands.add(strand == letters)
                    places.add(shown.index(strand))
                else:
                    assert shown.startswith(strand)
            for whole, hidden in zip(batch["whole_letters"][row], batch["hidden_letters"][row], strict=True):
                assert hidden in (whole, MASKED) and (whole == PADDING) == (hidden == PADDING)
    assert sorted(seen) == sorted([*known] * 2)  # each once in an epoch
    assert 0 < np.mean(unknown) < 0.3
    assert (len(strands), len(places) > 3) == ((2, True) if augment else (1, False))


def test_placed_and_turned_show_the_same_sequence():
    data = toy_joint()
    for seed in range(20):
        moved = placed(data.mpra.codes, np.random.default_rng(seed))
        flipped = turned(data.mpra.codes, np.random.default_rng(seed))
        assert moved.dtype == flipped.dtype == np.uint8
        for letters, row, other in zip(data.mpra.table.sequences, moved, flipped, strict=True):
            both = {letters, reversed_complement(letters)}
            assert written(row).strip("_") in both and written(other).rstrip("_") in both


def test_hidden_letters():
    letters = np.repeat(toy_joint().mpra.codes, 40, axis=0)
    hidden = hide_letters(letters, np.random.default_rng(3))
    masked = hidden == MASKED
    assert masked.any(1).all() and not masked[letters == PADDING].any()
    np.testing.assert_array_equal(hidden[~masked], letters[~masked])
    tail = np.array([written(row).rstrip("_").rstrip("?").count("?") == 0 for row in hidden])
    assert 0.5 < tail.mean() < 1  # most as sequences are written, others anywhere
    first = masked.argmax(1)
    assert {*first[tail]} >= set(range(12)) and 0.2 < masked[letters < PADDING].mean() < 0.8


def test_letters_before_are_true_in_rows_that_are_written():
    rows = ["ACGTACG_____", "ACGTACG_____", "ACGTACG_____", "ACGTACGTACGT"]
    seen = ["ACG????_____", "?CGTACG_____", "A?G????_____", "????????????"]
    letters, hidden = (np.array([["ACGTN?_".index(one) for one in row] for row in of]) for of in (rows, seen))
    before = letters_before(letters, hidden)
    assert [written(row) for row in before] == [rows[0], seen[1], seen[2], rows[3]]


def test_hidden_coverage():
    coverage = np.random.default_rng(0).random((400, 64)).astype(np.float32)
    shown = hide_coverage(coverage, np.random.default_rng(1))
    hidden = np.isnan(shown)
    np.testing.assert_array_equal(shown[~hidden], coverage[~hidden])
    assert shown.dtype == np.float32 and 0.4 < hidden.all(1).mean() < 0.65
    edges = np.abs(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1)
    assert (edges == 2).all()  # one stretch
    assert hidden.sum(1).min() == 8 and hidden[:, 0].mean() < 0.9 and hidden[:, -1].mean() < 0.9


@pytest.mark.parametrize("augment", [True, False])
def test_windows_of_a_batch_are_shown_in_every_cell_type(data, augment):
    windows = toy_windows(6)
    pairs, flips = [], set()
    for batch in islice(track_stream(data, augment=augment), 6):
        for row, (window, cell) in enumerate(zip(batch["window"], batch["cell"], strict=True)):
            pairs.append((int(window), int(cell)))
            letters = written(windows.codes[window])
            truth = windows.log_coverage[window, list(data.tracks.cells).index(cell)].astype(np.float32)
            forward = written(batch["letters"][row]) == letters
            flips.add(forward)
            if not forward:
                assert written(batch["letters"][row]) == reversed_complement(letters)
            shown = batch["log_coverage"][row]
            np.testing.assert_array_equal(shown, truth if forward else truth[::-1])
            visible = batch["visible_coverage"][row]
            assert ((visible == shown) | np.isnan(visible)).all() and np.isnan(visible).any()
    assert sorted(pairs) == sorted([(window, cell) for window in range(6) for cell in (0, 1)] * 2)
    assert flips == ({True, False} if augment else {True})


def test_rows_are_of_a_subset_and_of_cell_types(data):
    split, table, cell = data.mpra.split, data.mpra.table, data.mpra.cell
    for subset in ("train", "valid", "test"):
        rows = data.mpra.rows(subset)
        assert [split.subset[table.sequence[row]] for row in rows] == [subset] * len(rows)
        without, only = data.mpra.rows(subset, without=(2,)), data.mpra.rows(subset, only=(2,))
        assert set(cell[without]) == {1} and set(cell[only]) == {2}
        assert sorted([*without, *only]) == rows.tolist()
    assert sum(len(data.mpra.rows(subset)) for subset in ("train", "valid", "test")) == len(table.sequence)


def test_a_sample_has_all_measurements_of_its_sequences(data):
    rows = data.mpra.rows("train")
    sequence = data.mpra.table.sequence
    drawn = {seed: data.mpra.sample(rows, 7, seed) for seed in range(4)}
    for found in drawn.values():
        assert len(np.unique(sequence[found])) == 7 and len(found) == 14 and set(found) <= set(rows)
    np.testing.assert_array_equal(drawn[1], data.mpra.sample(rows, 7, 1))
    assert len({tuple(found) for found in drawn.values()}) == 4
    for count in (0, 20, 999):
        np.testing.assert_array_equal(data.mpra.sample(rows, count, 0), rows)


def source(*names):
    return CoverageSource(names, "digest", (), {}, None, None, ())


def test_cell_types_have_one_numbering():
    joined = join(toy_table(), toy_split(), source("c", "x"), mpra_len=12, seq_len=16)
    assert joined.cell_types == ("c", "x", "b")
    named = [joined.cell_types[cell] for cell in joined.mpra.cell]
    assert named == [joined.mpra.table.cell_types[cell] for cell in joined.mpra.table.cell]
    assert joined.tracks.cells.tolist() == [0, 1] and joined.tracks.length == 16
    alone = join(toy_table(), toy_split(), None, mpra_len=12, seq_len=16)
    assert alone.cell_types == ("b", "c") and alone.tracks is None
    tracks = join(None, None, source("x"), mpra_len=12, seq_len=16)
    assert tracks.cell_types == ("x",) and tracks.mpra is None
    assert len({joined.digest, alone.digest, tracks.digest}) == 3
    with pytest.raises(
        InputError, match="no cell type in common: tracks have x, y, the MPRA table has b, c;"
    ):
        join(toy_table(), toy_split(), source("x", "y"), mpra_len=12, seq_len=16)


def test_the_digest_is_of_values_and_split(data):
    changed = with_activity(data, data.mpra.table.activity + 1)
    assert len({data.digest, changed.digest}) == 2 and toy_joint().digest == data.digest
