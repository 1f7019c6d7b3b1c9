import numpy as np
import pytest
from scipy import stats

from enformer_core.losses import poisson, poisson_multinomial, squared_error


@pytest.fixture
def signal():
    """Counts and rates `[2, 6, 3]`, with bins without counts and a track without any."""
    random = np.random.default_rng(0)
    target = random.poisson(2.0, (2, 6, 3)).astype(np.float32)
    target[1, :, 2] = 0
    assert (target == 0).sum() > 8
    return target, random.gamma(2.0, 1.0, (2, 6, 3)).astype(np.float32)


def test_poisson_is_the_negative_log_likelihood_without_its_constant():
    target = np.array([0.0, 1.0, 3.5], np.float32)
    prediction = np.array([0.2, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(
        poisson(target, prediction), prediction - target * np.log(prediction), rtol=1e-5, atol=1e-6
    )


def test_poisson_of_a_prediction_of_zero_is_finite():
    assert np.isfinite(poisson(np.float32(3), np.float32(0)))


def test_squared_error():
    found = squared_error(np.array([0.0, 2.0], np.float32), np.array([0.5, -1.0], np.float32))
    np.testing.assert_array_equal(found, [0.25, 9.0])


def test_poisson_multinomial_is_the_likelihood_of_totals_and_of_places(signal):
    """Against SciPy's distributions, whose constants depend on the counts alone."""
    target, prediction = signal
    found = poisson_multinomial(target, prediction, 0.3)
    assert found.shape == (2, 3)
    for window in range(2):
        for track in range(3):
            counts, rates = target[window, :, track], prediction[window, :, track].astype(np.float64)
            total, rate = counts.sum(), rates.sum()
            height = stats.poisson.logpmf(total, 1.0) - stats.poisson.logpmf(total, rate) + 1
            even = np.full(6, 1 / 6)
            shape = -stats.multinomial.logpmf(counts, int(total), rates / rate)
            shape += stats.multinomial.logpmf(counts, int(total), even) + total * np.log(6)
            assert float(found[window, track]) == pytest.approx(
                (shape + 0.3 * height) / 6, rel=1e-4, abs=1e-5
            )


def test_with_the_whole_weight_of_totals_it_adds_up_to_poisson(signal):
    target, prediction = signal
    found = poisson_multinomial(target, prediction, 1.0)
    np.testing.assert_allclose(found, poisson(target, prediction).numpy().mean(1), rtol=1e-5, atol=1e-6)


def test_without_a_weight_of_totals_the_height_does_not_count(signal):
    target, prediction = signal
    height = np.array([0.5, 3, 7], np.float32)
    found = [poisson_multinomial(target, p, 0.0) for p in (prediction, prediction * height)]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    weighted = [poisson_multinomial(target, p, 0.2).numpy() for p in (prediction, prediction * height)]
    assert (np.abs(weighted[0] - weighted[1]) > 1e-2).all()
    other = poisson_multinomial(target, prediction[:, ::-1], 0.0)
    assert (np.abs(other - found[0])[:, :2] > 1e-3).all()  # but the place does


def test_poisson_multinomial_is_least_where_the_prediction_is_the_target(signal):
    target, prediction = signal
    least = poisson_multinomial(target, target, 0.2).numpy()
    assert (poisson_multinomial(target, prediction, 0.2).numpy() > least - 1e-6).all()


def test_poisson_multinomial_of_predictions_of_zero_is_finite_and_changes_no_array():
    target, prediction = np.ones([1, 4, 2], np.float32), np.zeros([1, 4, 2], np.float32)
    for weight in (0.0, 0.2, 1.0):
        assert np.isfinite(poisson_multinomial(target, prediction, weight)).all()
        assert np.isfinite(poisson_multinomial(prediction, target, weight)).all()
    assert not prediction.any()
