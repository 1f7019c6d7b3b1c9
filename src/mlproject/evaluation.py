"""How well predictions fit: Pearson r and R2 of tracks over batches, correlations of activities with intervals."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from scipy import stats

from enformer_core.metrics import TrackCorrelation
from mlproject.training import Batch

See = Callable[[np.ndarray, np.ndarray], None]


class Evaluation(NamedTuple):
    """What was found: `pearson_r` and `r2` `[tracks]` float64, NaN where undefined; `n` values for each track."""

    pearson_r: np.ndarray
    r2: np.ndarray
    n: int
    loss: float
    """Mean over windows, NaN where none was asked for."""


def evaluate(
    predict: Callable[[Batch], tf.Tensor],
    batches: Iterable[Batch],
    num_tracks: int,
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    see: See | None = None,
) -> Evaluation:
    """Compares predictions with targets.

    Args:
        predict: a batch to `[B, bins, tracks]`.
        batches: what `predict` takes, and `target` `[B, bins, tracks]`; every value counts once.
        num_tracks: tracks.
        loss: of (target, prediction), a scalar: the mean over a batch.
        see: is shown the targets and predictions of each batch.
    """
    correlation = TrackCorrelation(num_tracks)
    losses, windows = [], []
    for batch in batches:
        prediction = predict(batch)
        target, predicted = np.asarray(batch["target"]), prediction.numpy()
        correlation.update(target, predicted)
        if see is not None:
            see(target, predicted)
        windows.append(len(prediction))
        losses.append(float("nan") if loss is None else float(loss(batch["target"], prediction)))
    mean = float(np.average(losses, weights=windows)) if windows else float("nan")
    return Evaluation(correlation.pearson_r(), correlation.r2(), correlation.n, mean)


def filled(predict: Callable[[tf.Tensor], tf.Tensor], batch_size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """`predict` for up to `batch_size` rows: fewer are filled up with zeros, because XLA compiles for each size."""

    def call(inputs: tf.Tensor) -> tf.Tensor:
        rows = inputs.shape[0]
        return predict(tf.pad(inputs, [[0, batch_size - rows]] + [[0, 0]] * (inputs.shape.rank - 1)))[:rows]

    return call


def mean_over_tracks(values: np.ndarray) -> float:
    """Mean of the tracks that are not NaN; NaN where all are."""
    return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


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
_PRODUCTS = [("m", "m"), ("a", "a"), ("b", "b"), ("m", "a"), ("m", "b")]
_LEAST_CLUSTERS = 6  # of fewer, draws of whole clusters are too few and too alike to make an interval


def correlation(measured: np.ndarray, predicted: np.ndarray, clusters: Sequence[str]) -> Correlation:
    """How predictions follow measurements, with 95% intervals by a bootstrap over clusters.

    Related sequences are no independent evidence: whole clusters are drawn, with replacement, a thousand times, and the
    interval is that of percentiles (Cameron, Gelbach and Miller 2008, doi:10.1162/rest.90.3.414). It is NaN with fewer
    than six clusters, and where r is undefined in one draw of twenty or more.

    Args:
        measured: `[n]`.
        predicted: `[n]`.
        clusters: of each of them, what is drawn together.
    """
    values = np.stack([measured, predicted]).astype(np.float64)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(member, kind="stable")  # clusters one after the other
    count = np.bincount(member, minlength=len(names))
    first = np.cumsum(count) - count
    random = np.random.default_rng(0)
    pearson, spearman = pearson_and_spearman(*values)
    low, high = np.full((2, 2), np.nan)
    if len(names) >= _LEAST_CLUSTERS and np.isfinite(pearson):
        drawn = random.integers(0, len(names), (_RESAMPLES, len(names)))
        resampled = np.array(
            [pearson_and_spearman(*values[:, order[_stretches(first[draw], count[draw])]]) for draw in drawn]
        )
        resampled = resampled[np.isfinite(resampled).all(1)]
        if len(resampled) > 0.95 * _RESAMPLES:
            low, high = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], axis=0)
    return Correlation(pearson, float(low[0]), float(high[0]), spearman, float(low[1]), float(high[1]))


def correlation_difference(
    measured: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str],
    groups: Sequence[str],
) -> tuple[float, float, float]:
    """By how much the second prediction follows measurements better, with the ends of a 95% interval.

    It is the mean over groups of Pearson r within a group, of the second minus of the first. The interval is paired: a
    thousand times whole clusters are drawn, with replacement, the same for both. It is NaN as that of `correlation`.

    Args:
        measured: `[n]`.
        first, second: predictions `[n]`.
        clusters: of each of them, what is drawn together.
        groups: of each of them, within what r is taken, such as a cell type.
    """
    values = pd.DataFrame(np.stack([measured, first, second], axis=1).astype(np.float64), columns=[*"mab"])
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    values = values - values.groupby(member).transform("mean")  # sums of squares are of what varies
    products = pd.DataFrame({one + other: values[one] * values[other] for one, other in _PRODUCTS})
    every = pd.concat([pd.Series(1.0, values.index, name="n"), values, products], axis=1)
    own, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros([len(own), len(names), every.shape[1]])
    np.add.at(sums, (cluster, member), every.to_numpy())

    def gains(weights: np.ndarray) -> np.ndarray:
        n, m, a, b, mm, aa, bb, ma, mb = np.moveaxis(np.tensordot(weights, sums, 1), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = n * mm - m * m
            both = [
                (n * product - m * one) / np.sqrt(spread * (n * square - one * one))
                for product, one, square in ((ma, a, aa), (mb, b, bb))
            ]
        return (both[1] - both[0]).mean(-1)

    value, low, high = float(gains(np.ones([1, len(own)]))[0]), float("nan"), float("nan")
    if len(own) >= _LEAST_CLUSTERS and np.isfinite(value):
        random, share = np.random.default_rng(0), np.full(len(own), 1 / len(own))
        # a tenth at a time: there may be a hundred thousand clusters
        drawn = [gains(random.multinomial(len(own), share, _RESAMPLES // 10)) for _ in range(10)]
        found = np.concatenate(drawn)
        found = found[np.isfinite(found)]
        if len(found) > 0.95 * _RESAMPLES:
            low, high = map(float, np.quantile(found, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]))
    return value, low, high


def _stretches(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`count` whole numbers from each `first` on, one stretch after the other."""
    ends = np.cumsum(count)
    return np.repeat(first - (ends - count), count) + np.arange(ends[-1])


