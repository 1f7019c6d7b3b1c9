"""A model on its data with everything traced once: training steps and evaluation for many seeds."""

import functools
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from enformer_core.enformer import Enformer, EnformerConfig
from enformer_core.losses import poisson
from enformer_core.saved_model import Predictor
from mlproject import compilation
from mlproject.data.batches import evaluation_batches
from mlproject.data.records import TrackDataset
from mlproject.evaluation import Evaluation, See, evaluate, filled
from mlproject.training import Adam, Batch, LossFunction, make_step


class Bench:
    """One Enformer with its traced functions and its data, used for one seed after another.

    Args:
        config: of the model; its heads are the organisms.
        datasets: one for each head.
        batch_size: windows of a training step and of an evaluation.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        precision: of training steps, as `Enformer` takes it.
        recompute: whether training steps compute activations again, as `Enformer` takes it.
        loss_names: what the loss of each head is called in the scalars of a step.
    """

    def __init__(
        self,
        config: EnformerConfig,
        datasets: Mapping[str, TrackDataset],
        *,
        batch_size: int,
        clip_norm: float,
        precision: str = "float32",
        recompute: str = "auto",
        loss_names: Mapping[str, str],
    ):
        self.datasets = datasets
        self.model = Enformer(config, precision=precision, recompute=recompute)
        self.optimizer = Adam(self.model.trainable_variables)
        self.predictor = Predictor(self.model)
        self.seconds_evaluating = 0.0
        self._batch_size = batch_size
        self._loss_names = loss_names
        self._steps = {name: make_step(self._loss(name), self.optimizer, clip_norm) for name in datasets}
        # The first call of a function traces and compiles it. Doing that on a batch of zeros keeps it out of the time
        # of the steps; the weights are made new afterwards.
        with compilation.compiling():
            for name, tracks in config.heads.items():
                sequence = tf.zeros([batch_size, config.sequence_length, 4])
                target = tf.zeros([batch_size, config.num_bins, tracks])
                self._steps[name]({"sequence": sequence, "target": target}, 0.0, np.zeros(2, np.int32))
                self.predictor.predict(sequence, name)

    def _loss(self, head: str) -> LossFunction:
        def loss(batch: Batch, is_training: bool, key: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            embedding = self.model.trunk(batch["sequence"], is_training, key)
            return tf.reduce_mean(poisson(batch["target"], self.model.heads[head](embedding))), {}

        return loss

    def step(self, batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]:
        """One training step on a batch that names its `head`, after which the loss is named too."""
        arrays = {name: batch[name] for name in ("sequence", "target")}
        scalars = self._steps[batch["head"]](arrays, learning_rate, key)
        return {self._loss_names[batch["head"]]: scalars.pop("loss"), **scalars}

    def evaluate(
        self, subset: str, limit: int, see: Mapping[str, See] | None = None
    ) -> dict[str, Evaluation]:
        """Pearson r and R2 for each organism, over the first `limit` batches of a split.

        What is in `see` for an organism is shown the targets and predictions of each of its batches.
        """
        began = time.perf_counter()
        found = {
            organism: evaluate(
                functools.partial(self._predict, head=organism),
                evaluation_batches(dataset, subset, batch_size=self._batch_size, limit=limit),
                dataset.statistics.num_targets,
                see=(see or {}).get(organism),
            )
            for organism, dataset in self.datasets.items()
        }
        self.seconds_evaluating += time.perf_counter() - began
        return found

    def _predict(self, batch: Batch, head: str) -> tf.Tensor:
        predict = functools.partial(self.predictor.predict, head=head)
        return filled(predict, self._batch_size)(batch["sequence"])
