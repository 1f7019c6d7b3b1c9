"""Multi-head attention: relative, rotary or no positions; full or rank-1 values; shared key/value groups.

Shapes: B batch, H heads, G key/value groups, L positions, K key size, V value size, F position features.
"""

import functools

import numpy as np
import sonnet as snt
import tensorflow as tf

from enformer_core.layers import Linear, dropout


class MultiHeadAttention(snt.Module):
    """Multi-head attention over `[B, L, C]`, output `[B, L, channels]`.

    Args:
        channels: width of the output.
        num_heads: heads H.
        key_size: size of a query and a key, for each head.
        value_size: size of a value, for each head; 1 is the rank-1 variant.
        num_groups: key/value groups G that heads share, `num_heads` for none shared (https://arxiv.org/abs/2305.13245).
        positions: `relative` (Transformer-XL style, https://arxiv.org/abs/1901.02860, with the bases of Enformer),
            `rotary` (https://arxiv.org/abs/2104.09864) or `none`.
        with_bias: whether queries, keys and values have a bias.
        dropout_rate: dropout of the attention weights.
        positional_dropout_rate: dropout of the position features.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        key_size: int,
        value_size: int,
        num_groups: int,
        positions: str,
        with_bias: bool,
        dropout_rate: float,
        positional_dropout_rate: float,
        name: str,
    ):
        super().__init__(name=name)
        self._num_heads = num_heads
        self._num_groups = num_groups
        self._key_size = key_size
        self._positions = positions
        self._query = Linear(num_heads * key_size, with_bias=with_bias, name="query")
        self._key = Linear(num_groups * key_size, with_bias=with_bias, name="key")
        self._value = Linear(num_groups * value_size, with_bias=with_bias, name="value")
        self._output = Linear(channels, name="output")
        self._dropout_rate = dropout_rate
        if positions == "relative":
            bias_shape = [1, num_heads, 1, key_size]
            self._relative_key = Linear(num_heads * key_size, with_bias=False, name="relative_key")
            self._content_bias = tf.Variable(tf.zeros(bias_shape), name="content_bias")
            self._position_bias = tf.Variable(tf.zeros(bias_shape), name="position_bias")
            self._positional_dropout_rate = positional_dropout_rate

    def __call__(
        self,
        x: tf.Tensor,
        basis: tf.Tensor | None,
        keep: tf.Tensor | None = None,
        keep_positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Attends.

        Args:
            x: `[B, L, C]`.
            basis: what `position_basis` returns for this length and kind of positions.
            keep: which attention weights dropout keeps, bool `[B, H, L, L]`; None for all.
            keep_positions: which relative position features dropout keeps, bool `[2L-1, F]`; None for all.
        """
        query = split_heads(self._query(x), self._num_heads)  # [B, H, L, K]
        keys = split_heads(self._key(x), self._num_groups)  # [B, G, L, K]
        values = split_heads(self._value(x), self._num_groups)  # [B, G, L, V]
        if self._positions == "rotary":
            query, keys = rotate(query, basis), rotate(keys, basis)
        if self._num_groups != self._num_heads:
            keys = tf.repeat(keys, self._num_heads // self._num_groups, axis=1)  # [B, H, L, K]
            values = tf.repeat(values, self._num_heads // self._num_groups, axis=1)  # [B, H, L, V]

        query *= self._key_size**-0.5
        if self._positions == "relative":
            content_bias = tf.cast(self._content_bias, x.dtype)
            position_bias = tf.cast(self._position_bias, x.dtype)
            logits = tf.matmul(query + content_bias, keys, transpose_b=True)  # [B, H, L, L]
            features = dropout(basis, keep_positions, self._positional_dropout_rate)[tf.newaxis]
            relative_keys = split_heads(self._relative_key(features), self._num_heads)  # [1, H, 2L-1, K]
            logits += relative_shift(
                tf.matmul(query + position_bias, relative_keys, transpose_b=True)  # [B, H, L, 2L-1]
            )
        else:
            logits = tf.matmul(query, keys, transpose_b=True)  # [B, H, L, L]
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), x.dtype)
        weights = dropout(weights, keep, self._dropout_rate)
        return self._output(join_heads(tf.matmul(weights, values)))


