"""What simple features say of a construct's activity, or of a track's signal: the bar that a trained model has to pass.

Of activities they are ridge regressions (Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634) on standardised
features, their penalty chosen by cross-validation over clusters of the constructs they are fitted to: over single
constructs, relatives would speak for one another.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from enformer_core import dna
from enformer_core.enformer import BIN_SIZE_BP
from enformer_core.metrics import TrackCorrelation
from mlproject.data.batches import windows_in_order
from mlproject.data.constructs import Construct
from mlproject.data.records import TrackDataset

_K = 5
_PARTS = 5
_PENALTIES = np.logspace(-2, 6, 33)


def site_presence(constructs: Sequence[Construct]) -> np.ndarray:
    """Which annotated sites are on each construct: 0 or 1, `[n, sites]` float64, sites in the order of their names."""
    names = sorted({site.name for construct in constructs for site in construct.sites})
    there = [{site.name for site in construct.sites} for construct in constructs]
    return np.array([[name in sites for name in names] for sites in there], np.float64).reshape(
        len(there), len(names)
    )


def kmer_frequencies(constructs: Sequence[Construct]) -> np.ndarray:
    """`kmer_shares` of 5-mers of constructs: `[n, 512]` float64."""
    return kmer_shares(construct.sequence for construct in constructs)


def kmer_shares(sequences: Iterable[str], k: int = _K) -> np.ndarray:
    """The share of each k-mer, on either strand, among those without N: `[n, F]` float64, F is 512 for k = 5.

    k-mers are in the order of the alphabet, by the first of the names on both strands. A row of zeros where no k-mer is
    without N.
    """
    count = 4**k
    powers = 4 ** np.arange(k)[::-1]
    numbers = np.arange(count)
    digits = numbers[:, np.newaxis] // powers % 4
    other_strand = (3 - digits[:, ::-1]) @ powers
    names, column = np.unique(np.minimum(numbers, other_strand), return_inverse=True)
    rows = []
    for sequence in sequences:
        codes = dna.codes(sequence)
        if len(codes) < k:
            rows.append(np.zeros(len(names)))
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, k)
        whole = windows[(windows < 4).all(axis=1)]
        found = np.bincount(column[whole @ powers], minlength=len(names))
        rows.append(found / max(1, len(whole)))
    return np.array(rows).reshape(len(rows), len(names))


def gc_content(sequences: Iterable[str]) -> np.ndarray:
    """The share of G and C among the bases that are not N: `[n]` float64, 0 where none is."""
    counts = (np.bincount(dna.codes(sequence), minlength=5) for sequence in sequences)
    return np.array([(found[1] + found[2]) / max(1, found[:4].sum()) for found in counts], np.float64)


FEATURES: Mapping = {"sites": site_presence, "kmers": kmer_frequencies}


def ridge_predictions(
    features: np.ndarray, activity: np.ndarray, known: np.ndarray, clusters: Sequence[str]
) -> np.ndarray:
    """Predictions for every construct from those whose activity is known: float64 of the shape of `activity`.

    Args:
        features: `[n, F]`; with no feature at all there is no prediction: NaN.
        activity: `[n]`, or `[n, outputs]` for regressions of their own, each with its own penalty.
        known: bool `[n]`: which constructs the regression is fitted to.
        clusters: of each construct, what the penalty's cross-validation keeps together.
    """
    if not features.shape[1]:
        return np.full(activity.shape, np.nan)
    groups = np.asarray(clusters)[known]
    scaler = StandardScaler().fit(features[known])
    scaled, measured = scaler.transform(features), activity[known].reshape(known.sum(), -1)
    of_known = scaled[known]
    parts = min(_PARTS, len(set(groups)))
    if parts == 1:  # of one cluster alone, generalised cross-validation over its constructs
        models = [RidgeCV(_PENALTIES).fit(of_known, values) for values in measured.T]
        return np.stack([model.predict(scaled) for model in models], 1).reshape(activity.shape)
    errors = np.zeros((len(_PENALTIES), measured.shape[1]))
    for train, test in GroupKFold(parts).split(of_known, groups=groups):
        fitted = _Ridge(of_known[train], measured[train])
        for number, penalty in enumerate(_PENALTIES):
            predicted = fitted.predict(of_known[test], penalty)
            errors[number] += ((predicted - measured[test]) ** 2).mean(0)
    best = _PENALTIES[errors.argmin(0)]
    return _Ridge(of_known, measured).predict(scaled, best).reshape(activity.shape)


class _Ridge:
    """Ridge regressions of one set of examples for any penalties: the eigenvectors of the features serve them all.

    A fit for each penalty takes thirty times as long.

    Args:
        features: `[n, F]` float64.
        values: `[n, outputs]`.
    """

    def __init__(self, features: np.ndarray, values: np.ndarray):
        self._center, self._mean = features.mean(0), values.mean(0)
        centred = features - self._center
        eigenvalues, self._vectors = np.linalg.eigh(centred.T @ centred)
        self._eigenvalues = np.maximum(eigenvalues, 0)
        self._turned = self._vectors.T @ (centred.T @ (values - self._mean))

    def predict(self, features: np.ndarray, penalty: np.ndarray | float) -> np.ndarray:
        """`[m, F]` to `[m, outputs]`, with one penalty or one for each output."""
        weights = self._vectors @ (self._turned / (self._eigenvalues[:, np.newaxis] + penalty))
        return (features - self._center) @ weights + self._mean


OF_TRACKS = ("bin_mean", "gc")


def track_baselines(dataset: TrackDataset, subset: str) -> dict[str, np.ndarray]:
    """Pearson r of each track of a subset with guesses that know no more than the training windows: `[tracks]` float64.

    `bin_mean`: the training mean of the track at the same bin of a window. `gc`: the share of G and C among the known
    bases of the bin, with the sign that it has in the training windows. NaN where one of both does not vary.
    """
    tracks = dataset.statistics.num_targets
    in_training = TrackCorrelation(tracks)
    total = np.zeros((dataset.head_bins(), tracks))
    for sequence, target in windows_in_order(dataset, "train"):
        total += target
        in_training.update(*_as_batches(target, _gc(sequence, len(target))))
    mean = total / dataset.count("train")
    sign = np.where(in_training.pearson_r() < 0, -1.0, 1.0)
    found = {name: TrackCorrelation(tracks) for name in OF_TRACKS}
    for sequence, target in windows_in_order(dataset, subset):
        found["bin_mean"].update(*_as_batches(target, mean))
        found["gc"].update(*_as_batches(target, sign * _gc(sequence, len(target))))
    return {name: correlation.pearson_r() for name, correlation in found.items()}


def _gc(codes: np.ndarray, bins: int) -> np.ndarray:
    """Share of G and C among the known bases of each of the central bins: `[bins, 1]`; 0 where none is known."""
    crop = (len(codes) - bins * BIN_SIZE_BP) // 2
    binned = codes[crop : crop + bins * BIN_SIZE_BP].reshape(bins, BIN_SIZE_BP)
    gc = ((binned == 1) | (binned == 2)).sum(1, keepdims=True)
    return gc / np.maximum(1, (binned < 4).sum(1, keepdims=True))


def _as_batches(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one window, what a correlation takes: `[1, bins, tracks]` float32 both."""
    return target[np.newaxis].astype(np.float32), np.broadcast_to(prediction, target.shape)[
        np.newaxis
    ].astype(np.float32)
