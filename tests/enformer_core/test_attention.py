import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from enformer_core import initial
from enformer_core.attention import (
    MultiHeadAttention,
    position_basis,
    relative_basis,
    relative_shift,
    rotary_basis,
    rotate,
)

RANDOM = np.random.default_rng(0)


def softmax(x):
    return special.softmax(x, axis=-1)


def attention(positions, num_heads=4, num_groups=4, key_size=6, value_size=3, with_bias=False):
    layer = MultiHeadAttention(
        channels=8,
        num_heads=num_heads,
        key_size=key_size,
        value_size=value_size,
        num_groups=num_groups,
        positions=positions,
        with_bias=with_bias,
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        name="attention",
    )
    x = tf.constant(RANDOM.normal(size=(2, 5, 8)), tf.float32)
    basis = position_basis(positions, 5, 12, key_size)
    basis = None if basis is None else tf.constant(basis)
    layer(x, basis)
    for variable in layer.variables:
        variable.assign(RANDOM.normal(size=variable.shape) / 2)
    return (
        {initial.variable_name(v).removeprefix("attention/"): v.numpy() for v in layer.variables},
        x,
        layer(x, basis),
    )


def numpy_attention(weights, x, positions, num_heads, num_groups, key_size):
    """Position by position, head by head, from the definition."""
    project = {n: x @ weights[f"{n}/w"] + weights.get(f"{n}/b", 0) for n in ("query", "key", "value")}
    batch, length, _ = x.shape
    shared = num_heads // num_groups
    value_size = project["value"].shape[-1] // num_groups
    out = np.zeros((batch, length, num_heads * value_size))
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, key_size, 2) / key_size)
    turn = np.exp(1j * angles)
    for b in range(batch):
        for h in range(num_heads):
            g = h // shared
            query = project["query"][b, :, h * key_size : (h + 1) * key_size]
            key = project["key"][b, :, g * key_size : (g + 1) * key_size]
            value = project["value"][b, :, g * value_size : (g + 1) * value_size]
            if positions == "rotary":  # a pair of numbers is a complex number, turned by its position
                query, key = ((z[:, 0::2] + 1j * z[:, 1::2]) * turn for z in (query, key))
                logits = (query @ key.conj().T).real * key_size**-0.5
            elif positions == "relative":
                query = query * key_size**-0.5
                content, position = (weights[f"{n}_bias"][0, h, 0] for n in ("content", "position"))
                relative = relative_basis(length, 12) @ weights["relative_key/w"]
                relative = relative[:, h * key_size : (h + 1) * key_size]
                logits = (query + content) @ key.T
                for i in range(length):
                    for j in range(length):
                        logits[i, j] += (query[i] + position) @ relative[j - i + length - 1]
            else:
                logits = query @ key.T * key_size**-0.5
            out[b, :, h * value_size : (h + 1) * value_size] = softmax(logits) @ value
    return out @ weights["output/w"] + weights["output/b"]


@pytest.mark.parametrize("positions", ["relative", "rotary", "none"])
@pytest.mark.parametrize(("num_groups", "value_size"), [(4, 3), (2, 3), (4, 1)])
def test_equals_a_forward_pass_in_numpy(positions, num_groups, value_size):
    sizes = {"num_heads": 4, "num_groups": num_groups, "key_size": 6}
    weights, x, y = attention(positions, value_size=value_size, with_bias=num_groups == 2, **sizes)
    np.testing.assert_allclose(
        y, numpy_attention(weights, x.numpy(), positions, **sizes), rtol=1e-4, atol=1e-5
    )


def test_relative_shift_reads_the_logit_of_each_distance():
    x = RANDOM.normal(size=(2, 3, 5, 9)).astype(np.float32)
    shifted = relative_shift(tf.constant(x)).numpy()
    for i in range(5):
        for j in range(5):
            np.testing.assert_array_equal(shifted[:, :, i, j], x[:, :, i, j - i + 4])


def test_rotary_products_depend_on_distance_alone():
    query, key = RANDOM.normal(size=(2, 8)).astype(np.float32)
    basis = tf.constant(rotary_basis(12, 8))
    turned_query, turned_key = (
        rotate(tf.constant(np.tile(z, (1, 1, 12, 1))), basis)[0, 0] for z in (query, key)
    )
    products = (turned_query @ tf.transpose(turned_key)).numpy()
    for distance in range(-11, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-4)


def test_relative_basis_equals_scipy():
    length, count = 40, 4
    basis = relative_basis(length, 6 * count)
    distance = np.abs(np.arange(-length + 1, length))[:, None]
    half_life = 2 ** np.linspace(3, np.log2(length), count)
    mean, stddev = np.linspace(length / count, length, count), length / (2 * count)
    gamma = stats.gamma.pdf(distance, (mean / stddev) ** 2, scale=stddev**2 / mean) + 1e-8
    expected = np.hstack(
        [0.5 ** (distance / half_life), distance < 2.0 ** np.arange(1, count + 1) - 1, gamma / gamma.max(0)]
    )
    sign = np.sign(np.arange(-length + 1, length))[:, None]
    # float32 logarithms of the gamma density differ from float64 ones by a few in 1e5
    np.testing.assert_allclose(basis, np.hstack([expected, sign * expected]), rtol=1e-4, atol=1e-6)
