import numpy as np
import pytest
import tensorflow as tf

from enformer_core import convolution

RANDOM = np.random.default_rng(0)


def plain(x, w):
    """By definition, in float64."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (2, 2), (0, 0)])
    return sum(padded[:, i : i + x.shape[1]] @ w[i].astype(np.float64) for i in range(5))


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (2, 6), (3, 128)])
def test_minimal_filtering_equals_the_definition(batch, length):
    x, w = RANDOM.normal(size=(batch, length, 3)), RANDOM.normal(size=(5, 3, 4))
    np.testing.assert_allclose(
        convolution.minimal_filtering(tf.constant(x), tf.constant(w)), plain(x, w), rtol=1e-10, atol=1e-12
    )


def test_it_rounds_about_as_the_plain_sum():
    x = RANDOM.normal(size=(1, 256, 512)).astype(np.float32)
    w = RANDOM.normal(size=(5, 512, 64)).astype(np.float32)
    exact = plain(x, w)
    errors = [
        np.abs(function(tf.constant(x), tf.constant(w)) - exact).max()
        for function in (
            convolution.minimal_filtering,
            lambda x, w: tf.nn.conv1d(x, w, stride=1, padding="SAME"),
        )
    ]
    assert errors[0] < 1.5 * errors[1]
    assert errors[0] < 1e-5 * np.abs(exact).max()


def test_its_gradients_are_those_of_the_plain_convolution():
    x, w = tf.constant(RANDOM.normal(size=(2, 16, 3))), tf.constant(RANDOM.normal(size=(5, 3, 4)))
    dy = tf.constant(RANDOM.normal(size=(2, 16, 4)))
    found = []
    for function in (convolution.minimal_filtering, lambda x, w: tf.nn.conv1d(x, w, 1, "SAME")):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = function(x, w)
        found.append(tape.gradient(y, [x, w], dy))
    for fast, slow in zip(*found, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "channels", "width", "dtype", "taken"),
    [
        (8, 512, 5, tf.float32, True),
        (8, 511, 5, tf.float32, False),
        (7, 512, 5, tf.float32, False),
        (8, 512, 15, tf.float32, False),
        (8, 512, 5, tf.float16, False),
    ],
)
def test_it_is_taken_for_wide_layers_in_full_precision(monkeypatch, length, channels, width, dtype, taken):
    calls = []
    monkeypatch.setattr(convolution, "minimal_filtering", lambda x, w: calls.append(1))
    convolution.convolve(tf.zeros([1, length, channels], dtype), tf.zeros([width, channels, 2], dtype))
    assert bool(calls) == taken
