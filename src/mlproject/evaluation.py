"""evaluate(): Pearson r and R2 of every track over a finite set of batches."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core.metrics import TrackCorrelation
from mlproject.training import Batch


class Evaluation(NamedTuple):
    """What was found: `pearson_r` and `r2` `[tracks]` float64, NaN where undefined; `n` values for each track."""

    pearson_r: np.ndarray
    r2: np.ndarray
    n: int


def evaluate(
    predict: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[Batch], num_tracks: int
) -> Evaluation:
    """Compares predictions with targets.

    Args:
        predict: `[B, L, 4]` to `[B, bins, tracks]`.
        batches: of `sequence` `[B, L, 4]` and `target` `[B, bins, tracks]`; every value counts once.
        num_tracks: tracks.
    """
    correlation = TrackCorrelation(num_tracks)
    for batch in batches:
        correlation.update(np.asarray(batch["target"]), predict(batch["sequence"]).numpy())
    return Evaluation(correlation.pearson_r(), correlation.r2(), correlation.n)
