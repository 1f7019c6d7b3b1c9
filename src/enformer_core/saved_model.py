"""A model as TensorFlow functions: for evaluation in this process and as a SavedModel for others."""

from pathlib import Path

import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer
from enformer_core.perceiver import Perceiver
from enformer_core.track_model import TrackModel


class Predictor(tf.Module):
    """The prediction of a model, traced once: `[B, L, 4]` one-hot float32 at the model's length.

    Calling it gives `[B, bins, tracks]` for a model with one head, or `[B, 1]` where that is an activity, or
    `[B, cell types]` for a Perceiver, else `{head: [B, bins, tracks]}`: what the loaded SavedModel answers too. It
    follows the model's variables, so new weights need no new tracing.

    Args:
        model: its variables travel with the SavedModel.
    """

    def __init__(self, model: Enformer | ActivityModel | TrackModel | Perceiver):
        super().__init__(name="predictor")
        self.model = model
        length = model.config.sequence_length
        signature = [tf.TensorSpec([None, length, 4], tf.float32, name="sequence")]

        def predict(sequence: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
            outputs = model(sequence, is_training=False)
            return outputs if len(outputs) > 1 else next(iter(outputs.values()))

        def serve(sequence: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = traced(sequence)
            return outputs if isinstance(outputs, dict) else {next(iter(model.heads)): outputs}

        self.__call__ = tf.function(predict, input_signature=signature, autograph=False)
        traced = self.__call__.get_concrete_function()
        self._serve = tf.function(serve, input_signature=signature, autograph=False)
        # XLA compiles once for each size of batch; a SavedModel goes without it and runs anywhere.
        self._compiled = tf.function(traced, jit_compile=True, autograph=False)

    def predict(self, sequence: tf.Tensor, head: str) -> tf.Tensor:
        """The output of one head, `[B, bins, tracks]`, `[B, 1]` or `[B, cell types]`, compiled for this process."""
        outputs = self._compiled(sequence)
        return outputs[head] if isinstance(outputs, dict) else outputs

    def save(self, folder: Path) -> None:
        """Writes a SavedModel: callable when loaded, and with a serving signature `sequence` to one tensor per head."""
        tf.saved_model.save(self, str(folder), signatures={"serving_default": self._serve})
