"""Differences between predictors of the same things, paired, with intervals.

Shapes: S seeds, T tracks, C clusters, n values, R resamples.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from mlproject.reporting.effects import standard_errors

_CONFIDENCE = 0.95
_RESAMPLES = 2_000
_LEAST_CLUSTERS = 6  # as intervals of correlations have it: draws of fewer are too alike
_CHUNK = 100  # resamples at a time: [_CHUNK, n] at once


class Difference(NamedTuple):
    """A mean difference; low and high are NaN where no interval is known."""

    value: float
    low: float
    high: float
    seeds: int
    tracks: int
    """That have a number with every seed."""


def paired_difference(scores: pd.DataFrame, first: str, second: str) -> Difference:
    """The mean of `first` minus `second` over seeds and tracks, with a 95% interval.

    With two seeds or more it is of a bootstrap over seeds and tracks at once, as that of `effects`; with one seed it is
    of Student's t over tracks and says nothing of other seeds.

    Args:
        scores: seed, track, and both columns; a track that is undefined with some seed is left out.
        first, second: columns.
    """
    wide = scores.assign(gain=scores[first] - scores[second]).pivot_table(
        index="seed", columns="track", values="gain", dropna=False
    )
    values = wide.to_numpy(np.float64)
    values = values[:, np.isfinite(values).all(0)]
    seeds, tracks = values.shape
    if not tracks:
        return Difference(np.nan, np.nan, np.nan, seeds, 0)
    error, freedom = np.nan, 0
    if seeds > 1:
        error, freedom = float(standard_errors(values[np.newaxis])[0]), seeds - 1
    elif tracks > 1:
        error, freedom = float(stats.sem(values[0])), tracks - 1
    half = error * stats.t.ppf((1 + _CONFIDENCE) / 2, freedom) if freedom else np.nan
    mean = float(values.mean())
    return Difference(mean, mean - half, mean + half, seeds, tracks)


class CorrelationDifference(NamedTuple):
    """One Pearson r minus another; low and high are NaN with fewer than six clusters."""

    value: float
    low: float
    high: float


def correlation_difference(
    measured: np.ndarray, first: np.ndarray, second: np.ndarray, clusters: np.ndarray
) -> CorrelationDifference:
    """r of `first` minus r of `second` with what was measured, and its 95% interval: a bootstrap over clusters.

    Both are drawn together, so what they have in common takes nothing from the difference.

    Args:
        measured, first, second: `[n]`.
        clusters: of each of them, what is drawn together.
    """
    values = np.stack([measured, first, second]).astype(np.float64)
    values = values - values.mean(1, keepdims=True)
    names, member = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    found = _weighted(values, np.ones((1, values.shape[1])))[0]
    low = high = np.nan
    if len(names) >= _LEAST_CLUSTERS and np.isfinite(found):
        random = np.random.default_rng(0)
        drawn = []
        for begin in range(0, _RESAMPLES, _CHUNK):
            size = min(_CHUNK, _RESAMPLES - begin)
            times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size)
            drawn.append(_weighted(values, times[:, member].astype(np.float64)))
        resampled = np.concatenate(drawn)
        resampled = resampled[np.isfinite(resampled)]
        if len(resampled) > 0.95 * _RESAMPLES:
            low, high = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return CorrelationDifference(float(found), float(low), float(high))


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The difference of both r where each of `[3, n]` counts as often as `[R, n]` says: `[R]`, NaN if undefined."""
    total = weights.sum(1)
    means = [weights @ one / total for one in values]
    variances = [weights @ one**2 / total - mean**2 for one, mean in zip(values, means, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = [
            (weights @ (values[0] * values[k]) / total - means[0] * means[k]) / np.sqrt(variances[0] * variances[k])
            for k in (1, 2)
        ]  # fmt: skip
    return r[0] - r[1]
