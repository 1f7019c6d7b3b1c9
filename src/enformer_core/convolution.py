"""Convolution along a sequence, with fewer multiplications where that is faster.

Two neighbouring outputs of a convolution of width five need ten products for each pair of channels; the minimal
filtering of Winograd needs six (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308). They are products of matrices
again, so a processor does them at its full rate, and so are their gradients. Rounding errors are about those of the
plain sum (the tests measure both against float64).
"""

import numpy as np
import tensorflow as tf

WIDTH = 5
OUTPUTS = 2
# Where the polynomials behind the products are evaluated, besides infinity: small numbers of both signs round best.
_POINTS = (0.0, 1.0, -1.0, 2.0, -0.5)
# Below this many channels in, the sums around the products cost what the products save, and seconds to compile.
MIN_CHANNELS = 512


def convolve(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """`[B, L, C]` with the weights `[width, C, filters]`, width odd, zeros beyond the ends: `[B, L, filters]`.

    L and C must be known when this is traced; B need not.
    """
    minimal = (
        w.shape[0] == WIDTH
        and x.shape[1] % OUTPUTS == 0
        and x.shape[2] >= MIN_CHANNELS
        and x.dtype.size >= tf.float32.size  # a narrow dtype rounds the sums too much
    )
    return minimal_filtering(x, w) if minimal else tf.nn.conv1d(x, w, stride=1, padding="SAME")


def minimal_filtering(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """What `convolve` returns, for width five and an even length L, with six products for two outputs."""
    _, length, channels = x.shape
    filters = w.shape[-1]
    outputs, weights, inputs = _transforms()
    margin = WIDTH // 2
    pairs = tf.pad(x, [[0, 0], [margin, margin], [0, 0]])
    pairs = tf.reshape(pairs, [-1, length // 2 + margin, 2, channels])
    # Of each tile of six inputs, two further than the last: the first, the second, ...  [B, L/2, C] each
    tile = [pairs[:, i // 2 : i // 2 + length // 2, i % 2] for i in range(WIDTH + OUTPUTS - 1)]
    turned = tf.matmul(tf.constant(weights, w.dtype), tf.reshape(w, [WIDTH, channels * filters]))
    products = [
        tf.matmul(tf.reshape(_sum(row, tile), [-1, channels]), tf.reshape(turned[i], [channels, filters]))
        for i, row in enumerate(inputs)
    ]
    y = tf.stack([_sum(row, products) for row in outputs], axis=1)  # [B L/2, 2, filters]
    return tf.reshape(y, [-1, length, filters])


def _sum(factors: np.ndarray, terms: list[tf.Tensor]) -> tf.Tensor:
    used = np.abs(factors) > 1e-12  # where the inverse leaves a rounding error instead of 0
    return tf.add_n([float(factors[i]) * terms[i] for i in np.flatnonzero(used)])


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices A^T `[2, 6]`, G `[6, 5]` and B^T `[6, 6]` of the paper: y = A^T ((G w) * (B^T x)).

    Evaluation at the points multiplies polynomials; a correlation is the transpose of that product.
    """

    def evaluation(size: int) -> np.ndarray:
        at_infinity = np.eye(size)[-1:]
        return np.concatenate([np.vander(_POINTS, size, increasing=True), at_infinity])

    return evaluation(OUTPUTS).T, evaluation(WIDTH), np.linalg.inv(evaluation(WIDTH + OUTPUTS - 1)).T
