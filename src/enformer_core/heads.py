"""What is put on top of a trunk."""

import sonnet as snt
import tensorflow as tf

from enformer_core.layers import Linear


class TrackHead(snt.Module):
    """Non-negative signal of every track: `[B, bins, C]` to `[B, bins, num_tracks]`, a linear layer and softplus."""

    def __init__(self, num_tracks: int, name: str):
        super().__init__(name=name)
        self._linear = Linear(num_tracks, name="linear")

    def __call__(self, embedding: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(self._linear(embedding))