def split_heads(x: tf.Tensor, num: int) -> tf.Tensor:
    """`[B, L, num * D]` to `[B, num, L, D]`."""
    _, length, width = x.shape
    return tf.transpose(tf.reshape(x, [-1, length, num, width // num]), [0, 2, 1, 3])


def join_heads(x: tf.Tensor) -> tf.Tensor:
    """`[B, num, L, D]` to `[B, L, num * D]`."""
    _, num, length, width = x.shape
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, length, num * width])


def relative_shift(x: tf.Tensor) -> tf.Tensor:
    """Logits by distance to logits by position: `[B, H, L, 2L-1]` to `[B, H, L, L]`.

    Column d of row i speaks of distance d - (L - 1); the result at (i, j) is that of distance j - i.
    """
    _, heads, length, width = x.shape
    x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 0]])
    x = tf.reshape(x, [-1, heads, width + 1, length])[:, :, 1:]
    return tf.reshape(x, [-1, heads, length, width])[..., :length]


def rotate(x: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
    """Rotary positions: `[B, H, L, K]` with neighbouring pairs turned by the angles of `basis` `[L, K/2, 2]`."""
    _, heads, length, size = x.shape
    pairs = tf.reshape(x, [-1, heads, length, size // 2, 2])
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = basis[..., 0], basis[..., 1]
    return tf.reshape(
        tf.stack([even * cos - odd * sin, even * sin + odd * cos], -1), [-1, heads, length, size]
    )


def position_basis(positions: str, length: int, num_features: int, key_size: int) -> np.ndarray | None:
    """What attention needs to know of positions; the same for every layer, so made once for each trace.

    Returns:
        `relative`: `[2 length - 1, num_features]` float32, for distances -(length-1) to length-1;
        `rotary`: `[length, key_size / 2, 2]` float32, cosines and sines; `none`: None.
    """
    if positions == "relative":
        return relative_basis(length, num_features)
    if positions == "rotary":
        return rotary_basis(length, key_size)
    return None


@functools.cache
def rotary_basis(length: int, size: int) -> np.ndarray:
    """Cosines and sines of rotary positions (https://arxiv.org/abs/2104.09864): `[length, size / 2, 2]` float32."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


@functools.cache
def relative_basis(length: int, num_features: int) -> np.ndarray:
    """Position features of Enformer for all distances within `length` bins: `[2 length - 1, num_features]` float32.

    A third each of exponential decay, central masks and gamma densities of the absolute distance, then the same
    multiplied by its sign (Avsec et al. 2021, doi:10.1038/s41592-021-01252-x). Computed with TensorFlow's float32
    operations in the published order: the gamma densities are differences of large logarithms, and published weights
    were trained with the rounding of exactly these.
    """
    with tf.init_scope():  # eager even while a graph is traced: a constant, and never XLA's own logarithms
        count = num_features // 6
        distances = tf.range(-length + 1, length, dtype=tf.float32)[:, tf.newaxis]  # [2L-1, 1]
        features = tf.concat(
            [f(tf.abs(distances), length, count) for f in (_exponential, _central, _gamma)], -1
        )
        return tf.concat([features, tf.sign(distances) * features], -1).numpy()


def _exponential(distances: tf.Tensor, length: int, count: int) -> tf.Tensor:
    """Decay with half-lives from 8 bins to `length` bins, evenly spaced on a logarithmic scale."""
    longest = tf.math.log(tf.cast(length, tf.float32)) / tf.math.log(2.0)
    half_lives = tf.pow(2.0, tf.linspace(3.0, longest, count))
    return tf.exp(-tf.math.log(2.0) / half_lives * distances)


def _central(distances: tf.Tensor, length: int, count: int) -> tf.Tensor:
    """1 within 2^k - 1 bins, k from 1."""
    return tf.cast(tf.pow(2.0, tf.range(1, count + 1, dtype=tf.float32)) - 1 > distances, tf.float32)


def _gamma(distances: tf.Tensor, length: int, count: int) -> tf.Tensor:
    """Gamma densities with means evenly spaced up to `length` bins, each scaled to a maximum of 1.

    One copy of the published code divides all of them by one maximum; the reference outputs are those of this one.
    """
    stddev = length / (2 * count)
    mean = tf.linspace(length / count, float(length), num=count)
    mean = tf.cast(mean, tf.float32)
    concentration, rate = (mean / stddev) ** 2, mean / stddev**2
    log_density = tf.math.xlogy(concentration - 1.0, distances) - rate * distances
    log_normalisation = tf.math.lgamma(concentration) - concentration * tf.math.log(rate)
    density = tf.exp(log_density - log_normalisation) + 1e-8
    return density / tf.reduce_max(density, axis=0, keepdims=True)
