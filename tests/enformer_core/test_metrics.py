import numpy as np
import pytest
from scipy import stats

from enformer_core.metrics import TrackCorrelation


def pooled(target, prediction, sizes):
    correlation = TrackCorrelation(target.shape[-1])
    for start, stop in zip(np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False):
        correlation.update(target[start:stop], prediction[start:stop])
    return correlation


@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 5)])
def test_equals_scipy_over_everything_whatever_the_batches(sizes):
    random = np.random.default_rng(0)
    target = random.gamma(1, 3, (8, 20, 4)).astype(np.float32)
    prediction = (0.3 * target + random.gamma(1, 3, target.shape)).astype(np.float32)
    correlation = pooled(target, prediction, sizes)
    flat_target, flat_prediction = (a.reshape(-1, 4).astype(np.float64) for a in (target, prediction))
    expected = [stats.pearsonr(flat_target[:, t], flat_prediction[:, t]).statistic for t in range(4)]
    np.testing.assert_allclose(correlation.pearson_r(), expected, rtol=1e-12)
    residual = ((flat_target - flat_prediction) ** 2).sum(0)
    total = ((flat_target - flat_target.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(correlation.r2(), 1 - residual / total, rtol=1e-12)
    assert correlation.n == 160


def test_near_constant_predictions_keep_their_correlation():
    """One-pass float32 sums get this wrong in the first digit."""
    random = np.random.default_rng(1)
    target = random.normal(size=(50, 100, 1))
    prediction = (1000 + 1e-3 * (target + random.normal(size=target.shape))).astype(np.float32)
    r = pooled(target, prediction, (1,) * 50).pearson_r()[0]
    assert r == pytest.approx(
        np.corrcoef(target.ravel(), prediction.astype(np.float64).ravel())[0, 1], rel=1e-9
    )


def test_tracks_without_variance_are_nan():
    random = np.random.default_rng(2)
    target, prediction = random.normal(size=(2, 6, 10, 3)).astype(np.float32)
    target[..., 0] = 0.1
    prediction[..., 1] = 0.7
    correlation = pooled(target, prediction, (2, 4))
    assert np.isnan(correlation.pearson_r()).tolist() == [True, True, False]
    assert np.isnan(correlation.r2()).tolist() == [True, False, False]


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="must both be"):
        TrackCorrelation(3).update(np.zeros((2, 3)), np.zeros((3, 3)))
