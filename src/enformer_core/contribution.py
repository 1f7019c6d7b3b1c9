"""How much each base contributes to a prediction."""

import numpy as np
import tensorflow as tf

from enformer_core.enformer import Enformer


def contribution_scores(
    model: Enformer, sequence: tf.Tensor, target_mask: np.ndarray | tf.Tensor, head: str
) -> tf.Tensor:
    """Gradient x input of the masked mean prediction: how much each base contributes to chosen bins and tracks.

    Args:
        model: predicts with `is_training=False`.
        sequence: `[L, 4]` one-hot float32; N is zeros and scores 0.
        target_mask: `[bins, tracks]`, non-negative weights, not all zero; the prediction is averaged with them.
        head: name of the head.

    Returns:
        `[L]` float32, as `contribution_input_grad` of the published code.
    """
    sequence = tf.convert_to_tensor(sequence)[tf.newaxis]
    target_mask = tf.cast(target_mask, tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sequence)
        prediction = model(sequence, is_training=False)[head][0]
        score = tf.reduce_sum(target_mask * prediction) / tf.reduce_sum(target_mask)
    return tf.reduce_sum(tape.gradient(score, sequence) * sequence, axis=-1)[0]
