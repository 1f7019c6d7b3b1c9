"""Blocks the trunk is built of: convolution, pooling, dropout, crop.

Shapes: B batch, L positions, C channels. Modules follow Sonnet: the constructor stores, the first call makes
the variables. Initial values are not chosen here: `initial.py` sets them by name.
"""

import zlib

import sonnet as snt
import tensorflow as tf

ZEROS = snt.initializers.Zeros()  # placeholder until `initial.initialize` sets every variable by its name


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Gaussian error linear unit in its sigmoid approximation (https://arxiv.org/abs/1606.08415, section 2)."""
    return tf.nn.sigmoid(1.702 * x) * x


def linear(size: int, *, with_bias: bool = True, name: str) -> snt.Linear:
    """A `snt.Linear` whose initial weights are set by `initial.initialize`."""
    return snt.Linear(size, with_bias=with_bias, w_init=ZEROS, name=name)


def apply_flat(layer: snt.Linear, x: tf.Tensor) -> tf.Tensor:
    """Applies a linear layer to the last axis of `[..., C]` as one matrix product.

    On higher ranks TensorFlow builds the weight gradient once per position before it sums: 27 GiB for softmax
    pooling of 24,576 bp at full width.
    """
    leading = tf.shape(x)[:-1]
    y = layer(tf.reshape(x, [-1, x.shape[-1]]))
    y = tf.reshape(y, tf.concat([leading, [y.shape[-1]]], 0))
    y.set_shape(x.shape[:-1] + [y.shape[-1]])
    return y


class Dropout(snt.Module):
    """Dropout whose mask is a function of (key, module name): repeatable and resumable.

    `tf.nn.dropout` and `snt.Dropout` draw from a hidden counter, so a resumed run would differ from one never stopped.

    Args:
        rate: fraction of elements set to 0; the rest is scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float, name: str):
        super().__init__(name=name)
        self._rate = rate
        self._salt = zlib.crc32(self.name_scope.name.encode()) & 0x7FFFFFFF

    def __call__(self, x: tf.Tensor, is_training: bool, key: tf.Tensor | None) -> tf.Tensor:
        if not is_training or self._rate == 0.0:
            return x
        if key is None:
            raise ValueError(
                "is_training=True needs key: the int32 pair (seed, step) that dropout is drawn from"
            )
        return tf.nn.experimental.stateless_dropout(x, self._rate, seed=key + [self._salt, 0])


class ConvBlock(snt.Module):
    """Batch normalisation, GELU, convolution: `[B, L, C]` to `[B, L, filters]`."""

    def __init__(self, filters: int, width: int, name: str):
        super().__init__(name=name)
        self._norm = snt.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, name="batch_norm")
        # A convolution of width 1 is a matrix product, and runs faster as one.
        self._conv = (
            linear(filters, name="pointwise")
            if width == 1
            else snt.Conv1D(filters, width, w_init=ZEROS, name="conv")
        )

    def __call__(self, x: tf.Tensor, is_training: bool) -> tf.Tensor:
        x = gelu(self._norm(x, is_training=is_training))
        return apply_flat(self._conv, x) if isinstance(self._conv, snt.Linear) else self._conv(x)


class SoftmaxPool(snt.Module):
    """Attention pooling of neighbours, `[B, L, C]` to `[B, L/2, C]`: weights softmax(x W) for each channel.

    For a pool of two the softmax is a sigmoid of the difference of the two logits, and that difference is
    (x0 - x1) W: half the arithmetic of projecting both.
    """

    def __init__(self, name: str = "pool"):
        super().__init__(name=name)
        self._logit: snt.Linear | None = None

    @snt.once
    def _initialize(self, channels: int) -> None:
        self._logit = linear(channels, with_bias=False, name="logit")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self._initialize(x.shape[-1])
        first, second = _pairs(x)  # [B, L/2, C] each
        difference = first - second
        return second + tf.nn.sigmoid(apply_flat(self._logit, difference)) * difference


class MaxPool(snt.Module):
    """The larger of two neighbours, `[B, L, C]` to `[B, L/2, C]`."""

    def __init__(self, name: str = "pool"):
        super().__init__(name=name)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.maximum(*_pairs(x))


def _pairs(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, length, channels = x.shape
    x = tf.reshape(x, [-1, length // 2, 2, channels])
    return x[:, :, 0], x[:, :, 1]


def crop(x: tf.Tensor, length: int | None) -> tf.Tensor:
    """The central `length` positions of `[B, L, C]`; None keeps them all."""
    if length is None or length == x.shape[1]:
        return x
    start = (x.shape[1] - length) // 2
    return x[:, start : start + length]
