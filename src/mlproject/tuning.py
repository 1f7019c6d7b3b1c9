"""An activity head on windows, alone or with its trunk, traced once: trained on one fold after another."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from enformer_core import checkpoints, dna, initial
from enformer_core.activity import ActivityModel
from enformer_core.adapters import Adapters
from enformer_core.enformer import Enformer
from enformer_core.heads import ActivityHead, ActivityHeadConfig
from enformer_core.losses import squared_error
from enformer_core.saved_model import Predictor
from mlproject import compilation
from mlproject.data.construct_windows import ConstructWindows, Fold, shuffled_batches
from mlproject.embeddings import EmbeddingCache, at_once
from mlproject.resuming import StepCheckpoints, fit_keeping_best
from mlproject.training import Adam, Batch, Schedule, TrainResult, make_step

_SAMPLED = 8  # windows


class StoredActivityTrainer:
    """An activity head on embeddings that are kept, its optimizer and its traced functions; it needs no trunk.

    Args:
        head: its variables are made where there are none; `reset` gives them values.
        windows: on all constructs.
        embeddings: of all windows, as `Tuner.fill_embeddings` leaves them; None where a subclass computes them.
        batch_size: windows of a training step and of a prediction.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        weight_decay: as `Adam` takes it.
        moving: what moves beside the head.
        compiled: by XLA. A head's step takes as long without, and its first call a fifth of the time: better where a
            head is made for a few epochs.
    """

    def __init__(
        self,
        head: ActivityHead,
        windows: ConstructWindows,
        embeddings: EmbeddingCache | None,
        *,
        batch_size: int,
        clip_norm: float,
        weight_decay: float,
        moving: Sequence[tf.Variable] = (),
        compiled: bool = True,
    ):
        if embeddings is not None:
            head(tf.zeros([1, *embeddings.shape]))  # makes the variables
        self.head = head
        self.windows = windows
        self.embeddings = embeddings
        self.optimizer = Adam([*moving, *head.trainable_variables], weight_decay=weight_decay)
        self._batch_size = batch_size
        self._step = make_step(self._loss, self.optimizer, clip_norm, compiled)
        self._answer = tf.function(self._activity, jit_compile=compiled, autograph=False)

    def reset(self, seed: int) -> None:
        """Back to before the first step: a new head."""
        initial.initialize(self.head, seed)
        self.optimizer.reset()

    def batches(self, rows: np.ndarray, seed: int, start: int) -> Iterator[Batch]:
        """Endless training batches of these rows, already at step `start`."""
        for batch in shuffled_batches(rows, self._batch_size, seed=seed, start=start):
            yield self._batch(batch)

    def step(self, batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]:
        """One training step; its `loss` is the mean squared error."""
        return self._step(batch, learning_rate, key)

    def sequence_table(self, rows: np.ndarray) -> pa.Table:
        """The sequences of the first of these windows, 8 at most, to predict them again."""
        found = dna.letters(dna.codes_of(self.windows.sequences(rows[:_SAMPLED])))
        return pa.table({"sequence": found})

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predicted activity of windows: `[n]` float32."""
        found = []
        for start in range(0, len(rows), self._batch_size):
            chosen = rows[start : start + self._batch_size]
            inputs = self._inputs(compilation.filled_up(chosen, self._batch_size))
            found.append(self._answer(inputs).numpy()[: len(chosen), 0])
        return np.concatenate(found)

    # -- inside

    def _inputs(self, rows: np.ndarray) -> Batch:
        """What the embeddings of windows are had from."""
        assert self.embeddings is not None
        return {"embedding": self.embeddings.tensor(self.windows.keys(rows))}

    def _embedding(self, inputs: Batch, is_training: bool, key: tf.Tensor | None) -> tf.Tensor:
        return inputs["embedding"]

    def _batch(self, rows: np.ndarray) -> Batch:
        return {**self._inputs(rows), "target": tf.constant(self.windows.targets(rows))}

    def _loss(
        self, batch: Batch, is_training: bool, key: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        answer = self.head(self._embedding(batch, is_training, key), is_training, key)
        return tf.reduce_mean(squared_error(batch["target"], answer)), {}

    def _activity(self, inputs: Batch) -> tf.Tensor:
        return self.head(self._embedding(inputs, False, None))


class Tuner(StoredActivityTrainer):
    """A trunk with an activity head, its optimizer and its traced functions.

    Args:
        enformer: its sequence length is that of the windows.
        head: of the activity head.
        windows: on all constructs.
        moving_blocks: the last so many transformer blocks move; 0 leaves the trunk as it is, None moves all of it.
        lora_rank: above 0, the weights of those blocks stay and adapters of this rank move.
        fixed_norms: BatchNorm averages stay; else they follow the batches, where the whole trunk moves.
        batch_size: windows of a training step and of a prediction.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        weight_decay: of all that moves, as `Adam` takes it.
        embeddings: where the trunk's answers are kept, if it does not move; None computes them in every step.

    Raises:
        ValueError: `lora_rank` does not fit.
    """

    def __init__(
        self,
        enformer: Enformer,
        head: ActivityHeadConfig,
        windows: ConstructWindows,
        *,
        moving_blocks: int | None,
        lora_rank: int,
        fixed_norms: bool,
        batch_size: int,
        clip_norm: float,
        weight_decay: float = 0.0,
        embeddings: EmbeddingCache | None = None,
    ):
        self._enformer = enformer
        if lora_rank and moving_blocks is None:
            moving_blocks = enformer.config.num_transformer_layers
        self._moving_blocks = moving_blocks
        self._fixed_norms = fixed_norms or moving_blocks is not None
        self.model = ActivityModel(enformer, head)
        moving = _moving(enformer, moving_blocks)
        changed = moving if self._fixed_norms else enformer.trunk_variables
        self._changed = changed  # by steps, or when adapters are merged
        self._first_weights = checkpoints.arrays(changed)
        self._adapters = None
        if lora_rank and moving_blocks is not None:
            self._adapters = Adapters(enformer, lora_rank, moving_blocks)
            moving = changed = self._adapters.variables
        super().__init__(
            self.model.head,
            windows,
            embeddings,
            batch_size=batch_size,
            clip_norm=clip_norm,
            weight_decay=weight_decay,
            moving=moving,
        )
        self.training_variables = [*changed, *self.head.variables]
        """All that a step changes: what a checkpoint of a training under way holds."""
        self._embed = tf.function(self._frozen_embedding, jit_compile=True, autograph=False)
        self._predictor: Predictor | None = None

    def reset(self, seed: int) -> None:
        """Back to before the first step: the trunk's first weights, a new head."""
        checkpoints.assign_variables(self._changed, self._first_weights, "first weights")
        if self._adapters is not None:
            self._adapters.attach()
            self._adapters.initialize(seed)
        super().reset(seed)

    def compile(self) -> None:
        """Traces and compiles the step and the prediction, on one window; `reset` before training."""
        rows = np.zeros(self._batch_size, np.int64)
        with compilation.compiling():
            self._step(self._batch(rows), 0.0, np.zeros(2, np.int32))
            self.predict(rows)

    def fill_embeddings(self) -> int:
        """Computes the embeddings that are not kept yet; returns how many."""
        if self.embeddings is None:
            return 0
        keys = self.windows.keys(range(len(self.windows)))
        if self.embeddings.missing(keys):
            with compilation.compiling():
                self.embed([0])
        return self.embeddings.fill(keys, self.embed, batch_size=at_once(self.windows.window))

    def embed(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """What a trunk that does not move says of windows: `[n, bins, channels]` float32."""
        found, size = [], at_once(self.windows.window)
        for start in range(0, len(rows), size):
            chosen = np.asarray(rows[start : start + size])
            sequences = self.windows.sequences(compilation.filled_up(chosen, size))
            found.append(self._embed(tf.constant(sequences)).numpy()[: len(chosen)])
        return np.concatenate(found)

    def finish(self) -> None:
        """Makes the trained model an ordinary one: adapters are merged into the weights beside them."""
        if self._adapters is not None:
            self._adapters.merge()
            self._adapters.detach()

    def save(self, folder: Path) -> None:
        """Writes `FOLDER/checkpoint` and `FOLDER/saved_model` (`[B, W, 4]` to `[B, 1]`) of the finished model."""
        checkpoints.save(folder / "checkpoint", self.model)
        if self._predictor is None:
            self._predictor = Predictor(self.model)
        self._predictor.save(folder / "saved_model")

    # -- inside

    def _inputs(self, rows: np.ndarray) -> Batch:
        if self.embeddings is not None:
            return super()._inputs(rows)
        return {"sequence": tf.constant(self.windows.sequences(rows))}

    def _embedding(self, inputs: Batch, is_training: bool, key: tf.Tensor | None) -> tf.Tensor:
        if "embedding" in inputs:
            return inputs["embedding"]
        return self._enformer.trunk(
            inputs["sequence"],
            is_training and self._moving_blocks != 0,
            key,
            fixed_norms=self._fixed_norms,
            moving_blocks=self._moving_blocks,
        )

    def _frozen_embedding(self, sequence: tf.Tensor) -> tf.Tensor:
        return self._enformer.trunk(sequence, is_training=False)


def _moving(enformer: Enformer, blocks: int | None) -> list[tf.Variable]:
    """The trunk variables that an optimizer moves when the last `blocks` do, or (None) all."""
    if blocks is None:
        return [variable for variable in enformer.trunk_variables if variable.trainable]
    layers = enformer.config.num_transformer_layers
    return [v for block in enformer.transformer[layers - blocks :] for v in block.trainable_variables]


def train_fold(
    tuner: StoredActivityTrainer,
    fold: Fold,
    schedule: Schedule,
    saved: StepCheckpoints,
    log: Callable[[int, dict[str, float]], None],
    *,
    seed: int,
    start: int,
    **how: Any,
) -> TrainResult:
    """Trains on a fold; arguments and result as of `fit_keeping_best`.

    Args:
        tuner: reset, or restored to `start`.
        fold: what to train and to validate on.
    """
    windows = tuner.windows
    train, valid = windows.in_folds(fold.train), windows.in_folds(fold.valid)

    def measure() -> dict[str, float]:
        loss = np.mean((tuner.predict(valid) - windows.targets(valid)[:, 0]) ** 2)
        return {"validation/loss": float(loss)}

    batches = tuner.batches(train, seed, start)
    return fit_keeping_best(
        tuner.step, batches, schedule, log, saved, measure=measure, seed=seed, start=start, **how
    )
