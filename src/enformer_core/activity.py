"""A trunk with an activity head: what fine-tuning on constructs trains.

    sequence [B, L, 4]  ->  trunk [B, L/128, 2C]  ->  ActivityHead [B, 1]

The trunk keeps its track heads, so that a fine-tuned model predicts tracks too.
"""

import dataclasses

import sonnet as snt
import tensorflow as tf

from enformer_core import initial
from enformer_core.enformer import Enformer, EnformerConfig
from enformer_core.heads import ActivityHead, ActivityHeadConfig


@dataclasses.dataclass(frozen=True)
class ActivityConfig:
    """Everything that makes one model; saved beside its weights."""

    enformer: EnformerConfig
    activity: ActivityHeadConfig

    @property
    def sequence_length(self) -> int:
        """Input in bp."""
        return self.enformer.sequence_length


def activity_head(config: ActivityHeadConfig) -> ActivityHead:
    """A head with the names, and so the first weights of a seed, that it has in an `ActivityModel`."""
    with tf.name_scope("activity_model/"):  # the slash leaves any scope that this is called in
        return ActivityHead(config)


class ActivityModel(snt.Module):
    """The model: `[B, L, 4]` one-hot float32 to `{"activity": [B, 1]}` float32.

    Args:
        enformer: its trunk is used as it is, at its own sequence length.
        config: of the head.
        seed: of the head's initial weights.
    """

    def __init__(self, enformer: Enformer, config: ActivityHeadConfig, seed: int = 0):
        super().__init__(name="activity_model")
        self.enformer = enformer
        self.config = ActivityConfig(enformer.config, config)
        self.head = activity_head(config)
        self.heads = {"activity": self.head}
        bins = enformer.config.num_bins
        self.head(tf.zeros([1, bins, 2 * enformer.config.channels]))  # makes the variables
        initial.initialize(self.head, seed)

    @property
    def tracks(self) -> dict[str, list[dict[str, str]]]:
        """As `Enformer.tracks`."""
        return self.enformer.tracks

    def __call__(
        self, sequence: tf.Tensor, is_training: bool, key: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The activity; of a sequence of the model's own length only. `key` is as `Enformer.trunk` takes it."""
        embedding = self.enformer.trunk(sequence, is_training, key)
        return {"activity": self.head(embedding, is_training, key)}
