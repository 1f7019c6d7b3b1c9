"""A Perceiver, its optimizer and its traced functions: trained jointly on tracks and MPRA, from one seed after another.

Shapes: B batch, L letters or positions.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf

from enformer_core import checkpoints, dna, initial
from enformer_core.dna import MASKED
from enformer_core.perceiver import Perceiver, PerceiverConfig
from enformer_core.saved_model import Predictor
from mlproject.compilation import Batches, compiling
from mlproject.data.coverage import CoverageWindows
from mlproject.data.joint import JointData, hide_letters, letters_before, mpra_batches, track_batches
from mlproject.evaluation import pearson_and_spearman
from mlproject.joint_trunk import JointTrunk
from mlproject.training import Adam, Batch, make_step

MODALITIES = ("tracks", "mpra", "both")
_MASK_SEED = 0  # of the letters hidden in validation: the same each time
_SAMPLED = 8  # sequences


class Weights(NamedTuple):
    """What each loss counts for in their sum."""

    activity: float
    nucleotides: float
    coverage: float


class Examples(NamedTuple):
    """What one training sees: measurements by row, and windows; None where the modality is not used."""

    train_rows: np.ndarray | None
    valid_rows: np.ndarray | None
    train_windows: CoverageWindows | None
    valid_windows: CoverageWindows | None


class JointTrainer:
    """A model of one configuration, trained as told; `reset` makes it new for another seed without tracing again.

    Args:
        config: of the model.
        data: tracks and MPRA.
        modalities: what losses there are: `tracks`, `mpra` or `both`.
        mpra_batch_size, track_batch_size: examples of each modality in a step.
        weights: of the losses.
        augment: strands and places drawn at random in training.
        clip_norm, weight_decay: as `make_step` and `Adam` take them.
        trunk: what sequences enter as, in place of letters.
    """

    def __init__(
        self,
        config: PerceiverConfig,
        data: JointData,
        *,
        modalities: str,
        mpra_batch_size: int,
        track_batch_size: int,
        weights: Weights,
        augment: bool,
        clip_norm: float,
        weight_decay: float,
        trunk: JointTrunk | None = None,
    ):
        self.trunk = trunk or JointTrunk(None, None)
        self.model = Perceiver(config)
        self.data = data
        self.uses_mpra, self.uses_tracks = modalities != "tracks", modalities != "mpra"
        # a pass that nothing is learnt of is spared
        self.uses_letters = self.uses_mpra and weights.nucleotides > 0
        self._sizes = mpra_batch_size, track_batch_size
        self._weights = weights
        self._augment = augment
        self.optimizer = Adam(self.model.trainable_variables, weight_decay=weight_decay)
        self._step = make_step(self._loss, self.optimizer, clip_norm)
        compiled = {"jit_compile": True, "autograph": False}
        self._activity = tf.function(self._activity_of, **compiled)
        self._letter_losses = tf.function(self._letter_losses_of, **compiled)
        self._coverage = tf.function(self._coverage_of, **compiled)
        self._batches = Batches()
        self._has_stepped = False

    @property
    def exports(self) -> bool:
        """Whether there is a SavedModel, from letters to activity: not without labels, nor of trunk embeddings."""
        return self.uses_mpra and not self.model.config.trunk_channels

    # -- training

    def reset(self, seed: int) -> None:
        """The model and the optimizer as they are before the first step."""
        initial.initialize(self.model, seed)
        self.optimizer.reset()

    def batches(self, examples: Examples, seed: int, start: int) -> Iterator[Batch]:
        """Endless batches, one of each modality that is used, already at step `start`."""
        streams = {}
        if examples.train_rows is not None and self.data.mpra is not None:
            streams["mpra"] = mpra_batches(
                self.data.mpra,
                examples.train_rows,
                self._sizes[0],
                augment=self._augment,
                seed=seed,
                start=start,
            )
        if examples.train_windows is not None and self.data.tracks is not None:
            streams["tracks"] = track_batches(
                self.data.tracks,
                examples.train_windows,
                self._sizes[1],
                augment=self._augment,
                seed=seed,
                start=start,
            )
        while True:
            batch: dict[str, tf.Tensor] = {}
            for modality, stream in streams.items():
                batch |= {
                    f"{modality}/{name}": tf.constant(value)
                    for name, value in self._with_trunk(modality, next(stream)).items()
                    if name not in ("sequence", "window")  # which they are is not for the model
                }
            yield batch

    def _with_trunk(self, modality: str, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        tokens = self.trunk.mpra if modality == "mpra" else self.trunk.tracks
        return batch if tokens is None else {**batch, "trunk": tokens.read(batch["letters"])}

    def step(self, batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]:
        """One training step: `loss`, `gradient_norm` and `loss/...` of each part."""
        with compiling(not self._has_stepped):
            self._has_stepped = True
            return self._step(batch, learning_rate, key)

    def _loss(
        self, batch: Batch, is_training: bool, key: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        losses: dict[str, tf.Tensor] = {}
        if self.uses_mpra:
            letters, cell = batch["mpra/letters"], batch["mpra/cell"]
            predicted = self.model.activity(letters, cell, is_training, key, batch.get("mpra/trunk"))
            error = (predicted - batch["mpra/activity"]) / self.model.config.activity_sd
            losses["activity"] = tf.reduce_mean(error**2)
        if self.uses_letters:
            total, count = self._letter_losses_of(
                batch["mpra/whole_letters"],
                batch["mpra/hidden_letters"],
                batch["mpra/letters_before"],
                batch["mpra/known_activity"],
                batch["mpra/cell"],
                is_training,
                key + tf.constant([1, 0]),  # dropout of its own
            )
            losses["nucleotides"] = tf.reduce_sum(total) / tf.maximum(1.0, tf.reduce_sum(count))
        if self.uses_tracks:
            visible, truth = batch["tracks/visible_coverage"], batch["tracks/log_coverage"]
            logits = self.model.coverage(
                batch["tracks/letters"],
                visible,
                batch["tracks/cell"],
                is_training,
                key + tf.constant([2, 0]),
                batch.get("tracks/trunk"),
            )
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(self.model.coverage_bins(truth), logits)
            hidden = tf.cast(tf.math.is_nan(visible), tf.float32)
            losses["coverage"] = tf.reduce_sum(loss * hidden) / tf.maximum(1.0, tf.reduce_sum(hidden))
        weights = self._weights._asdict()
        loss = tf.add_n([weights[name] * value for name, value in losses.items()])
        return loss, {f"loss/{name}": value for name, value in losses.items()}

    def _letter_losses_of(
        self,
        letters: tf.Tensor,
        hidden_letters: tf.Tensor,
        before: tf.Tensor,
        activity: tf.Tensor,
        cell: tf.Tensor,
        is_training: bool = False,
        key: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Of each sequence, the cross-entropy in nats summed over hidden letters, and their number: `[B]` float32."""
        logits = self.model.nucleotides(hidden_letters, activity, cell, is_training, key, before)
        # an N that is hidden is no letter that could be predicted
        asked = tf.cast((hidden_letters == MASKED) & (letters < 4), tf.float32)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.minimum(letters, 3), logits)
        return tf.reduce_sum(loss * asked, 1), tf.reduce_sum(asked, 1)

    def _activity_of(self, letters: tf.Tensor, cell: tf.Tensor, trunk: tf.Tensor | None = None) -> tf.Tensor:
        return self.model.activity(letters, cell, trunk=trunk)

    def _coverage_of(
        self, letters: tf.Tensor, truth: tf.Tensor, cell: tf.Tensor, trunk: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Log coverage expected from the sequence alone, `[B, L]`, and its mean cross-entropy, `[B]`."""
        hidden = tf.fill(tf.shape(truth), np.float32(np.nan))
        logits = self.model.coverage(letters, hidden, cell, trunk=trunk)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(self.model.coverage_bins(truth), logits)
        return self.model.expected_coverage(logits), tf.reduce_mean(loss, 1)

    # -- prediction

    def predict_activity(self, rows: np.ndarray, cell: int | np.ndarray | None = None) -> np.ndarray:
        """The activity of measurements, in the units of the table: `[r]` float64. The measured values are not read.

        Of a cell type that this training has seen nothing of it is the mean of what is predicted for the others.

        Args:
            rows: which measurements `[r]`.
            cell: the cell type to answer for, in place of that of each measurement; or one for each `[r]`.
        """
        assert self.data.mpra is not None
        cells = self.data.mpra.cell[rows] if cell is None else np.full(len(rows), cell, np.int32)
        seen = self.model.config.seen
        is_seen = np.isin(cells, seen)
        if not is_seen.all():
            found = np.empty(len(rows))
            if is_seen.any():
                found[is_seen] = self.predict_activity(rows[is_seen], cells[is_seen])
            found[~is_seen] = np.mean([self.predict_activity(rows[~is_seen], other) for other in seen], 0)
            return found
        letters = self.data.mpra.codes[self.data.mpra.table.sequence[rows]]
        arrays = [letters.astype(np.int32), cells]
        if self.trunk.mpra is not None:
            arrays.append(self.trunk.mpra.read(letters))
        return self._in_batches(self._activity, self._sizes[0] * 4, *arrays)

    def sample_table(self, rows: np.ndarray) -> pa.Table | None:
        """What is predicted of a few sequences in every cell type of the model, to predict them again.

        They are the first of these measurements, 8 at most, without those that end with N: a SavedModel takes that for
        the end of the sequence.

        Returns:
            A row for each sequence and cell type: name, sequence (as a SavedModel takes it: letters from the left, then
            N), cell_type, activity (NaN where it is not measured) and predicted, both in the units of the table. None
            where every sequence ends with N.
        """
        assert self.data.mpra is not None
        mpra, cell_types = self.data.mpra, self.data.cell_types
        table = mpra.table
        numbers, first = np.unique(table.sequence[rows], return_index=True)
        whole = [place for place, number in enumerate(numbers) if not table.sequences[number].endswith("N")]
        whole = whole[:_SAMPLED]
        if not whole:
            return None
        sequence = np.repeat(numbers[whole], len(cell_types))
        cell = np.tile(np.arange(len(cell_types)), len(whole))
        of_both = zip(table.sequence[rows], mpra.cell[rows], strict=True)
        measured = dict(zip(of_both, table.activity[rows], strict=True))
        return pa.table(
            {
                "name": [table.names[number] for number in sequence],
                "sequence": dna.letters(mpra.codes[sequence]),
                "cell_type": [cell_types[number] for number in cell],
                "activity": [measured.get(pair, np.nan) for pair in zip(sequence, cell, strict=True)],
                "predicted": self.predict_activity(np.repeat(rows[first[whole]], len(cell_types)), cell),
            }
        )

    def measure(self, examples: Examples) -> dict[str, float]:
        """Validation numbers: losses, their weighted sum `validation/loss`, and r of activity and coverage."""
        losses: dict[str, float] = {}
        numbers: dict[str, float] = {}
        if examples.valid_rows is not None:
            losses, numbers = self._measure_mpra(examples.valid_rows)
        if examples.valid_windows is not None:
            losses["coverage"], of_cells = self.measure_coverage(examples.valid_windows)
            numbers |= mean_numbers("coverage", of_cells)
        weights = self._weights._asdict()
        total = sum(weights[name] * value for name, value in losses.items())
        parts = {f"loss/{name}": value for name, value in losses.items()}
        return {f"validation/{name}": value for name, value in {"loss": total, **parts, **numbers}.items()}

    def _measure_mpra(self, rows: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """Of these measurements the losses; and r, and the gain over the base composition."""
        assert self.data.mpra is not None
        activity = self.data.mpra.table.activity[rows]
        predicted = self.predict_activity(rows)
        cells = self.data.mpra.cell[rows]
        of_cells = [
            pearson_and_spearman(activity[cells == cell], predicted[cells == cell])
            for cell in np.unique(cells)
        ]
        numbers = mean_numbers("activity", of_cells)
        losses = {"activity": float(np.mean((predicted - activity) ** 2)) / self.model.config.activity_sd**2}
        if self.uses_letters:
            losses["nucleotides"], base = self.letter_losses(rows)
            numbers["nucleotide_gain"] = base - losses["nucleotides"]
        return losses, numbers

    def letter_losses(self, rows: np.ndarray) -> tuple[float, float]:
        """Cross-entropy of hidden letters given activity and cell type, and that of the base composition, in nats.

        Most are the next letter after what was written, as in training (`letters_before`).
        One measurement of each sequence, in a cell type that is drawn, is asked for. It and which letters are
        hidden are always the same.
        """
        assert self.data.mpra is not None
        mpra = self.data.mpra
        rows = np.random.default_rng(_MASK_SEED).permutation(rows)
        _, first = np.unique(mpra.table.sequence[rows], return_index=True)
        rows = rows[first]
        letters = mpra.codes[mpra.table.sequence[rows]]
        hidden = hide_letters(letters, np.random.default_rng(_MASK_SEED))
        total, count = self._in_batches(
            self._letter_losses,
            self._sizes[0] * 2,
            letters.astype(np.int32),
            hidden.astype(np.int32),
            letters_before(letters, hidden).astype(np.int32),
            mpra.table.activity[rows].astype(np.float32),
            mpra.cell[rows],
        )
        asked = letters[(hidden == MASKED) & (letters < 4)]
        return float(total.sum() / count.sum()), base_entropy(asked)

    def measure_coverage(self, windows: CoverageWindows) -> tuple[float, list[tuple[float, float]]]:
        """Of coverage from the sequence alone: cross-entropy, and both r over all positions by cell type."""
        assert self.data.tracks is not None
        losses, of_cells = [], []
        letters = windows.codes.astype(np.int32)
        of_trunk = [] if self.trunk.tracks is None else [self.trunk.tracks.read(windows.codes)]
        for column, cell in enumerate(self.data.tracks.cells):
            truth = windows.log_coverage[:, column].astype(np.float32)
            cells = np.full(len(letters), cell, np.int32)
            predicted, loss = self._in_batches(
                self._coverage, self._sizes[1] * 2, letters, truth, cells, *of_trunk
            )
            losses.append(loss.mean())
            of_cells.append(pearson_and_spearman(truth.ravel(), predicted.ravel()))
        return float(np.mean(losses)), of_cells

    def _in_batches(self, call, size: int, *arrays: np.ndarray):
        """What `call` gives for all rows: NumPy float64."""
        found = tuple(part.astype(np.float64) for part in self._batches(call, size, *arrays))
        return found if len(found) > 1 else found[0]

    def save(self, folder: Path) -> None:
        """Writes `FOLDER/checkpoint` and, if it `exports`, `FOLDER/saved_model`: letters to activity by cell type."""
        checkpoints.save(folder / "checkpoint", self.model)
        if self.exports:
            Predictor(self.model).save(folder / "saved_model")


def mean_numbers(name: str, of_cells: Sequence[tuple[float, float]]) -> dict[str, float]:
    """`NAME_pearson` and `NAME_spearman`: means over cell types in which they are defined."""
    values = np.array(of_cells, np.float64).reshape(-1, 2)
    values = values[np.isfinite(values).all(1)]
    if not len(values):
        return {}
    return {
        f"{name}_{kind}": float(value)
        for kind, value in zip(("pearson", "spearman"), values.mean(0), strict=True)
    }


def base_entropy(letters: np.ndarray) -> float:
    """Entropy in nats of letters 0 to 3: what a guess that knows the composition alone is wrong by."""
    share = np.bincount(letters.ravel(), minlength=4)[:4] / max(1, letters.size)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())
