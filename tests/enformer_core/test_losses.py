import numpy as np

from enformer_core.losses import poisson, squared_error


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
