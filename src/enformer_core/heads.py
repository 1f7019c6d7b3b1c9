"""What is put on top of a trunk.

Shapes: B batch, T bins, C channels of the embedding, H heads, K key size, V value size.
"""

import dataclasses

import sonnet as snt
import tensorflow as tf

from enformer_core.attention import join_heads, split_heads
from enformer_core.layers import Linear, gelu


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
class TrackHeadConfig:
    """Sizes of a `TrackHead`; the defaults are a linear layer alone, as in the published Enformer.

    Raises:
        ValueError: one line that names the field, what was found and what it takes.
    """

    num_tracks: int
    hidden_size: int = 0
    """Channels of a hidden layer. 0: none."""
    num_heads: int = 0
    """Heads of an attention layer. 0: none."""
    key_size: int = 64
    """Of a query and a key, for each head."""
    value_size: int = 64
    """Of a value, for each head."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("hidden_size", "num_heads") else 1
            check_whole(field.name, getattr(self, field.name), least)


TRACK_HEADS = {
    "linear": {"hidden_size": 0, "num_heads": 0},
    "hidden": {"hidden_size": 256, "num_heads": 0},
    "attention": {"hidden_size": 0, "num_heads": 4},
}


class TrackHead(snt.Module):
    """Non-negative signal of every track: `[B, T, C]` to `[B, T, num_tracks]`, a linear layer and softplus.

    Before the linear layer, where the configuration has them: attention of every bin to every bin, whose answer is set
    beside the embedding, then a hidden layer with GELU. T is free.

    Args:
        config: sizes.
        reads_data: the embedding is the input of what is trained, so that training needs no gradient of it.
    """

    def __init__(self, config: TrackHeadConfig, name: str, *, reads_data: bool = False):
        super().__init__(name=name)
        self.config = config
        num_heads, hidden = config.num_heads, config.hidden_size
        self._projections = (
            _projections(num_heads, config.key_size, config.value_size, reads_data) if num_heads else None
        )
        self._hidden = Linear(hidden, reads_data=reads_data, name="hidden") if hidden else None
        self._linear = Linear(config.num_tracks, reads_data=reads_data and not hidden, name="linear")

    def __call__(self, embedding: tf.Tensor) -> tf.Tensor:
        x = embedding
        if self._projections is not None:
            attended = _attend(x, self._projections, self.config.num_heads)
            x = tf.concat([x, attended], -1)  # [B, T, C + H * V]
        if self._hidden is not None:
            x = gelu(self._hidden(x))
        return tf.nn.softplus(self._linear(x))


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
        self._num_heads = config.num_heads
        self._projections = _projections(config.num_heads, config.key_size, config.value_size)
        self._dense = Linear(1, name="dense")

    def __call__(self, embedding: tf.Tensor) -> tf.Tensor:
        attended = _attend(embedding, self._projections, self._num_heads)  # [B, T, H * V]
        _, bins, channels = attended.shape
        return tf.nn.softplus(self._dense(tf.reshape(attended, [-1, bins * channels])))


def _projections(
    num_heads: int, key_size: int, value_size: int, reads_data: bool = True
) -> tuple[Linear, Linear, Linear]:
    """What makes queries, keys and values of an embedding."""
    sizes = {"query": key_size, "key": key_size, "value": value_size}
    query, key, value = (
        Linear(num_heads * size, with_bias=False, reads_data=reads_data, name=name)
        for name, size in sizes.items()
    )
    return query, key, value


def _attend(x: tf.Tensor, projections: tuple[Linear, Linear, Linear], num_heads: int) -> tf.Tensor:
    """Scaled dot-product attention of every bin to every bin, without positions: `[B, T, C]` to `[B, T, H * V]`."""
    query, keys, values = (split_heads(project(x), num_heads) for project in projections)  # [B, H, T, K or V]
    logits = tf.matmul(query * keys.shape[-1] ** -0.5, keys, transpose_b=True)  # [B, H, T, T]
    return join_heads(tf.matmul(tf.nn.softmax(logits), values))
