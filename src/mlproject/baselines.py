"""What simple features say of a construct's activity: the bar that a trained model has to pass.

Both are ridge regressions (Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634) on standardised features, their
penalty chosen by generalised cross-validation on the constructs they are fitted to.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from enformer_core import dna
from mlproject.data.constructs import Construct

_K = 5
_PENALTIES = np.logspace(-2, 6, 33)


def site_counts(constructs: Sequence[Construct]) -> np.ndarray:
    """How often each annotated site is on each construct: `[n, sites]` float64, sites in the order of their names."""
    names = sorted({site.name for construct in constructs for site in construct.sites})
    return np.array(
        [[sum(site.name == name for site in construct.sites) for name in names] for construct in constructs],
        np.float64,
    ).reshape(len(constructs), len(names))


def kmer_frequencies(constructs: Sequence[Construct]) -> np.ndarray:
    """The share of each 5-mer, on either strand, among those without N: `[n, 512]` float64."""
    count = 4**_K
    powers = 4 ** np.arange(_K)[::-1]
    numbers = np.arange(count)
    digits = numbers[:, np.newaxis] // powers % 4
    other_strand = (3 - digits[:, ::-1]) @ powers
    _, column = np.unique(np.minimum(numbers, other_strand), return_inverse=True)
    rows = []
    for construct in constructs:
        windows = np.lib.stride_tricks.sliding_window_view(dna.codes(construct.sequence), _K)
        whole = windows[(windows < 4).all(axis=1)]
        found = np.bincount(column[whole @ powers], minlength=column.max() + 1)
        rows.append(found / max(1, len(whole)))
    return np.array(rows)


FEATURES: Mapping = {"sites": site_counts, "kmers": kmer_frequencies}


def ridge_predictions(features: np.ndarray, activity: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Predictions for every construct from those whose activity is known: `[n]` float64.

    Args:
        features: `[n, F]`; with no feature at all, the mean of the known ones is predicted.
        activity: `[n]`.
        known: bool `[n]`: which constructs the regression is fitted to.
    """
    if not features.shape[1]:
        return np.full(len(features), activity[known].mean())
    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    return model.fit(features[known], activity[known]).predict(features)