def pearson_and_spearman(measured: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Both r of two `[n]`; NaN where n is below 3, one of them does not vary, or a value is NaN."""
    values = np.stack([measured, predicted]).astype(np.float64)
    if values.shape[1] < 3 or not (np.ptp(values, axis=1) > 0).all():
        return float("nan"), float("nan")
    pearson, spearman = (np.corrcoef(*pair)[0, 1] for pair in (values, stats.rankdata(values, axis=1)))
    return float(pearson), float(spearman)


def within_folds(measured: np.ndarray, predicted: np.ndarray, folds: Sequence[str]) -> float:
    """Pearson r of what is left when the mean of each fold is taken from both: `[n]` each.

    Each fold's predictions come of another model. The mean of the other folds, a guess that knows nothing, is the lower
    the higher the fold's own is: pooled, such guesses have a negative r.
    """
    frame = pd.DataFrame({"measured": measured, "predicted": predicted, "fold": np.asarray(folds)})
    centred = frame.groupby("fold")[["measured", "predicted"]].transform(
        lambda values: values - values.mean()
    )
    if centred["predicted"].abs().max() < 1e-9 * max(1e-300, frame["predicted"].abs().max()):
        return float("nan")  # rounding of predictions that are one number in each fold
    return pearson_and_spearman(centred["measured"].to_numpy(), centred["predicted"].to_numpy())[0]


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
    """A row for each column of predictions: predictor, the fields of `Correlation`, r within folds, and counts.

    The last columns are pearson_within, constructs and clusters.
    """
    rows = []
    for column in columns:
        activity, predicted = constructs["activity"].to_numpy(), constructs[column].to_numpy()
        found = correlation(activity, predicted, constructs["cluster"])
        within = within_folds(activity, predicted, constructs["fold"])
        rows.append({"predictor": column, **found._asdict(), "pearson_within": within})
    return pd.DataFrame(rows).assign(constructs=len(constructs), clusters=constructs["cluster"].nunique())


def replicate_ceiling(activity: np.ndarray, spread: np.ndarray, replicates: np.ndarray) -> float:
    """The Pearson r with these measurements that a perfect predictor of the true activities can expect.

    A measurement is the true activity and noise. The part of the variance that is true, the reliability, is one less
    the mean squared standard error (`spread**2 / replicates`) over the variance of the measurements; the ceiling is
    its root (Spearman 1904, doi:10.2307/1412159). Some measurements may be noisier than others.

    Args:
        activity: `[n]` means over replicates.
        spread: `[n]` standard deviations over replicates, in the units of the activity; NaN is not known.
        replicates: `[n]` how many; NaN is not known, and the spread is then taken for the standard error itself.

    Returns:
        A number from 0, where the noise explains all of the variance, to 1; NaN where no spread is known, or the
        measurements whose spread is known do not vary.
    """
    known = np.isfinite(spread) & np.isfinite(activity)
    if known.sum() < 2 or np.ptp(activity[known]) == 0:
        return float("nan")
    error = spread[known] ** 2 / np.nan_to_num(replicates[known], nan=1.0)
    reliability = 1 - np.mean(error) / np.var(activity[known], ddof=1)
    return float(np.sqrt(max(0.0, reliability)))
