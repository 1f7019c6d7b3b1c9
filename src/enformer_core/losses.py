"""Losses: one value per element, or per track where bins are compared with each other; reduced by the caller."""

import tensorflow as tf

EPSILON = 1e-7  # of Keras' Poisson loss, which the published training used: keeps the logarithm finite at 0


def poisson(target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of counts without its constant: prediction - target * log(prediction).

    Shapes are equal, float32, both non-negative.
    """
    return prediction - target * tf.math.log(prediction + EPSILON)


def poisson_multinomial(target: tf.Tensor, prediction: tf.Tensor, total_weight: float) -> tf.Tensor:
    """Poisson loss of each track's total, and multinomial loss of where in the window it lies; both per bin.

    With a `total_weight` of 1 they add up to `poisson`; below it, the shape of the signal counts for more than its
    height (Linder et al. 2025, doi:10.1038/s41588-024-02053-6, where it is 0.2).

    Args:
        target: `[B, bins, tracks]` float32, not negative.
        prediction: of the same shape, not negative.
        total_weight: of the Poisson term.

    Returns:
        `[B, tracks]`.
    """
    bins = tf.cast(tf.shape(target)[1], target.dtype)
    prediction = prediction + EPSILON  # not in place: it may be an array of the caller
    total, predicted_total = tf.reduce_sum(target, 1), tf.reduce_sum(prediction, 1)  # [B, tracks]
    shape = -tf.reduce_sum(
        target * (tf.math.log(prediction) - tf.math.log(predicted_total)[:, tf.newaxis]), 1
    )
    height = predicted_total - total * tf.math.log(predicted_total)
    return (shape + total_weight * height) / bins


def squared_error(target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """The square of the difference, element by element; shapes are equal, float32."""
    return tf.square(prediction - target)
