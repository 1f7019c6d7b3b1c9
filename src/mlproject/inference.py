"""Predictions of windows by any kind of model: activity and the signal of one track; or signal averaged over windows.

Shapes: n windows, W bp of a window, bins of 128 bp.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.dna import reverse_complement
from enformer_core.enformer import BIN_SIZE_BP, Enformer
from enformer_core.shifts import ShiftedTrunk
from enformer_core.track_model import TrackModel
from mlproject import tensorhub
from mlproject.compilation import filled_up
from mlproject.data.constructs import Site
from mlproject.data.predictions import Moments
from mlproject.errors import InputError
from mlproject.options import nearest
from mlproject.tensorhub import TensorHubModel

Model = Enformer | ActivityModel | TrackModel | TensorHubModel


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

    def __init__(self, model: Model, head: str, track: int, batch_size: int):
        self._batch_size = batch_size
        if isinstance(model, TensorHubModel):
            self._predict = self._of_tensorhub(model, head, track)
            return
        count = count_tracks(model, head)
        if track >= count:
            raise InputError(f"--track: found {track}; head {head} has tracks 0 to {count - 1}")
        enformer, chosen = trunk_of(model), track_heads(model)[head]

        @tf.function(jit_compile=True, autograph=False)
        def predict(sequence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            embedding = enformer.trunk(sequence, is_training=False)
            signal = chosen(embedding)[..., track]
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
            filled = tf.constant(filled_up(batch, self._batch_size))
            parts.append([tensor.numpy()[: len(batch)] for tensor in self._predict(filled)])
        return WindowPrediction(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def check_head(head: str, names: Sequence[str]) -> None:
    """Refuses a head that a model does not have.

    Raises:
        InputError: names the option and what there is.
    """
    if head not in names:
        there = ", ".join(names) or "none"
        raise InputError(f"--head: found {head!r}{nearest(head, names)}; the model has {there}")


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


# --- signal over fragments ----------------------------------------------------------------------------------------


_TENSORHUB_LENGTH = 196_608  # bp that the TF-Hub form looks at


def track_heads(model: Model) -> dict[str, Any]:
    """The track heads of a model by name, one that was trained on its trunk first; of the TF-Hub form their sizes."""
    if isinstance(model, TensorHubModel):
        return dict(model.heads)
    trained = model.heads if isinstance(model, TrackModel) else {}
    return {**trained, **trunk_of(model).heads}


def count_tracks(model: Model, head: str) -> int:
    """Tracks of a head.

    Raises:
        InputError: the model does not have it.
    """
    heads = track_heads(model)
    if isinstance(model, TensorHubModel):
        try:
            empty = np.zeros([1, BIN_SIZE_BP, 4], np.float32)
            return heads[head] if head in heads else model.predict(empty, head).shape[-1]
        except ValueError as error:
            raise InputError(str(error)) from None
    check_head(head, list(heads))
    channels = 2 * trunk_of(model).config.channels
    return heads[head](tf.zeros([1, 1, channels])).shape[-1]


def digest(model: Model) -> str:
    """What changes with the numbers that a model predicts; of the TF-Hub form, which shows no variables, its files."""
    if not isinstance(model, TensorHubModel):
        return checkpoints.model_digest(model)
    files = sorted(path for path in Path(model.source).rglob("*") if path.is_file())
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()


class Geometry(NamedTuple):
    """Of one call of a model: it reads `length` bp, and predicts `bins` from `flank` bp on."""

    length: int
    bins: int
    flank: int

    @property
    def span(self) -> int:
        """Predicted bp."""
        return self.bins * BIN_SIZE_BP


def geometry(model: Model, length: int, both_strands: bool) -> Geometry:
    """What a model predicts of this length; with 0, of its own.

    An Enformer crops at its own length only, the TF-Hub form what is more than its 896 bins. Of an odd crop the two
    strands predict bins that are one apart, and only those that both do count.

    Raises:
        InputError: the model cannot take this length.
    """
    if isinstance(model, TensorHubModel):
        length = length or _TENSORHUB_LENGTH
        if length > tensorhub.SEQUENCE_LENGTH:
            raise InputError(
                f"--length: found {length}; the TF-Hub form takes {tensorhub.SEQUENCE_LENGTH} bp at most"
            )
        bins = min(length // BIN_SIZE_BP, tensorhub.TARGET_LENGTH)
    else:
        config = trunk_of(model).config
        length = length or config.sequence_length
        bins = config.num_bins if length == config.sequence_length else length // BIN_SIZE_BP
    cropped = length // BIN_SIZE_BP - bins
    odd = cropped % 2 if both_strands else 0
    if bins == odd:
        raise InputError("--strands: both strands of one bin after an odd crop share none; choose forward")
    return Geometry(length, bins - odd, (cropped // 2 + odd) * BIN_SIZE_BP)


class SignalPredictor:
    """The mean signal of chosen tracks over windows around each fragment, and over both strands.

    As published, N shifts are N + 1 windows, from N // 2 bp before the fragment to N - N // 2 bp after it. The reverse
    complement is read back: bins in reverse, tracks exchanged with their partners.

    Args:
        model: predicts with `is_training=False`.
        head: track head.
        tracks: positions in it, from 0.
        partners: for each of them, the position of the track that is read on the other strand.
        shape: of a call.
        shifts: N.
        both_strands: whether the reverse complement is predicted too.
        variance: whether squared deviations are summed.
        batch_size: fragments of a call of the model.

    Raises:
        InputError: the model has no such head.
    """

    def __init__(
        self,
        model: Model,
        head: str,
        tracks: Sequence[int],
        partners: Sequence[int],
        shape: Geometry,
        *,
        shifts: int,
        both_strands: bool,
        variance: bool,
        batch_size: int,
    ):
        self.shape, self.shifts = shape, shifts
        self.count = (shifts + 1) * (1 + both_strands)
        """Predictions that each answer is the mean of."""
        self._both_strands, self._variance, self._batch_size = both_strands, variance, batch_size
        columns, places = np.unique([*tracks, *(partners if both_strands else [])], return_inverse=True)
        self._forward, self._reverse = places[: len(tracks)], places[len(tracks) :]
        self._of_windows = _of_windows(model, head, columns, shape, shifts)

    @property
    def before(self) -> int:
        """How many bp before a fragment what is read for it begins."""
        return self.shape.flank + self.shifts // 2

    @property
    def length(self) -> int:
        """How many bp are read for a fragment."""
        return self.shape.length + self.shifts

    def __call__(self, sequences: np.ndarray) -> Moments:
        """Moments, each `[n, bins, tracks]` float64, of one-hot `[n, length, 4]` float32, n up to `batch_size`."""
        mean = np.zeros([len(sequences), self.shape.bins, len(self._forward)])
        spread = np.zeros_like(mean) if self._variance else None
        batch = filled_up(sequences, self._batch_size)
        for seen, values in enumerate(self._predictions(batch), 1):
            step = values[: len(sequences)] - mean
            mean += step / seen
            if spread is not None:
                spread += step * (values[: len(sequences)] - mean)
        return Moments(mean, spread)

    def _predictions(self, batch: np.ndarray) -> Iterator[np.ndarray]:
        bins = self.shape.bins
        for values in self._of_windows(tf.constant(batch)):
            yield values.numpy()[:, -bins:, self._forward]
        if self._both_strands:
            for values in self._of_windows(tf.constant(reverse_complement(batch))):
                yield values.numpy()[:, ::-1][:, :bins, self._reverse]


def _of_windows(
    model: Model, head: str, columns: np.ndarray, shape: Geometry, shifts: int
) -> Callable[[tf.Tensor], Iterator[tf.Tensor]]:
    """What computes the chosen tracks of each window of a sequence."""
    if isinstance(model, TensorHubModel):
        bins = min(shape.length // BIN_SIZE_BP, tensorhub.TARGET_LENGTH)

        def of_tensorhub(sequence: tf.Tensor) -> Iterator[tf.Tensor]:
            for shift in range(shifts + 1):
                window = sequence[:, shift : shift + shape.length].numpy()
                yield tf.constant(model.predict(window, head, bins)[..., columns])

        return of_tensorhub
    heads = track_heads(model)
    check_head(head, list(heads))
    chosen, enformer = heads[head], trunk_of(model)

    def read(embedding: tf.Tensor) -> tf.Tensor:
        return tf.gather(chosen(embedding), columns, axis=-1)

    return ShiftedTrunk(enformer, shape.length, shifts, read)


def trunk_of(model: Enformer | ActivityModel | TrackModel) -> Enformer:
    """The Enformer in a model."""
    return model if isinstance(model, Enformer) else model.enformer
