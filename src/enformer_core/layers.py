"""Blocks the trunk is built of: linear, convolution, normalisation, pooling, dropout, crop.

Shapes: B batch, L positions, C channels. Modules follow Sonnet: the constructor stores, the first call makes
the variables. Initial values are not chosen here: `initial.py` sets them by name. Variables are float32; arithmetic
is in the dtype of what comes in, except for the sums of a normalisation, which are float32.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from enformer_core.convolution import convolve


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Gaussian error linear unit in its sigmoid approximation (https://arxiv.org/abs/1606.08415, section 2)."""
    return tf.nn.sigmoid(1.702 * x) * x


class Linear(snt.Module):
    """`x w + b` on the last axis of `[..., C]`, as one matrix product: `[..., size]`.

    On higher ranks TensorFlow would build the weight gradient once per position before it sums: 27 GiB for softmax
    pooling of 24,576 bp at full width.

    Args:
        size: channels of the output.
        with_bias: whether there is a b.
        reads_data: x may be the input of what is trained, such as a stored embedding, so that training needs no
            gradient of it.
    """

    def __init__(self, size: int, *, with_bias: bool = True, reads_data: bool = False, name: str):
        super().__init__(name=name)
        self._size = size
        self._with_bias = with_bias
        self._reads_data = reads_data
        self.adapter: snt.Module | None = None
        """What is added to `x w`, a function of x `[..., C]`: see `adapters.py`."""

    @snt.once
    def _initialize(self, channels: int) -> None:
        self.w = tf.Variable(tf.zeros([channels, self._size]), name="w")
        self.b = tf.Variable(tf.zeros([self._size]), name="b") if self._with_bias else None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self._initialize(x.shape[-1])
        flat, w = tf.reshape(x, [-1, x.shape[-1]]), tf.cast(self.w, x.dtype)
        if not self._reads_data:
            flat, w = gradients_together(flat, w)
        y = tf.matmul(flat, w)
        if self.adapter is not None:
            y += self.adapter(flat)
        if self.b is not None:
            y += tf.cast(self.b, x.dtype)
        y = tf.reshape(y, tf.concat([tf.shape(x)[:-1], [self._size]], 0))
        y.set_shape([*x.shape[:-1], self._size])
        return y


class Conv1D(snt.Module):
    """Convolution of odd `width` along `[B, L, C]`, zeros beyond the ends: `[B, L, filters]`.

    Args:
        filters: channels of the output.
        width: positions that one output sees.
        reads_data: x is the input of the model, so training needs no gradient of it.
    """

    def __init__(self, filters: int, width: int, *, reads_data: bool = False, name: str):
        super().__init__(name=name)
        self._filters = filters
        self._width = width
        self._reads_data = reads_data

    @snt.once
    def _initialize(self, channels: int) -> None:
        self.w = tf.Variable(tf.zeros([self._width, channels, self._filters]), name="w")
        self.b = tf.Variable(tf.zeros([self._filters]), name="b")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self._initialize(x.shape[-1])
        w = tf.cast(self.w, x.dtype)
        if not self._reads_data:
            x, w = gradients_together(x, w)
        return convolve(x, w) + tf.cast(self.b, x.dtype)


