"""Predictions of windows by any kind of model: their activity, and the signal of one track.

Shapes: n windows, W bp of a window, bins of 128 bp.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.enformer import BIN_SIZE_BP, Enformer
from mlproject.data.constructs import Site
from mlproject.errors import InputError
from mlproject.options import nearest
from mlproject.tensorhub import TensorHubModel


class WindowPrediction(NamedTuple):
    """Of windows, float32: `activity` `[n]`, NaN without such a head; `signal` of one track `[n, bins]`."""

    activity: np.ndarray
    signal: np.ndarray


class WindowPredictor:
    """What a model says of windows of one length, compiled for batches of one size.

    Args:
        model: predicts with `is_training=False`.
        head: track head.
        track: position in it, from 0.
        batch_size: windows of a call of the model.

    Raises:
        InputError: the model has no such head, or the head no such track.
    """

    def __init__(
        self, model: Enformer | ActivityModel | TensorHubModel, head: str, track: int, batch_size: int
    ):
        self._batch_size = batch_size
        if isinstance(model, TensorHubModel):
            self._predict = self._of_tensorhub(model, head, track)
            return
        enformer = model.enformer if isinstance(model, ActivityModel) else model
        tracks = enformer.config.heads
        if head not in tracks:
            raise InputError(
                f"--head: found {head!r}{nearest(head, list(tracks))}; the model has {', '.join(tracks)}"
            )
        if track >= tracks[head]:
            raise InputError(f"--track: found {track}; head {head} has tracks 0 to {tracks[head] - 1}")

        @tf.function(jit_compile=True, autograph=False)
        def predict(sequence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            embedding = enformer.trunk(sequence, is_training=False)
            signal = enformer.heads[head](embedding)[..., track]
            if isinstance(model, ActivityModel):
                return model.head(embedding)[:, 0], signal
            return tf.fill(tf.shape(signal)[:1], np.float32(np.nan)), signal

        self._predict = predict

    def _of_tensorhub(self, model: TensorHubModel, head: str, track: int):
        def predict(sequence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            try:
                signal = model.predict(sequence, head)
            except ValueError as error:
                raise InputError(str(error)) from None
            if track >= signal.shape[-1]:
                raise InputError(
                    f"--track: found {track}; head {head} has tracks 0 to {signal.shape[-1] - 1}"
                )
            return tf.fill([len(sequence)], np.float32(np.nan)), tf.convert_to_tensor(signal[..., track])

        return predict

    def __call__(self, sequences: np.ndarray) -> WindowPrediction:
        """The prediction for one-hot `[n, W, 4]` float32."""
        parts = []
        for start in range(0, len(sequences), self._batch_size):
            batch = sequences[start : start + self._batch_size]
            # XLA compiles for each size of batch
            filled = np.concatenate([batch, np.repeat(batch[:1], self._batch_size - len(batch), axis=0)])
            parts.append([tensor.numpy()[: len(batch)] for tensor in self._predict(tf.constant(filled))])
        return WindowPrediction(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def site_maxima(signal: np.ndarray, sites: Sequence[Site], offset: int) -> dict[int, float]:
    """The highest value of each site, by its position in `sites`; sites outside of the window have none.

    Args:
        signal: of one window, `[bins]`; a bin counts for a site that has any of its bases.
        sites: on the construct, in bp.
        offset: where the window starts on the construct, in bp.
    """
    found = {}
    for number, site in enumerate(sites):
        first = max(0, (site.start - offset) // BIN_SIZE_BP)
        last = min(len(signal), -((offset - site.end) // BIN_SIZE_BP))
        if first < last:
            found[number] = float(signal[first:last].max())
    return found
