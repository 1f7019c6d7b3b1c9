"""What is put on top of a trunk.

Shapes: B batch, T bins, C channels of the embedding, H heads, K key size, V value size.
"""

import dataclasses

import sonnet as snt
import tensorflow as tf

from enformer_core.attention import join_heads, split_heads
from enformer_core.layers import Linear, draw_masks, dropout, gelu


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuses a size of a configuration, which may come from a file, that is no whole number or too small.

    Raises:
        ValueError: one line that names it, what was found and what it takes.
    """
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r:.80}; it must be a whole number, {least} or more")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be {least} or more")


def check_rate(name: str, value: object) -> None:
    """Refuses a rate of dropout, as `check_whole`."""
    if type(value) not in (int, float) or not 0 <= value < 1:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r:.80}; it must be a number from 0 to below 1")


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
    dropout: float = 0.0
    """Share of what each layer after attention reads that is dropped in training."""

    def __post_init__(self):
        for name in ("num_tracks", "key_size", "value_size"):
            check_whole(name, getattr(self, name))
        for name in ("hidden_size", "num_heads"):
            check_whole(name, getattr(self, name), least=0)
        check_rate("dropout", self.dropout)


TRACK_HEADS = {
    "linear": {"hidden_size": 0, "num_heads": 0},
    "hidden": {"hidden_size": 256, "num_heads": 0},
    "attention": {"hidden_size": 0, "num_heads": 4},
}


class TrackHead(snt.Module):
    """Non-negative signal of every track: `[B, T, C]` to `[B, T, num_tracks]`, a linear layer and softplus.

    Before the linear layer, where the configuration has them: attention of every bin to every bin, whose answer is set
    beside the embedding, then a hidden layer with GELU. T is free. In training, dropout takes its share of what the
    hidden and the linear layer read, the embedding too.

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

    def __call__(
        self, embedding: tf.Tensor, is_training: bool = False, key: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The signal; `key`, int32 `[2]`, (seed, step), is what dropout is drawn from in training."""
        rate = self.config.dropout if is_training else 0.0
        x = embedding
        if self._projections is not None:
            attended = _attend(x, self._projections, self.config.num_heads)
            x = tf.concat([x, attended], -1)  # [B, T, C + H * V]
        if self._hidden is not None:
            x = gelu(self._hidden(_dropped(x, rate, key, f"{self.name}/hidden")))
        return tf.nn.softplus(self._linear(_dropped(x, rate, key, f"{self.name}/linear")))


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
    hidden_size: int = 0
    """Channels of a hidden layer. 0: none."""
    dropout: float = 0.0
    """Share of what each layer after attention reads that is dropped in training."""

    def __post_init__(self):
        for name in ("num_heads", "key_size", "value_size"):
            check_whole(name, getattr(self, name))
        check_whole("hidden_size", self.hidden_size, least=0)
        check_rate("dropout", self.dropout)


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
    T is that of the first call. Not of that paper, and only where the configuration has them: a hidden layer with GELU
    on every bin before the flattening, and dropout, which in training takes its share of what the hidden and the dense
    layer read.

    Args:
        config: sizes.
    """

    def __init__(self, config: ActivityHeadConfig, name: str = "activity"):
        super().__init__(name=name)
        self.config = config
        self._projections = _projections(config.num_heads, config.key_size, config.value_size)
        self._hidden = Linear(config.hidden_size, name="hidden") if config.hidden_size else None
        self._dense = Linear(1, name="dense")

    def __call__(
        self, embedding: tf.Tensor, is_training: bool = False, key: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The number; `key`, int32 `[2]`, (seed, step), is what dropout is drawn from in training."""
        rate = self.config.dropout if is_training else 0.0
        x = _attend(embedding, self._projections, self.config.num_heads)  # [B, T, H * V]
        if self._hidden is not None:
            x = gelu(self._hidden(_dropped(x, rate, key, f"{self.name}/hidden")))
        x = _dropped(x, rate, key, f"{self.name}/dense")
        _, bins, channels = x.shape
        return tf.nn.softplus(self._dense(tf.reshape(x, [-1, bins * channels])))


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


def _dropped(x: tf.Tensor, rate: float, key: tf.Tensor | None, name: str) -> tf.Tensor:
    """x `[B, T, C]` after dropout, which is a function of (key, name)."""
    if rate and x.shape[0] is None:
        raise ValueError("training needs a fixed batch size, found None")
    return dropout(x, draw_masks(key, name, rate, 1, list(x.shape))[0], rate)
