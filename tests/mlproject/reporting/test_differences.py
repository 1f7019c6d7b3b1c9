"""Paired differences against SciPy, and against a bootstrap that draws one cluster after another."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlproject.reporting.differences import correlation_difference, paired_difference


def scores(seeds, tracks, gain=0.1, noise=0.01):
    random = np.random.default_rng(0)
    rows = [
        (seed, track, 0.5 + gain + random.normal(0, noise), 0.5) for seed in range(seeds) for track in range(tracks)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["seed", "track", "head", "baseline"])


def test_one_seed_has_the_interval_of_student_over_tracks():
    given = scores(1, 12)
    found = paired_difference(given, "head", "baseline")
    gain = given["head"] - given["baseline"]
    expected = stats.ttest_1samp(gain, 0).confidence_interval()
    np.testing.assert_allclose(found[:3], [gain.mean(), expected.low, expected.high])
    assert (found.seeds, found.tracks) == (1, 12)


def test_seeds_and_tracks_are_drawn_at_once():
    given = scores(5, 400)
    by_seed = given["seed"].map(
        {0: -0.02, 1: 0.02, 2: 0.0, 3: 0.01, 4: -0.01}
    )  # seeds differ: tracks hardly matter
    found = paired_difference(given.assign(head=given["head"] + by_seed), "head", "baseline")
    of_seeds = (given["head"] + by_seed - given["baseline"]).groupby(given["seed"]).mean()
    expected = stats.ttest_1samp(of_seeds, 0).confidence_interval()
    np.testing.assert_allclose(found.value, of_seeds.mean())
    np.testing.assert_allclose(
        found.high - found.value, expected.high - of_seeds.mean(), rtol=0.08
    )  # of 2,000 draws


def test_what_is_undefined_is_left_out():
    given = scores(2, 4)
    given.loc[(given["track"] == 1) & (given["seed"] == 0), "head"] = np.nan
    assert paired_difference(given, "head", "baseline").tracks == 3
    nothing = paired_difference(given.assign(head=np.nan), "head", "baseline")
    assert np.isnan(nothing.value) and nothing.tracks == 0
    one = paired_difference(scores(1, 1), "head", "baseline")
    assert np.isfinite(one.value) and np.isnan(one.low)


def test_a_difference_of_correlations_is_of_whole_clusters():
    random = np.random.default_rng(1)
    measured = random.normal(size=60)
    first, second = measured + random.normal(0, 0.5, 60), measured + random.normal(0, 2.0, 60)
    clusters = np.repeat([f"c{number}" for number in range(20)], 3)
    found = correlation_difference(measured, first, second, clusters)
    r = [np.corrcoef(measured, one)[0, 1] for one in (first, second)]
    np.testing.assert_allclose(found.value, r[0] - r[1])
    drawn = []
    for _ in range(3000):
        rows = np.concatenate(
            [np.flatnonzero(clusters == name) for name in random.choice(np.unique(clusters), 20)]
        )
        drawn.append(
            np.corrcoef(measured[rows], first[rows])[0, 1] - np.corrcoef(measured[rows], second[rows])[0, 1]
        )
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.03
    )  # two bootstraps


@pytest.mark.parametrize(("clusters", "known"), [(5, False), (6, True)])
def test_few_clusters_have_no_interval(clusters, known):
    random = np.random.default_rng(0)
    measured, first, second = random.normal(size=(3, 4 * clusters))
    found = correlation_difference(measured, first, second, np.arange(4 * clusters) % clusters)
    assert np.isfinite(found.value) and np.isfinite(found.low) == known


def test_a_prediction_that_does_not_vary_has_no_correlation():
    measured = np.arange(12.0)
    assert np.isnan(correlation_difference(measured, np.ones(12), measured, np.arange(12)).value)
