import itertools

import numpy as np
import pytest

from mlproject.data.construct_windows import (
    ConstructWindows,
    Fold,
    plan_folds,
    search_folds,
    shuffled_batches,
)
from mlproject.data.constructs import Construct, sample_offsets
from mlproject.errors import InputError
from toys import toy_constructs

LETTERS = {"A": [1, 0, 0, 0], "C": [0, 1, 0, 0], "G": [0, 0, 1, 0], "T": [0, 0, 0, 1], "N": [0, 0, 0, 0]}


def of_folds(*names):
    """A construct in each of these folds."""
    return [Construct(i, f"c{i}", "g", f"k{i}", name, 0.5, (), "ACGT") for i, name in enumerate(names)]


# --- folds --------------------------------------------------------------------------------------------------------


def test_a_dataset_that_is_split_once_is_one_training():
    expected = Fold("test", frozenset({"train"}), frozenset({"valid"}), frozenset({"test"}))
    assert plan_folds(of_folds("valid", "test", "train", "train", "test")) == [expected]
    assert plan_folds(of_folds("valid", "test", "train"), ["test"]) == [expected]


@pytest.mark.parametrize("count", [3, 5, 12])
def test_each_of_many_folds_is_held_out_once_and_validates_once(count):
    names = [str(number) for number in range(count)]
    folds = plan_folds(of_folds(*sorted(names), *names))
    assert [fold.name for fold in folds] == names  # 10 is after 9
    for fold, following in zip(folds, [*names[1:], names[0]], strict=True):
        assert fold.test == {fold.name} and fold.valid == {following}
        assert fold.train == set(names) - {fold.name, following} and fold.train


def test_chosen_folds_are_those_of_the_whole_study():
    constructs = of_folds(*"43210")
    first, _, third, _, _ = plan_folds(constructs)
    assert plan_folds(constructs, ("2", "0")) == [first, third]


@pytest.mark.parametrize(
    ("names", "held_out", "said"),
    [
        (
            ("train", "test"),
            (),
            "folds of the constructs are test, train; expected train, valid and test, or",
        ),
        (("train", "valid", "test", "0"), (), "folds of the constructs are 0, test, train, valid; expected"),
        (("0", "1"), (), "folds of the constructs are 0, 1; expected three or more, one to hold out"),
        ((), (), "folds of the constructs are none; expected three or more"),
        (("0", "1", "2"), ("1", "3"), "--folds: found '3'; it can be 0, 1, 2"),
        (("train", "valid", "test"), ("valid",), "--folds: found 'valid'; it can be test"),
    ],
)
def test_folds_that_cannot_be_are_refused(names, held_out, said):
    with pytest.raises(InputError) as caught:
        plan_folds(of_folds(*names), held_out)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "held_out"), [(3, "0"), (5, "2"), (5, "4"), (12, "10")])
def test_a_search_validates_on_each_fold_but_the_one_held_out(count, held_out):
    names = [str(number) for number in range(count)]
    folds = search_folds(of_folds(*sorted(names), *names), held_out)
    others = [name for name in names if name != held_out]
    assert [fold.name for fold in folds] == others
    for fold in folds:
        assert fold.valid == {fold.name} and fold.test == {held_out}
        assert fold.train == set(others) - {fold.name} and fold.train


def test_a_search_in_a_dataset_that_is_split_once_never_sees_its_test_set():
    (fold,) = search_folds(of_folds("valid", "test", "train"), "test")
    assert fold == Fold("valid", frozenset({"train"}), frozenset({"valid"}), frozenset({"test"}))


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windows():
    """100 bp windows on six constructs of 130 bp with N, of which two have the same letters and one repeats itself."""
    constructs = toy_constructs(6, 130 + 300)  # sites need 300 bp
    constructs = [c._replace(sequence=c.sequence[:60] + "NN" + c.sequence[60:128]) for c in constructs]
    constructs[3] = constructs[3]._replace(sequence=constructs[1].sequence)
    constructs[4] = constructs[4]._replace(sequence="ACGTN" * 26)
    return ConstructWindows(constructs, 100, samples=20, stride=1, seed=3)


