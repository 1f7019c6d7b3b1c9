"""What is put on top of a trunk.

Shapes: B batch, T bins, C channels of the embedding, H heads, K key size, V value size.
"""

import dataclasses

import sonnet as snt
import tensorflow as tf

from enformer_core.attention import join_heads, split_heads
from enformer_core.layers import Linear


class TrackHead(snt.Module):
    """Non-negative signal of every track: `[B, bins, C]` to `[B, bins, num_tracks]`, a linear layer and softplus."""

    def __init__(self, num_tracks: int, name: str):
        super().__init__(name=name)
        self._linear = Linear(num_tracks, name="linear")

    def __call__(self, embedding: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(self._linear(embedding))


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuses a size of a configuration, which may come from a file, that is no whole number or too small.

    Raises:
        ValueError: one line that names it, what was found and what it takes.
    """
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r:.80}; it must be a whole number, {least} or more")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be {least} or more")


@dataclasses.dataclass(frozen=True)
class ActivityHeadConfig:
    """Sizes of an `ActivityHead`.

    Raises:
        ValueError: one line that names the field, what was found and what it takes.
    """

    num_heads: int = 1
    key_size: int = 64
    """Of a query and a key, for each head."""
    value_size: int = 64
    """Of a value, for each head."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_whole(field.name, getattr(self, field.name))


# The three of Ribeiro-dos-Santos and Maurano 2025, doi:10.1101/2025.02.04.636130.
ACTIVITY_HEADS = {
    "single_64_64": ActivityHeadConfig(1, 64, 64),
    "single_64_128": ActivityHeadConfig(1, 64, 128),
    "multi_64_64": ActivityHeadConfig(4, 64, 64),
}


class ActivityHead(snt.Module):
    """One non-negative number for a sequence, such as the activity of a construct: `[B, T, C]` to `[B, 1]`.

    Scaled dot-product attention of every bin to every bin, flattened, then one dense layer and softplus
    (Ribeiro-dos-Santos and Maurano 2025, doi:10.1101/2025.02.04.636130). The dense layer has a weight for each bin, so
    T is that of the first call.

    Args:
        config: sizes.
    """

    def __init__(self, config: ActivityHeadConfig, name: str = "activity"):
        super().__init__(name=name)
        self._config = config
        keys, values = config.num_heads * config.key_size, config.num_heads * config.value_size
        self._query = Linear(keys, with_bias=False, reads_data=True, name="query")
        self._key = Linear(keys, with_bias=False, reads_data=True, name="key")
        self._value = Linear(values, with_bias=False, reads_data=True, name="value")
        self._dense = Linear(1, name="dense")

    def __call__(self, embedding: tf.Tensor) -> tf.Tensor:
        heads = self._config.num_heads
        query = split_heads(self._query(embedding), heads) * self._config.key_size**-0.5  # [B, H, T, K]
        keys = split_heads(self._key(embedding), heads)  # [B, H, T, K]
        values = split_heads(self._value(embedding), heads)  # [B, H, T, V]
        weights = tf.nn.softmax(tf.matmul(query, keys, transpose_b=True))  # [B, H, T, T]
        attended = join_heads(tf.matmul(weights, values))  # [B, T, H * V]
        _, bins, channels = attended.shape
        return tf.nn.softplus(self._dense(tf.reshape(attended, [-1, bins * channels])))
