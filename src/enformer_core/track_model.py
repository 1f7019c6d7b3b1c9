"""A trunk with one new track head: what training a head on new signal makes.

sequence [B, L, 4]  ->  trunk [B, bins, 2C]  ->  TrackHead [B, bins, tracks]
"""

import dataclasses

import sonnet as snt
import tensorflow as tf

from enformer_core import initial
from enformer_core.enformer import Enformer, EnformerConfig, head_module_name
from enformer_core.heads import TrackHead, TrackHeadConfig


@dataclasses.dataclass(frozen=True)
class TrackModelConfig:
    """Everything that makes one model; saved beside its weights."""

    enformer: EnformerConfig
    name: str
    """Of the head."""
    head: TrackHeadConfig

    @property
    def sequence_length(self) -> int:
        """Input in bp."""
        return self.enformer.sequence_length


def track_head(config: TrackHeadConfig, name: str) -> TrackHead:
    """A head of this name with the names, and so the first weights of a seed, that it has in a `TrackModel`."""
    with tf.name_scope("track_model/"):  # the slash leaves any scope that this is called in
        return TrackHead(config, head_module_name(name), reads_data=True)


class TrackModel(snt.Module):
    """The model: `[B, L, 4]` one-hot float32 to `{name: [B, bins, tracks]}` float32.

    Args:
        enformer: its trunk is used as it is; its own heads are taken off.
        config: of the new head.
        name: of the new head.
        seed: of the head's initial weights.
    """

    def __init__(self, enformer: Enformer, config: TrackHeadConfig, name: str, seed: int = 0):
        super().__init__(name="track_model")
        enformer.heads = {}
        enformer.tracks = {}
        enformer.config = dataclasses.replace(enformer.config, heads={})
        self.enformer = enformer
        self.config = TrackModelConfig(enformer.config, name, config)
        self.head = track_head(config, name)
        self.heads = {name: self.head}
        self.head(tf.zeros([1, 1, 2 * enformer.config.channels]))  # makes the variables
        initial.initialize(self.head, seed)

    @property
    def tracks(self) -> dict[str, list[dict[str, str]]]:
        """As `Enformer.tracks`."""
        return self.enformer.tracks

    def __call__(
        self, sequence: tf.Tensor, is_training: bool, key: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The prediction; the trunk is frozen, so it is called as in inference whatever `is_training` says.

        `key`, int32 `[2]`, (seed, step), is what the head's dropout is drawn from in training.
        """
        embedding = self.enformer.trunk(sequence, is_training=False)
        return {self.config.name: self.head(embedding, is_training, key)}
