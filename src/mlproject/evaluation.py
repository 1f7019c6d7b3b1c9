"""How well predictions fit: Pearson r and R2 of tracks over batches, correlations of activities with intervals."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from scipy import stats

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


class Correlation(NamedTuple):
    """Pearson and Spearman r, with the ends of their intervals; NaN where undefined."""

    pearson: float
    pearson_low: float
    pearson_high: float
    spearman: float
    spearman_low: float
    spearman_high: float


_RESAMPLES = 1000
_CONFIDENCE = 0.95


def correlation(measured: np.ndarray, predicted: np.ndarray, clusters: Sequence[str]) -> Correlation:
    """How predictions follow measurements, with 95% intervals by a bootstrap over clusters.

    Related sequences are no independent evidence: whole clusters are drawn, with replacement, a thousand times, and the
    interval is that of percentiles (Cameron, Gelbach and Miller 2008, doi:10.1162/rest.90.3.414). With fewer than three
    clusters, or where r is undefined, it is NaN.

    Args:
        measured: `[n]`.
        predicted: `[n]`.
        clusters: of each of them, what is drawn together.
    """
    values = np.stack([measured, predicted]).astype(np.float64)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    rows = [np.flatnonzero(member == cluster) for cluster in range(len(names))]
    pearson, spearman = _both(values)
    resamples = _RESAMPLES if len(rows) > 2 and not np.isnan(pearson) else 0
    random = np.random.default_rng(0)
    draws = [
        _both(values[:, np.concatenate([rows[cluster] for cluster in drawn])])
        for drawn in random.integers(0, len(rows), (resamples, len(rows)))
    ]
    resampled = np.array(draws).reshape(-1, 2)
    resampled = resampled[~np.isnan(resampled).any(1)]
    low, high = np.full((2, 2), np.nan)
    if len(resampled):
        low, high = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], axis=0)
    return Correlation(pearson, float(low[0]), float(high[0]), spearman, float(low[1]), float(high[1]))


def construct_table(windows: pd.DataFrame, values: Sequence[str] = ("predicted",)) -> pd.DataFrame:
    """A row for each construct from a row for each window: means and standard deviations over offsets.

    Args:
        windows: columns of the construct (index, name, group, cluster, fold, activity), and the values.
        values: columns of numbers; NaN stays NaN.

    Returns:
        The columns of the construct, windows (how many), then NAME and NAME_sd (of a sample; NaN for one window) for
        each of the values.
    """
    groups = windows.groupby(["index", "name", "group", "cluster", "fold", "activity"], sort=False)
    columns = {"windows": groups.size()}
    for name in values:
        columns |= {name: groups[name].mean(), f"{name}_sd": groups[name].std()}
    return pd.DataFrame(columns).reset_index()


def compare_predictors(constructs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each column of predictions: predictor, the fields of `Correlation`, constructs, clusters."""
    rows = []
    for column in columns:
        found = correlation(
            constructs["activity"].to_numpy(), constructs[column].to_numpy(), constructs["cluster"]
        )
        rows.append({"predictor": column, **found._asdict()})
    return pd.DataFrame(rows).assign(constructs=len(constructs), clusters=constructs["cluster"].nunique())


def _both(values: np.ndarray) -> tuple[float, float]:
    """Pearson and Spearman r of `[2, n]`; NaN where n is below 3 or one of the rows does not vary."""
    if values.shape[1] < 3 or (np.ptp(values, axis=1) == 0).any():
        return float("nan"), float("nan")
    return float(np.corrcoef(values)[0, 1]), float(np.corrcoef(stats.rankdata(values, axis=1))[0, 1])
