"""Several measurements of one sequence in one cell type become one, over all of their replicates."""

from typing import NamedTuple

import numpy as np

_MOST_APART = 3.0  # standard errors of the difference


class Merged(NamedTuple):
    """One measurement for each sequence and cell type, ascending by both: `[m]` each, as in `MpraTable`."""

    sequence: np.ndarray
    cell: np.ndarray
    activity: np.ndarray
    spread: np.ndarray
    replicates: np.ndarray


class Repeats(NamedTuple):
    """What was merged."""

    rows: int
    """Measurements that another one of the same sequence and cell type came before."""
    groups: int
    """Measurements that were made of several."""
    contradicted: int
    """How many of those are of values that differ by more than chance."""


def merge(
    sequence: np.ndarray, cell: np.ndarray, activity: np.ndarray, spread: np.ndarray, replicates: np.ndarray
) -> tuple[Merged, Repeats]:
    """Measurements such that each pair of `sequence` and `cell` is there once.

    Mean and standard deviation are those of all replicates together, a measurement without a number of replicates
    counting as one of them. Where it has a spread, a standard error then, the merged one has the standard error too.

    Contradicted are values of which the highest and the lowest are more than three standard errors of their difference
    apart, or, where one has no known spread, more than the standard deviation of all values of the cell type.

    Args:
      sequence: `[r]` int64.
      cell: `[r]` int64.
      activity: `[r]` float64.
      spread: `[r]`, NaN where it is not known: a standard deviation, or without `replicates` a standard error.
      replicates: `[r]`, NaN where they are not known.
    """
    cells = int(cell.max()) + 1
    pairs, group, rows = np.unique(sequence * cells + cell, return_inverse=True, return_counts=True)
    weight = np.nan_to_num(replicates, nan=1.0)
    total = np.bincount(group, weight)
    mean = np.bincount(group, weight * activity) / total
    # sums of squares within measurements, and between them
    within = np.where(weight > 1, (weight - 1) * spread**2, 0.0)
    squares = np.bincount(group, within + weight * (activity - mean[group]) ** 2)
    deviation = np.sqrt(np.divide(squares, total - 1, out=np.full(len(total), np.nan), where=total > 1))
    of_error = np.isnan(replicates) & ~np.isnan(spread)
    with_error = np.bincount(group, of_error) > 0
    error = spread / np.sqrt(weight)
    merged_error = np.sqrt(np.bincount(group, (weight * error) ** 2)) / total
    first = np.unique(group, return_index=True)[1]
    alone = rows == 1
    found = Merged(
        pairs // cells,
        pairs % cells,
        np.where(alone, activity[first], mean),
        np.where(alone, spread[first], np.where(with_error, merged_error, deviation)),
        np.where(alone, replicates[first], np.where(with_error, np.nan, total)),
    )
    several = int((~alone).sum())
    apart = _contradicted(group, cell, activity, error) if several else np.zeros(len(pairs), bool)
    return found, Repeats(len(activity) - len(pairs), several, int(apart.sum()))


def _contradicted(group: np.ndarray, cell: np.ndarray, activity: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Of which groups the highest and the lowest value are too far apart: bool `[m]`.

    Args:
      group: `[r]`, from 0 to m - 1.
      cell: `[r]`.
      activity: `[r]`.
      error: `[r]`, standard errors, NaN where not known.
    """
    order = np.lexsort([activity, group])
    ends = np.cumsum(np.bincount(group))
    low, high = order[np.concatenate([[0], ends[:-1]])], order[ends - 1]
    deviations = np.array(
        [
            activity[cell == number].std() if (cell == number).any() else 0.0
            for number in range(cell.max() + 1)
        ]
    )
    known = np.isfinite(error[low]) & np.isfinite(error[high])
    limit = np.where(known, _MOST_APART * np.hypot(error[low], error[high]), deviations[cell[low]])
    rounding = 1e-9 * np.maximum(np.abs(activity[low]), np.abs(activity[high]))
    return activity[high] - activity[low] > limit + rounding
