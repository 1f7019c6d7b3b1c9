"""Losses: one value per element, reduced by the caller."""

import tensorflow as tf

EPSILON = 1e-7  # of Keras' Poisson loss, which the published training used: keeps the logarithm finite at 0


def poisson(target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of counts without its constant: prediction - target * log(prediction).

    Shapes are equal, float32, both non-negative.
    """
    return prediction - target * tf.math.log(prediction + EPSILON)


def squared_error(target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """The square of the difference, element by element; shapes are equal, float32."""
    return tf.square(prediction - target)
