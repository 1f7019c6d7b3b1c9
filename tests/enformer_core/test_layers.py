import numpy as np
import pytest
import tensorflow as tf

from enformer_core import initial
from enformer_core.layers import (
    BatchNorm,
    Conv1D,
    Linear,
    MaxPool,
    SoftmaxPool,
    crop,
    draw_masks,
    dropout,
    gradients_together,
)

RANDOM = np.random.default_rng(0)


def test_softmax_pool_equals_a_softmax_over_both_neighbours():
    x = RANDOM.normal(size=(2, 6, 5)).astype(np.float32)
    pool = SoftmaxPool()
    pool(x)
    weights = RANDOM.normal(size=(5, 5)).astype(np.float32)
    pool.variables[0].assign(weights)
    pairs = x.reshape(2, 3, 2, 5)
    exponentials = np.exp(pairs @ weights)
    expected = (pairs * exponentials / exponentials.sum(2, keepdims=True)).sum(2)
    np.testing.assert_allclose(pool(x), expected, rtol=1e-5, atol=1e-6)


def test_max_pool_takes_the_larger_neighbour():
    x = RANDOM.normal(size=(2, 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(MaxPool()(x), x.reshape(2, 3, 2, 5).max(2))


def test_linear_equals_the_product_on_every_position():
    x = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = Linear(7, name="layer")
    layer(tf.constant(x))
    initial.initialize(layer, 0)
    layer.b.assign(RANDOM.normal(size=7))
    y = layer(tf.constant(x))
    assert y.shape == (2, 3, 4, 7)
    np.testing.assert_allclose(y, x @ layer.w.numpy() + layer.b.numpy(), rtol=1e-5, atol=1e-6)


def test_convolution_equals_a_sum_over_shifts_with_zeros_beyond_the_ends():
    x = RANDOM.normal(size=(2, 9, 3)).astype(np.float32)
    layer = Conv1D(4, 5, name="layer")
    layer(tf.constant(x))
    initial.initialize(layer, 0)
    layer.b.assign(RANDOM.normal(size=4))
    padded = np.pad(x, [(0, 0), (2, 2), (0, 0)])
    expected = sum(padded[:, i : i + 9] @ layer.w.numpy()[i] for i in range(5)) + layer.b.numpy()
    np.testing.assert_allclose(layer(tf.constant(x)), expected, rtol=1e-5, atol=1e-6)


def test_layers_compute_in_the_dtype_of_what_comes_in_and_keep_float32_variables():
    x = tf.constant(RANDOM.normal(size=(2, 8, 4)), tf.float64)  # any dtype but float32 that every host can do
    for layer in (Linear(3, name="linear"), BatchNorm()):
        y = layer(x) if isinstance(layer, Linear) else layer(x, layer.moments(x))
        assert y.dtype == tf.float64
        assert {v.dtype for v in layer.trainable_variables} == {tf.float32}


def test_gradients_that_come_together_are_those_of_the_product():
    x, w = tf.constant(RANDOM.normal(size=(4, 3)), tf.float32), tf.Variable(tf.ones([3, 2]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.square(tf.matmul(*gradients_together(x, tf.convert_to_tensor(w)))))
    dx, dw = tape.gradient(loss, [x, w])
    dy = 2 * x.numpy() @ w.numpy()
    np.testing.assert_allclose(dx, dy @ w.numpy().T, rtol=1e-5)
    np.testing.assert_allclose(dw, x.numpy().T @ dy, rtol=1e-5)


def test_a_gradient_of_the_input_that_is_nan_shows_in_that_of_the_weight():
    x, w = tf.ones([1, 1]), tf.Variable(tf.ones([1, 1]))
    with tf.GradientTape() as tape:
        tied, same = gradients_together(x, tf.convert_to_tensor(w))
        loss = tf.reduce_sum(same) + tf.reduce_sum(tied) * float("nan")
    assert np.isnan(tape.gradient(loss, w)).all()


def test_batch_norm_follows_the_formula_and_moves_its_averages_only_when_told():
    x = RANDOM.normal(3, 2, size=(4, 50, 3)).astype(np.float32)
    norm = BatchNorm()
    moments = norm.moments(tf.constant(x))
    y = norm(tf.constant(x), moments)
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm(tf.constant(x), None), x / np.sqrt(1e-5), rtol=1e-5)  # averages of 0
    for _ in range(2):
        norm.update(moments)
    # The averages are corrected for their start at 0, so two equal updates give the value itself.
    y = norm(tf.constant(x), None)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)


def test_dropout_is_a_function_of_key_place_and_layer():
    shape = [100, 100]
    masks = [mask.numpy() for mask in draw_masks(tf.constant([7, 3]), "one", 0.4, 2, shape)]
    for mask, again in zip(masks, draw_masks(tf.constant([7, 3]), "one", 0.4, 2, shape), strict=True):
        np.testing.assert_array_equal(mask, again)
    others = [
        masks[1],
        draw_masks(tf.constant([7, 4]), "one", 0.4, 1, shape)[0],
        draw_masks(tf.constant([8, 3]), "one", 0.4, 1, shape)[0],
        draw_masks(tf.constant([7, 3]), "other", 0.4, 1, shape)[0],
    ]
    for other in others:
        # Independent coins agree in 0.6^2 + 0.4^2 of 10,000 places; off by more than 0.02 is four standard deviations.
        assert np.mean(masks[0] == other) == pytest.approx(0.52, abs=0.02)
    assert np.mean(masks[0]) == pytest.approx(0.6, abs=0.02)
    dropped = dropout(tf.ones(shape), tf.constant(masks[0]), 0.4).numpy()
    np.testing.assert_allclose(dropped, masks[0] / 0.6, rtol=1e-6)
    x = tf.ones([2])
    assert dropout(x, *draw_masks(None, "one", 0.0, 1, [2]), 0.0) is x


def test_training_without_a_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        draw_masks(None, "one", 0.4, 1, [2])


@pytest.mark.parametrize(
    ("length", "expected"), [(None, range(7)), (7, range(7)), (3, [2, 3, 4]), (4, [1, 2, 3, 4])]
)
def test_crop_keeps_the_centre(length, expected):
    x = tf.reshape(tf.range(7), [1, 7, 1])
    assert crop(x, length)[0, :, 0].numpy().tolist() == list(expected)
