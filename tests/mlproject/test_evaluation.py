import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats

from mlproject.evaluation import (
    Correlation,
    compare_predictors,
    construct_table,
    correlation,
    correlation_difference,
    evaluate,
    filled,
    mean_over_tracks,
    replicate_ceiling,
    within_folds,
)


def test_equals_numpy_over_all_windows():
    random = np.random.default_rng(0)
    sequences = random.normal(size=(7, 8, 4)).astype(np.float32)
    targets = random.normal(size=(7, 2, 3)).astype(np.float32)
    noise = random.normal(size=(4, 3)).astype(np.float32)

    def predict(batch):
        return tf.tensordot(batch["sequence"][:, 3:5], noise, 1)

    batches = [
        {"sequence": tf.constant(sequences[i : i + 3]), "target": tf.constant(targets[i : i + 3])}
        for i in (0, 3, 6)
    ]
    seen = []
    found = evaluate(predict, batches, 3, see=lambda *pair: seen.append(pair))
    for values, expected in zip(zip(*seen, strict=True), (targets, sequences[:, 3:5] @ noise), strict=True):
        np.testing.assert_allclose(np.concatenate(values), expected, rtol=1e-5, atol=1e-6)
    predictions = (sequences[:, 3:5] @ noise).reshape(-1, 3).astype(np.float64)
    flat = targets.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(
        found.pearson_r, [np.corrcoef(flat[:, t], predictions[:, t])[0, 1] for t in range(3)], rtol=1e-6
    )
    expected = 1 - ((flat - predictions) ** 2).sum(0) / ((flat - flat.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(found.r2, expected, rtol=1e-6)
    assert found.n == 14 and np.isnan(found.loss)

    def worst(target, prediction):  # a mean over windows
        return tf.reduce_mean(tf.reduce_max(tf.abs(target - prediction), [1, 2]))

    by_window = np.abs(targets - sequences[:, 3:5] @ noise).max((1, 2))
    found = evaluate(predict, batches, 3, worst)
    assert found.loss == pytest.approx(by_window.mean(), rel=1e-5)
    # every window counts once, though the last batch is smaller
    assert abs(np.mean([by_window[:3].mean(), by_window[3:6].mean(), by_window[6]]) / found.loss - 1) > 1e-3


def test_of_no_batch_at_all_everything_is_nan():
    found = evaluate(lambda batch: batch["target"], [], 2, lambda target, prediction: 1 / 0)
    assert np.isnan(found.pearson_r).all() and found.n == 0 and np.isnan(found.loss)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_fewer_rows_are_filled_up_with_zeros(rows):
    seen = []

    def predict(x):
        seen.append(x.numpy())
        return x * 2 + 1

    given = np.random.default_rng(0).normal(size=(rows, 3, 2)).astype(np.float32)
    found = filled(predict, 4)(tf.constant(given))
    np.testing.assert_array_equal(found, given * 2 + 1)
    np.testing.assert_array_equal(seen[0], np.concatenate([given, np.zeros((4 - rows, 3, 2), np.float32)]))


def test_the_mean_over_tracks_leaves_out_what_is_nan():
    assert mean_over_tracks(np.array([0.5, np.nan, 0.25])) == 0.375
    assert np.isnan(mean_over_tracks(np.array([np.nan, np.nan])))


# --- activities of constructs -------------------------------------------------------------------------------------


def related(clusters, size, noise=0.5, seed=0):
    """Measured and predicted values in clusters of one size, whose members are alike, and the names of these."""
    random = np.random.default_rng(seed)
    shared = np.repeat(random.normal(size=(2, clusters)) + random.normal(size=clusters), size, axis=1)
    values = shared + noise * random.normal(size=shared.shape)
    return *values, [f"k{n // size}" for n in range(clusters * size)]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(ties):
    measured, predicted, clusters = related(8, 5)
    if ties:
        measured, predicted = np.round(measured), np.round(predicted)
        assert len(set(measured)) < len(measured)
    found = correlation(measured, predicted, clusters)
    assert found.pearson == pytest.approx(stats.pearsonr(measured, predicted).statistic, rel=1e-12)
    assert found.spearman == pytest.approx(stats.spearmanr(measured, predicted).statistic, rel=1e-12)


@pytest.mark.parametrize(
    ("measured", "predicted"),
    [
        (np.arange(5.0), np.full(5, 0.3)),
        (np.full(5, 0.3), np.arange(5.0)),
        (np.arange(2.0), np.arange(2.0)),
        (np.arange(5.0), np.array([0, 1, np.nan, 2, 3])),
        (np.array([]), np.array([])),
    ],
)
def test_what_is_undefined_is_nan(measured, predicted):
    found = correlation(measured, predicted, [f"k{n}" for n in range(len(measured))])
    assert np.isnan(found).all()


def test_the_interval_is_that_of_a_bootstrap_over_clusters():
    """One that is written out here, with other draws: of 1000, the ends of an interval agree to about 0.02."""
    measured, predicted, clusters = related(30, 4)
    random = np.random.default_rng(5)
    drawn = {"pearson": [], "spearman": []}
    for _ in range(3000):
        names = random.choice(sorted(set(clusters)), 30)
        rows = [n for name in names for n in range(120) if clusters[n] == name]
        drawn["pearson"].append(stats.pearsonr(measured[rows], predicted[rows]).statistic)
        drawn["spearman"].append(stats.spearmanr(measured[rows], predicted[rows]).statistic)
    found = correlation(measured, predicted, clusters)._asdict()
    for kind, values in drawn.items():
        low, high = np.percentile(values, [2.5, 97.5])
        assert found[f"{kind}_low"] == pytest.approx(low, abs=0.03)
        assert found[f"{kind}_high"] == pytest.approx(high, abs=0.03)
        assert found[f"{kind}_low"] < found[kind] < found[f"{kind}_high"] and high - low > 0.1


def test_a_few_big_clusters_say_less_than_many_small_ones():
    measured, predicted, clusters = related(6, 20)
    together = correlation(measured, predicted, clusters)
    single = correlation(measured, predicted, [str(n) for n in range(120)])
    assert together.pearson == single.pearson
    for kind in ("pearson", "spearman"):
        wide, narrow = (getattr(of, f"{kind}_high") - getattr(of, f"{kind}_low") for of in (together, single))
        assert wide > 1.5 * narrow


@pytest.mark.parametrize("clusters", [1, 2, 5])
def test_there_is_no_interval_under_six_clusters(clusters):
    found = correlation(*related(clusters, 10))
    ends = [value for name, value in found._asdict().items() if name.endswith(("low", "high"))]
    assert len(ends) == 4 and np.isnan(ends).all()
    assert np.isfinite([found.pearson, found.spearman]).all()


def test_an_interval_is_the_same_again_and_whatever_clusters_are_called():
    measured, predicted, clusters = related(7, 3)
    found = correlation(measured, predicted, clusters)
    assert np.isfinite(found).all() and found == correlation(measured, predicted, clusters)
    assert found == correlation(measured, predicted, pd.Series(clusters, index=range(100, 121)))


WINDOWS = pd.DataFrame(
    [
        (7, "b", "g1", "k1", "0", 10, 0.5, 1.0, 3.0),
        (7, "b", "g1", "k1", "0", 20, 0.5, 4.0, 4.5),
        (2, "a", "g2", "k1", "1", 10, 0.1, 5.0, 1.0),
        (7, "b", "g1", "k1", "0", 30, 0.5, 1.0, 6.0),
    ],
    columns=["index", "name", "group", "cluster", "fold", "offset", "activity", "predicted", "peaksum"],
)


def test_a_construct_is_the_mean_over_its_windows():
    table = construct_table(WINDOWS, ["predicted", "peaksum"])
    assert list(table) == [
        *("index", "name", "group", "cluster", "fold", "activity"),
        *("windows", "predicted", "predicted_sd", "peaksum", "peaksum_sd"),
    ]
    first, second = table.to_dict("records")
    assert [first[name] for name in list(table)[:8]] == [7, "b", "g1", "k1", "0", 0.5, 3, 2.0]
    assert first["predicted_sd"] == pytest.approx(3**0.5) and first["peaksum"] == 4.5
    assert [second[name] for name in list(table)[:8]] == [2, "a", "g2", "k1", "1", 0.1, 1, 5.0]
    assert np.isnan(second["predicted_sd"])
    assert list(construct_table(WINDOWS))[-1] == "predicted_sd"


def test_windows_without_a_prediction_leave_their_construct_without_one():
    table = construct_table(WINDOWS.assign(predicted=np.nan))
    assert len(table) == 2 and table[["predicted", "predicted_sd"]].isna().all(axis=None)


def test_predictors_are_compared_on_the_same_constructs():
    measured, predicted, clusters = related(8, 3)
    table = pd.DataFrame({"activity": measured, "b": predicted, "a": -predicted, "cluster": clusters})
    table["fold"] = table["cluster"].str[-1].isin(list("0246")).astype(str)
    found = compare_predictors(table, ["b", "a"])
    assert list(found) == ["predictor", *Correlation._fields, "pearson_within", "constructs", "clusters"]
    for row, name in zip(found.itertuples(), ["b", "a"], strict=True):
        assert (row.predictor, row.constructs, row.clusters) == (name, 24, 8)
        expected = correlation(measured, table[name].to_numpy(), clusters)
        assert Correlation(*(getattr(row, field) for field in Correlation._fields)) == expected
    assert found["pearson"][0] == pytest.approx(-found["pearson"][1])
    assert found["pearson_low"][0] == pytest.approx(-found["pearson_high"][1])


def test_the_mean_of_the_other_folds_correlates_negatively_unless_it_is_taken_within_folds():
    measured, predicted, _ = related(8, 3)
    folds = np.repeat(["0", "1", "2", "3"], 6)
    guess = np.array([measured[folds != fold].mean() for fold in folds])
    assert correlation(measured, guess, folds).pearson < -0.2
    assert np.isnan(within_folds(measured, guess, folds))
    shifted = predicted + 5 * (folds == "2")
    assert within_folds(measured, shifted, folds) == pytest.approx(within_folds(measured, predicted, folds))
    centred = [values - [values[folds == fold].mean() for fold in folds] for values in (measured, predicted)]
    assert within_folds(measured, predicted, folds) == pytest.approx(stats.pearsonr(*centred).statistic)


@pytest.mark.parametrize(("noise", "replicates"), [(0.5, 3), (1.5, 2), (1.0, 5)])
def test_the_ceiling_is_what_the_truth_reaches(noise, replicates):
    """Replicates drawn about known truths, noisier in some: r of their means with the truth, in NumPy."""
    random = np.random.default_rng(0)
    truth = random.normal(3, 1, 40_000)
    sizes = noise * random.choice([0.5, 1.3], len(truth))
    drawn = truth[:, None] + sizes[:, None] * random.normal(size=(len(truth), replicates))
    spread, counts = drawn.std(1, ddof=1), np.full(len(truth), float(replicates))
    found = replicate_ceiling(drawn.mean(1), spread, counts)
    # r of 40,000 pairs has a standard error of at most 1 / sqrt(40,000) = 0.005; three of them
    assert found == pytest.approx(np.corrcoef(truth, drawn.mean(1))[0, 1], abs=0.015)
    standard_error = replicate_ceiling(drawn.mean(1), spread / replicates**0.5, np.full(len(truth), np.nan))
    assert standard_error == pytest.approx(found, rel=1e-12)


def test_a_ceiling_needs_spreads_and_is_never_below_zero():
    activity, unknown = np.arange(5.0), np.full(5, np.nan)
    assert np.isnan(replicate_ceiling(activity, unknown, np.full(5, 3.0)))
    assert np.isnan(replicate_ceiling(np.ones(5), np.ones(5), np.full(5, 3.0)))
    assert replicate_ceiling(activity, np.full(5, 9.0), np.full(5, 3.0)) == 0
    assert replicate_ceiling(activity, np.zeros(5), unknown) == 1
    # of the three that are known: variance 1, squared error 0.25 / 2
    some = np.where(np.arange(5) < 3, 0.5, np.nan)
    assert replicate_ceiling(activity, some, np.full(5, 2.0)) == pytest.approx((1 - 0.125) ** 0.5)


def test_the_interval_of_a_difference_is_scipys_paired_bootstrap():
    random = np.random.default_rng(5)
    measured = random.normal(size=80)
    first, second = (measured + noise * random.normal(size=80) for noise in (2.0, 1.0))

    def gain(m, a, b):
        return np.corrcoef(m, b)[0, 1] - np.corrcoef(m, a)[0, 1]

    rows = np.arange(80)
    value, low, high = correlation_difference(measured, first, second, rows, np.zeros(80))
    assert value == pytest.approx(gain(measured, first, second), abs=1e-12)
    expected = stats.bootstrap(
        (measured, first, second),
        gain,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    # both are of random draws: a thousand and two thousand
    np.testing.assert_allclose([low, high], expected, atol=0.03)
    # each row twice, drawn together, is the same evidence; and a level of its own in each group counts for nothing
    twice = np.tile(rows, 2)
    shift = np.repeat([0.0, 100.0], 80)
    found = correlation_difference(
        measured[twice] + shift, first[twice] - shift, second[twice] + 3 * shift, twice, shift
    )
    np.testing.assert_allclose(found, [value, low, high], atol=1e-9)


def test_few_clusters_and_what_does_not_vary_have_no_interval():
    random = np.random.default_rng(5)
    values = random.normal(size=(3, 40))
    value, low, high = correlation_difference(*values, np.arange(40) % 5, np.zeros(40))
    assert np.isfinite(value) and np.isnan([low, high]).all()
    flat = np.stack([values[0], np.ones(40), values[1]])
    assert np.isnan(correlation_difference(*flat, np.arange(40), np.zeros(40))).all()
