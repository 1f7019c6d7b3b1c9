import numpy as np
import pytest

from mlproject.data.mpra_replicates import merge


def test_what_is_measured_in_parts_is_what_all_replicates_give():
    """Replicates of each sequence and cell, dealt out to rows: means and spreads of them all, in NumPy."""
    random = np.random.default_rng(0)
    rows, expected = [], {}
    for sequence in range(12):
        for cell in range(3):
            drawn = [
                random.normal(sequence, 1 + cell, size)
                for size in random.integers(2, 6, 1 + (sequence + cell) % 3)
            ]
            rows += [(sequence, cell, one.mean(), one.std(ddof=1), len(one)) for one in drawn]
            expected[sequence, cell] = np.concatenate(drawn)
    rows = [rows[n] for n in random.permutation(len(rows))]
    found, repeats = merge(*map(np.array, zip(*rows, strict=True)))
    assert list(zip(found.sequence, found.cell, strict=True)) == sorted(expected)
    whole = [expected[key] for key in sorted(expected)]
    np.testing.assert_allclose(found.activity, [one.mean() for one in whole], rtol=1e-12)
    np.testing.assert_allclose(found.spread, [one.std(ddof=1) for one in whole], rtol=1e-12)
    np.testing.assert_array_equal(found.replicates, [len(one) for one in whole])
    assert (repeats.rows, repeats.groups) == (len(rows) - 36, 24)


def one_group(activity, spread, replicates):
    n = len(activity)
    return merge(np.zeros(n, np.int64), np.zeros(n, np.int64), *map(np.array, (activity, spread, replicates)))


def test_rows_without_a_number_are_replicates_themselves():
    found, repeats = one_group([1.0, 2.0, 6.0], [np.nan] * 3, [np.nan] * 3)
    assert (found.activity[0], found.replicates[0]) == (3, 3)
    assert found.spread[0] == pytest.approx(np.std([1, 2, 6], ddof=1)) and repeats.rows == 2


def test_standard_errors_become_one():
    found, _ = one_group([1.0, 3.0], [0.3, 0.4], [np.nan, np.nan])
    assert found.activity[0] == 2 and np.isnan(found.replicates[0])
    assert found.spread[0] == pytest.approx(0.25)  # of a mean of two: hypot(0.3, 0.4) / 2


def test_one_measurement_is_left_as_it_is():
    found, repeats = one_group([1.5], [0.3], [np.nan])
    assert (found.activity[0], found.spread[0]) == (1.5, 0.3) and np.isnan(found.replicates[0])
    assert repeats == (0, 0, 0)
    unknown, _ = one_group([1.0, 2.0], [np.nan, 1.0], [3.0, 3.0])
    assert np.isnan(unknown.spread[0]) and unknown.replicates[0] == 6


@pytest.mark.parametrize(
    ("values", "spread", "replicates", "apart"),
    [([0, 2.9], 2.0, 4.0, False),  # the standard error of the difference is sqrt(2)
     ([0, 4.3], 2.0, 4.0, True), ([0, 4.2], 2.0, 4.0, False), ([0, 2, 4.3], 2.0, 4.0, True),
     ([1, 1], 0.0, 3.0, False), ([1, 1 + 1e-15], 0.0, 3.0, False), ([1, 1.1], 0.0, 3.0, True),
     ([0, 4.3], 1.0, np.nan, True), ([0, 4.2], 1.0, np.nan, False)],
)  # fmt: skip
def test_a_contradiction_is_three_standard_errors(values, spread, replicates, apart):
    n = len(values)
    _, repeats = one_group(np.array(values, float), [spread] * n, [replicates] * n)
    assert repeats.contradicted == apart and repeats.groups == 1


@pytest.mark.parametrize(("difference", "apart"), [(0.9, 0), (1.2, 1)])
def test_without_spread_a_contradiction_is_a_deviation_of_all(difference, apart):
    """Of a cell whose values have a deviation of about 1, beside one whose values are a hundred times that."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=1000), random.normal(size=1000) * 100, [0, difference]])
    values[:1000] /= values[:1000].std()
    sequence = np.concatenate([np.arange(2000), [2000, 2000]])
    cell = np.concatenate([np.zeros(1000), np.ones(1000), [0, 0]]).astype(np.int64)
    unknown = np.full(len(values), np.nan)
    _, repeats = merge(sequence, cell, values, unknown, unknown)
    assert repeats == (1, 1, apart)
