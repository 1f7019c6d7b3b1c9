"""The published model in its TF-Hub form: a SavedModel that predicts and shows nothing of its inside."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from enformer_core.enformer import BIN_SIZE_BP, check_lengths

SEQUENCE_LENGTH = 393_216  # bp; the model itself crops them to the central 196,608
TARGET_LENGTH = 896  # bins


class TensorHubModel:
    """Predicts with `model.predict_on_batch` of a SavedModel: `[B, 393216, 4]` to `{head: [B, 896, tracks]}`.

    Args:
        folder: of the SavedModel.

    Raises:
        ValueError: it is no SavedModel, or not of this form.
    """

    def __init__(self, folder: Path | str):
        try:
            self._loaded = tf.saved_model.load(str(folder))  # functions die with what they were loaded in
        except (OSError, ValueError, IndexError, KeyError, tf.errors.OpError) as error:
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise ValueError(f"{folder}: not a SavedModel, or a damaged one ({reason})") from error
        self._predict: Any = getattr(getattr(self._loaded, "model", None), "predict_on_batch", None)
        if not callable(self._predict):
            raise ValueError(
                f"{folder}: a SavedModel without model.predict_on_batch, which the TF-Hub form has"
            )
        self.source = str(folder)
        self.heads = _heads(self._predict)
        """Tracks of each head by name, as far as the SavedModel says."""

    def predict(self, sequence: np.ndarray, head: str, target_length: int | None = None) -> np.ndarray:
        """Predicted signal of one head: `[B, bins, tracks]` float32.

        Args:
            sequence: one-hot DNA `[B, L, 4]`, N is zeros; L is a multiple of 128, and what is missing to 393,216 bp
                is N on both sides.
            head: name of the head.
            target_length: bins of the prediction, the central ones; None for all of L / 128.

        Raises:
            ValueError: a length that it cannot take, more than its 896 bins, or a head that it does not have.
        """
        length = sequence.shape[1]
        check_lengths(length, target_length)
        bins, all_bins = length // BIN_SIZE_BP, SEQUENCE_LENGTH // BIN_SIZE_BP
        wanted = bins if target_length is None else target_length
        if length > SEQUENCE_LENGTH or wanted > TARGET_LENGTH:
            raise ValueError(
                f"{wanted} bins of a sequence of {length} bp: the TF-Hub model gives the central {TARGET_LENGTH} bins "
                f"({TARGET_LENGTH * BIN_SIZE_BP} bp) of {SEQUENCE_LENGTH} bp; ask for fewer"
            )
        # In whole bins. Of an odd rest the greater half, since of an odd rest of the crop the lesser half is before the
        # wanted bins: so they always lie within the predicted ones.
        before = (all_bins - bins + 1) // 2
        padded = np.zeros([len(sequence), SEQUENCE_LENGTH, 4], np.float32)
        padded[:, before * BIN_SIZE_BP : before * BIN_SIZE_BP + length] = sequence
        outputs = self._predict(padded)
        if head not in outputs:
            raise ValueError(f"{self.source}: no head {head!r}; it has {', '.join(sorted(outputs))}")
        signal = np.asarray(outputs[head], np.float32)
        if signal.ndim != 3 or signal.shape[:2] != (len(sequence), TARGET_LENGTH):
            raise ValueError(
                f"{self.source}: head {head} is {signal.shape}; expected ({len(sequence)}, {TARGET_LENGTH}, tracks), "
                "as the TF-Hub form predicts"
            )
        first = before + (bins - wanted) // 2 - (all_bins - TARGET_LENGTH) // 2
        assert 0 <= first <= TARGET_LENGTH - wanted
        return signal[:, first : first + wanted]


def _heads(predict: Any) -> dict[str, int]:
    """Tracks by head of a function that was loaded; empty where its signature does not tell."""
    for function in getattr(predict, "concrete_functions", []):
        outputs = function.structured_outputs
        if isinstance(outputs, dict):
            return {name: output.shape[-1] for name, output in outputs.items()}
    return {}
