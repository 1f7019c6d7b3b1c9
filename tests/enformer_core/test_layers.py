import numpy as np
import pytest
import tensorflow as tf

from enformer_core import initial
from enformer_core.layers import Dropout, MaxPool, SoftmaxPool, apply_flat, crop, linear

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


def test_apply_flat_equals_the_product_on_every_position():
    x = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = linear(7, name="layer")
    layer(x[0, 0])
    initial.initialize(layer, 0)
    y = apply_flat(layer, tf.constant(x))
    assert y.shape == (2, 3, 4, 7)
    np.testing.assert_allclose(y, x @ layer.w.numpy() + layer.b.numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_is_a_function_of_key_and_name():
    x = tf.ones([100, 100])
    one, other = Dropout(0.4, "one"), Dropout(0.4, "other")
    dropped = one(x, True, tf.constant([7, 3])).numpy()
    np.testing.assert_array_equal(dropped, one(x, True, tf.constant([7, 3])))
    assert not np.array_equal(dropped, one(x, True, tf.constant([7, 4])))
    assert not np.array_equal(dropped, one(x, True, tf.constant([8, 3])))
    assert not np.array_equal(dropped, other(x, True, tf.constant([7, 3])))
    # 10,000 coins: a fraction off by more than 0.02 is four standard deviations away
    assert np.mean(dropped == 0) == pytest.approx(0.4, abs=0.02)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.6, rtol=1e-6)
    np.testing.assert_array_equal(one(x, False, None), x)


def test_training_without_a_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        Dropout(0.4, "one")(tf.ones([2]), True, None)


@pytest.mark.parametrize(
    ("length", "expected"), [(None, range(7)), (7, range(7)), (3, [2, 3, 4]), (4, [1, 2, 3, 4])]
)
def test_crop_keeps_the_centre(length, expected):
    x = tf.reshape(tf.range(7), [1, 7, 1])
    assert crop(x, length)[0, :, 0].numpy().tolist() == list(expected)