@tf.custom_gradient
def gradients_together(
    x: tf.Tensor, w: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """The input x and the weight w of a layer, of any shapes, as they are; w gets its gradient only when x has its own.

    An optimizer that has the gradient of w then knows that nobody reads the old w any more, and XLA updates it in
    place. Without this order XLA keeps a copy of every weight of the model: 1 GB at full width. The price: the gradient
    of x is computed even where nobody asks for it.
    """

    def gradient(dx: tf.Tensor, dw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        element = tf.reshape(dx, [-1])[0]
        nothing = tf.where(element == element, tf.zeros_like(element), element)  # 0, but XLA cannot know it
        return dx, dw + nothing

    return (x, w), gradient


class Moments(NamedTuple):
    """Mean and variance of a batch, float32 `[1, 1, C]` each."""

    mean: tf.Tensor
    variance: tf.Tensor


class BatchNorm(snt.Module):
    """Batch normalisation of `[B, L, C]` over B and L (https://arxiv.org/abs/1502.03167).

    Normalising and moving the averages are two calls, so that what a backward pass computes again moves them once.
    """

    def __init__(self, name: str = "batch_norm"):
        super().__init__(name=name)
        self._moving_mean = snt.ExponentialMovingAverage(0.9, name="moving_mean")
        self._moving_variance = snt.ExponentialMovingAverage(0.9, name="moving_variance")

    @snt.once
    def _initialize(self, channels: int) -> None:
        self._scale = tf.Variable(tf.ones([channels]), name="scale")
        self._offset = tf.Variable(tf.zeros([channels]), name="offset")
        for average in (self._moving_mean, self._moving_variance):
            average.initialize(tf.zeros([1, 1, channels]))

    def moments(self, x: tf.Tensor) -> Moments:
        """Mean and variance of `[B, L, C]` over B and L."""
        return Moments(*tf.nn.moments(tf.cast(x, tf.float32), [0, 1], keepdims=True))

    def __call__(self, x: tf.Tensor, moments: Moments | None) -> tf.Tensor:
        """x normalised by the moments of its batch, or by the moving averages where they are None."""
        self._initialize(x.shape[-1])
        mean, variance = moments or (self._moving_mean.value, self._moving_variance.value)
        wide = tf.cast(x, tf.float32)
        y = tf.nn.batch_normalization(wide, mean, variance, self._offset, self._scale, variance_epsilon=1e-5)
        return tf.cast(y, x.dtype)

    def update(self, moments: Moments) -> None:
        """Moves the averages by one step."""
        self._moving_mean.update(moments.mean)
        self._moving_variance.update(moments.variance)


class LayerNorm(snt.LayerNorm):
    """Layer normalisation of the last axis (https://arxiv.org/abs/1607.06450)."""

    def __init__(self, name: str):
        super().__init__(axis=-1, create_scale=True, create_offset=True, name=name)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(super().__call__(tf.cast(x, tf.float32)), x.dtype)


def draw_masks(
    key: tf.Tensor | None, name: str, rate: float, count: int, shape: Sequence[int]
) -> Sequence[tf.Tensor | None]:
    """What dropout keeps in `count` layers: bool tensors of one shape, a function of (key, name).

    `tf.nn.dropout` and `snt.Dropout` draw from a hidden counter, so a resumed run would differ from one never stopped.

    Args:
        key: int32 `[2]`, (seed, step).
        name: of the place in a layer, so that places differ.
        rate: fraction that is dropped; at 0 the masks are None, which keeps everything.
        count: layers.
        shape: of one mask.
    """
    if rate == 0:
        return [None] * count
    if key is None:
        raise ValueError("is_training=True needs key: the int32 pair (seed, step) that dropout is drawn from")
    salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
    return tf.unstack(_random_bits(key + [salt, 0], (count, *shape)) >= round(rate * 2**32))


@tf.function(jit_compile=True, autograph=False)
def _random_bits(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Uniform uint32 by Threefry (https://doi.org/10.1145/2063384.2063405), which TensorFlow has under XLA only.

    Its default, Philox, takes a hundred times as long under XLA, for each call to compile and for each number to draw.
    """
    return tf.random.stateless_uniform(
        shape, seed=key, minval=None, maxval=None, dtype=tf.uint32, alg="threefry"
    )


def dropout(x: tf.Tensor, keep: tf.Tensor | None, rate: float) -> tf.Tensor:
    """x / (1 - rate) where `keep`, a bool tensor of its shape, else 0; x as it is where `keep` is None."""
    return x if keep is None else tf.where(keep, x / (1 - rate), tf.zeros_like(x))


class ConvBlock(snt.Module):
    """Batch normalisation, GELU, convolution: `[B, L, C]` to `[B, L, filters]`."""

    def __init__(self, filters: int, width: int, name: str):
        super().__init__(name=name)
        self.norm = BatchNorm()
        # A convolution of width 1 is a matrix product, and runs faster as one.
        self._conv = Linear(filters, name="pointwise") if width == 1 else Conv1D(filters, width, name="conv")

    def __call__(
        self, x: tf.Tensor, batch_moments: bool, recompute: bool = False
    ) -> tuple[tf.Tensor, list[Moments]]:
        """The output, and the moments of the batch: one, or none where the averages normalise.

        `recompute` keeps only x of what the gradients need: of the three arrays of a block two are elementwise in the
        third, cheap to compute again.
        """
        moments = [self.norm.moments(x)] if batch_moments else []
        compute = tf.recompute_grad(self._compute) if recompute else self._compute
        return compute(x, *moments), moments

    def _compute(self, x: tf.Tensor, moments: Moments | None = None) -> tf.Tensor:
        return self._conv(gelu(self.norm(x, moments)))


class SoftmaxPool(snt.Module):
    """Attention pooling of neighbours, `[B, L, C]` to `[B, L/2, C]`: weights softmax(x W) for each channel.

    For a pool of two the softmax is a sigmoid of the difference of the two logits, and that difference is
    (x0 - x1) W: half the arithmetic of projecting both.
    """

    def __init__(self, name: str = "pool"):
        super().__init__(name=name)

    @snt.once
    def _initialize(self, channels: int) -> None:
        self._logit = Linear(channels, with_bias=False, name="logit")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self._initialize(x.shape[-1])
        first, second = _pairs(x)  # [B, L/2, C] each
        difference = first - second
        return second + tf.nn.sigmoid(self._logit(difference)) * difference


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