def letters_of(windows, row):
    start = windows.offset[row]
    return windows.constructs[windows.construct[row]].sequence[start : start + 100]


def test_every_construct_has_its_drawn_places(windows):
    assert len(windows) == 6 * 20
    for position, construct in enumerate(windows.constructs):
        expected = sample_offsets(130, 100, samples=20, stride=1, seed=3, name=construct.name)
        np.testing.assert_array_equal(windows.offset[windows.construct == position], expected)


def test_places_do_not_depend_on_the_other_constructs(windows):
    alone = ConstructWindows(windows.constructs[4:1:-1], 100, samples=20, stride=1, seed=3)
    np.testing.assert_array_equal(alone.offset[:20], windows.offset[80:100])


def test_sequences_are_the_letters_of_the_construct(windows):
    rows = np.random.default_rng(0).permutation(len(windows))[:30]
    found = windows.sequences(rows)
    expected = [[LETTERS[letter] for letter in letters_of(windows, row)] for row in rows]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_targets_and_table_are_those_of_the_construct(windows):
    rows = [100, 0, 59, 0]
    chosen = [windows.constructs[row // 20] for row in rows]
    targets = windows.targets(rows)
    assert targets.dtype == np.float32 and targets.shape == (4, 1)
    np.testing.assert_array_equal(targets[:, 0], np.float32([c.activity for c in chosen]))
    table = windows.table(rows)
    assert list(table) == ["index", "name", "group", "cluster", "fold", "offset", "activity"]
    for row, (_, found), construct in zip(rows, table.iterrows(), chosen, strict=True):
        assert found["offset"] == windows.offset[row]
        for field in ("index", "name", "group", "cluster", "fold", "activity"):
            assert found[field] == getattr(construct, field)


def test_a_key_is_a_name_of_the_letters(windows):
    keys = windows.keys(range(len(windows)))
    letters = [letters_of(windows, row) for row in range(len(windows))]
    assert len(set(letters)) < len(set(zip(windows.construct, windows.offset, strict=True)))  # some are twice
    pairs = set(zip(keys, letters, strict=True))
    assert len(pairs) == len(set(keys)) == len(set(letters))
    assert windows.keys([7, 3, 7]) == [keys[7], keys[3], keys[7]]


def test_rows_of_folds(windows):
    folds = [construct.fold for construct in windows.constructs]
    assert folds == ["0", "0", "1", "1", "2", "2"]
    assert windows.in_folds({"1"}).tolist() == list(range(40, 80))
    assert windows.in_folds(frozenset({"0", "2"})).tolist() == [*range(40), *range(80, 120)]
    assert len(windows.in_folds({"other"})) == 0
    assert windows.describe(frozenset({"0", "2"})) == "4 constructs of the folds 0, 2"


# --- order --------------------------------------------------------------------------------------------------------

ROWS = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144, 233])


def batches(count, rows=ROWS, size=4, **arguments):
    return list(itertools.islice(shuffled_batches(rows, size, **{"seed": 7, **arguments}), count))


@pytest.mark.parametrize("size", [1, 4, 10, 23])
def test_every_pass_shows_each_row_once_and_in_another_order(size):
    drawn = np.concatenate(batches(60 // size + 1, size=size))
    passes = drawn[: len(drawn) // 10 * 10].reshape(-1, 10)
    assert len(passes) >= 6
    np.testing.assert_array_equal(np.sort(passes, 1), np.broadcast_to(ROWS, passes.shape))
    assert len(np.unique(passes, axis=0)) == len(passes)


@pytest.mark.parametrize("size", [4, 23])
def test_a_later_start_leaves_steps_out(size):
    whole = batches(12, size=size)
    for start in range(12):
        np.testing.assert_array_equal(batches(12 - start, size=size, start=start), whole[start:])


def test_another_seed_gives_another_order():
    assert np.array_equal(batches(3), batches(3)) and not np.array_equal(batches(3), batches(3, seed=8))
