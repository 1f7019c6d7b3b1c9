"""Whether a model predicts what the run that made it has measured: on sequences that the run has kept.

A run keeps `sample_HEAD`, a few sequences of its evaluation, beside what it predicted of them: of tracks the first
window of `signals_HEAD`, of an activity the first rows of `predictions`; of activity by cell type it is in the sample.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from enformer_core import dna
from mlproject.data.genome import name_some
from mlproject.errors import InputError
from mlproject.evaluation import pearson_and_spearman

TOLERANCE = 1e-2  # of the largest value: an activity head was measured on embeddings that are kept as float16
Predict = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Reproduced(NamedTuple):
    """How near a model comes to what was measured of it."""

    numbers: int
    """Values that were compared."""
    apart: float
    """The largest difference, as a share of the largest value; by cell type, of the largest distance from the mean."""
    kept: float
    """Pearson r of what the run predicted with what was measured; NaN where it is not defined."""
    found: float
    """The same of what the model predicts now."""


def saved_model_predictions(folder: Path) -> Predict:
    """What the serving signature of a SavedModel answers, by head, for one-hot `[B, L, 4]` float32.

    It raises InputError where L is not the length of the model.
    """
    module = tf.saved_model.load(str(folder))
    call = module.signatures["serving_default"]
    length = call.structured_input_signature[1]["sequence"].shape[1]

    def predict(sequences: np.ndarray) -> dict[str, np.ndarray]:
        if sequences.shape[1] != length:
            raise InputError(
                f"the model takes sequences of {length} bp; these are of {sequences.shape[1]} bp"
            )
        found = {name: tensor.numpy() for name, tensor in call(sequence=tf.constant(sequences)).items()}
        predict.module = module  # type: ignore[attr-defined]  # what is called keeps no reference to it
        return found

    return predict


def reproduce_tracks(
    predict: Predict,
    head: str,
    sample: pd.DataFrame,
    signal: pd.DataFrame,
    tracks: Sequence[Mapping[str, Any]],
) -> Reproduced:
    """Compares signal of the window that a sample is of.

    Args:
        predict: of the model.
        head: which is compared.
        sample: its first row is used: sequence, chrom, start.
        signal: rows of that window: index, predicted, measured.
        tracks: of the head, in the order of its answer: index, which is the track's own.

    Raises:
        InputError: signal is of a track that the head does not have.
    """
    place = {int(track["index"]): column for column, track in enumerate(tracks)}
    if absent := [index for index in signal["index"] if index not in place]:
        raise InputError(
            f"what its run has kept is of track {absent[0]}, which head {head} does not have; it is another model, and "
            "is not registered"
        )
    columns = [place[index] for index in signal["index"]]
    first = sample.iloc[0]
    answer = predict(dna.one_hot(first["sequence"])[np.newaxis])[head][0]  # [bins, tracks]
    kept = np.stack([np.asarray(values, np.float64) for values in signal["predicted"]])  # [tracks, bins]
    found = answer.T[columns, : kept.shape[1]].astype(np.float64)
    measured = np.stack([np.asarray(values, np.float64) for values in signal["measured"]])
    return _compared(kept, found, measured)


def reproduce_activity(predict: Predict, sample: pd.DataFrame, predictions: pd.DataFrame) -> Reproduced:
    """Compares the activity of windows.

    Args:
        predict: of the model.
        sample: sequence, of the first windows of `predictions`.
        predictions: predicted and activity (measured) by window.
    """
    sequences = np.stack([dna.one_hot(letters) for letters in sample["sequence"]])
    found = predict(sequences)["activity"][:, 0].astype(np.float64)
    own = predictions.iloc[: len(sample)]
    return _compared(own["predicted"].to_numpy(np.float64), found, own["activity"].to_numpy(np.float64))


def reproduce_cell_types(predict: Predict, sample: pd.DataFrame, cell_types: Sequence[str]) -> Reproduced:
    """Compares activity in every cell type of a model.

    In another unit the same activities may lie around any other number, log2 of them for one: so differences are
    compared with the largest distance, of what is predicted or measured, from the mean of what was measured.

    Args:
        predict: of the model.
        sample: a row for each sequence and cell type: sequence (padded as the model takes it), cell_type, activity (NaN
            where it is not measured), predicted.
        cell_types: of the model, in the order of its answer.

    Raises:
        InputError: they are not those of the sample.
    """
    place = {name: column for column, name in enumerate(cell_types)}
    if set(sample["cell_type"]) != set(place):
        raise InputError(
            f"the model answers for {name_some(cell_types)}, and what its run has kept is of "
            f"{name_some(dict.fromkeys(sample['cell_type']))}; it is another model, and is not registered"
        )
    row, sequences = pd.factorize(sample["sequence"])
    answer = predict(np.stack([dna.one_hot(letters) for letters in sequences]))["activity"]  # [B, cell types]
    found = answer[row, sample["cell_type"].map(place).to_numpy()].astype(np.float64)
    kept, measured = (sample[name].to_numpy(np.float64) for name in ("predicted", "activity"))
    distance = np.abs(np.concatenate([kept, measured]) - np.nanmean(measured))
    return _compared(kept, found, measured, float(np.nanmax(distance)))


def check_reproduced(found: Reproduced, what: str) -> None:
    """Refuses a model that is not the one that was measured.

    Raises:
        InputError: says how far apart what it predicts is from what its run has kept.
    """
    if not found.apart <= TOLERANCE:
        raise InputError(
            f"{what}: does not predict what its run has measured: values differ by {found.apart:.2g} of the largest, "
            f"Pearson r on the kept sample is {found.found:.4f} in place of {found.kept:.4f}; it is another model or a "
            "damaged one, and is not registered"
        )


def _compared(
    kept: np.ndarray, found: np.ndarray, measured: np.ndarray, largest: float | None = None
) -> Reproduced:
    """The largest difference as a share of `largest`, or of the largest value that was kept."""
    largest = (float(np.nanmax(np.abs(kept))) if largest is None else largest) or 1.0
    known = np.isfinite(kept) & np.isfinite(measured)
    return Reproduced(
        kept.size,
        float(np.nanmax(np.abs(found - kept))) / largest if np.isfinite(found).all() else np.inf,
        pearson_and_spearman(measured[known], kept[known])[0],
        pearson_and_spearman(measured[known], found[known])[0],
    )
