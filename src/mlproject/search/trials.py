"""One trial: a head of some size trained on embeddings that are there, validated after each epoch.

Where there are several parts (folds that are validated on in turn), a trial trains on one after another. It reports a
loss and a Pearson r after each epoch; what it is worth is a function of these alone (`worth`).
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf

from enformer_core.activity import activity_head
from enformer_core.heads import ActivityHeadConfig, TrackHeadConfig
from enformer_core.track_model import track_head
from mlproject.data.construct_windows import ConstructWindows, Fold
from mlproject.data.records import TrackDataset
from mlproject.embeddings import EmbeddingCache
from mlproject.evaluation import mean_over_tracks, pearson_and_spearman
from mlproject.head_training import StoredHeadTrainer, StoredWindows, loss_function
from mlproject.resuming import StepCheckpoints, fit_resumably
from mlproject.training import Adam, Batch, Diverged, Schedule
from mlproject.tuning import StoredActivityTrainer

Validation = list[list[float]]  # [loss, Pearson r] of each epoch of each part, in order
Objective = Literal["pearson", "loss"]


class Pruned(Exception):
    """Whoever reads the reports has seen enough."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What each part of each trial has: the same, so that trials differ in their parameters alone."""

    epochs: int
    steps_per_epoch: int
    """0: as many as show each training window once."""
    batch_size: int
    clip_norm: float
    seed: int
    checkpoint_seconds: float


class Training(Protocol):
    """A head in training, part by part."""

    @property
    def optimizer(self) -> Adam: ...

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """All that a step changes."""

    def windows(self, part: int) -> int:
        """How many a part trains on."""

    def reset(self, seed: int) -> None: ...

    def batches(self, part: int, seed: int, start: int) -> Iterator[Batch]: ...

    def step(self, batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]: ...

    def measure(self, part: int) -> tuple[float, float]:
        """Validation loss, and Pearson r (NaN where undefined)."""


class Task(Protocol):
    """What a trial is about; goes to workers pickled."""

    budget: Budget

    @property
    def parts(self) -> int: ...

    def hold(self, most_bytes: int) -> None:
        """Reads the embeddings that trials read into memory, if they take no more than this there."""

    def training(self, params: Mapping[str, Any]) -> Training: ...


@dataclasses.dataclass(frozen=True)
class ActivityTask:
    """Heads of an activity on constructs, validated on the folds in turn.

    Args:
        windows: on all constructs.
        folds: the parts.
        embeddings: of all windows.
        budget: of each part.
    """

    windows: ConstructWindows
    folds: tuple[Fold, ...]
    embeddings: EmbeddingCache
    budget: Budget

    @property
    def parts(self) -> int:
        return len(self.folds)

    def hold(self, most_bytes: int) -> None:
        seen = frozenset[str]().union(*(fold.train | fold.valid for fold in self.folds))
        self.embeddings.hold(self.windows.keys(self.windows.in_folds(seen)), most_bytes)

    def training(self, params: Mapping[str, Any]) -> "ActivityTraining":
        return ActivityTraining(self, params)


class ActivityTraining:
    """A `Training` of one head of an `ActivityTask`."""

    def __init__(self, task: ActivityTask, params: Mapping[str, Any]):
        self._trainer = trainer = StoredActivityTrainer(
            activity_head(ActivityHeadConfig(**_sizes(params))),
            task.windows,
            task.embeddings,
            batch_size=task.budget.batch_size,
            clip_norm=task.budget.clip_norm,
            weight_decay=params["weight_decay"],
            compiled=False,
        )
        self.optimizer, self.variables = trainer.optimizer, trainer.head.variables
        self.reset, self.step = trainer.reset, trainer.step
        windows = task.windows
        self._rows = [(windows.in_folds(fold.train), windows.in_folds(fold.valid)) for fold in task.folds]

    def windows(self, part: int) -> int:
        return len(self._rows[part][0])

    def batches(self, part: int, seed: int, start: int) -> Iterator[Batch]:
        return self._trainer.batches(self._rows[part][0], seed, start)

    def measure(self, part: int) -> tuple[float, float]:
        """Mean squared error of windows, Pearson r of constructs (means over their windows)."""
        rows, windows = self._rows[part][1], self._trainer.windows
        predicted, measured = self._trainer.predict(rows), windows.targets(rows)[:, 0]
        _, construct, count = np.unique(windows.construct[rows], return_inverse=True, return_counts=True)
        of_construct = [np.bincount(construct, weights=values) / count for values in (measured, predicted)]
        return float(np.mean((predicted - measured) ** 2)), pearson_and_spearman(*of_construct)[0]


@dataclasses.dataclass(frozen=True)
class TracksTask:
    """Heads of tracks on a dataset, validated on its validation windows; one part.

    Args:
        dataset: its windows.
        stored: their embeddings and targets.
        loss, total_weight: as `loss_function` takes them.
        reverse_complement: training windows are shown on a strand drawn at random.
        budget: of a trial.
    """

    dataset: TrackDataset
    stored: StoredWindows
    loss: str
    total_weight: float
    reverse_complement: bool
    budget: Budget

    @property
    def parts(self) -> int:
        return 1

    def hold(self, most_bytes: int) -> None:
        self.stored.hold(most_bytes)

    def training(self, params: Mapping[str, Any]) -> "TracksTraining":
        return TracksTraining(self, params)


class TracksTraining:
    """A `Training` of one head of a `TracksTask`."""

    def __init__(self, task: TracksTask, params: Mapping[str, Any]):
        dataset = task.dataset
        config = TrackHeadConfig(dataset.statistics.num_targets, **_sizes(params))
        self._trainer = trainer = StoredHeadTrainer(
            track_head(config, dataset.organism),
            dataset,
            loss=loss_function(task.loss, task.total_weight),
            batch_size=task.budget.batch_size,
            clip_norm=task.budget.clip_norm,
            weight_decay=params["weight_decay"],
            reverse_complement=task.reverse_complement,
            stored=task.stored,
            compiled=False,
        )
        self.optimizer, self.variables = trainer.optimizer, trainer.head.variables
        self.reset, self.step = trainer.reset, trainer.step

    def windows(self, part: int) -> int:
        return self._trainer.dataset.count("train")

    def batches(self, part: int, seed: int, start: int) -> Iterator[Batch]:
        return self._trainer.batches(seed, start)

    def measure(self, part: int) -> tuple[float, float]:
        """The loss, and Pearson r in the mean over tracks."""
        found = self._trainer.evaluate("valid")
        return found.loss, mean_over_tracks(found.pearson_r)


# What of the parameters of a trial makes a head; the rest is for its optimizer.
_SIZES = ("num_heads", "key_size", "value_size", "hidden_size", "dropout")


def _sizes(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in _SIZES if name in params}


def train(
    task: Task,
    params: Mapping[str, Any],
    known: Validation,
    folder: Path,
    report: Callable[[float, float], bool],
) -> None:
    """Trains one trial, or goes on with it.

    Args:
        task: what it is about.
        params: of the trial.
        known: what an earlier process has reported of it.
        folder: for checkpoints, of this trial and its retries alone; removed at the end.
        report: gets loss and Pearson r after each epoch that is not `known`; true ends the trial.

    Raises:
        Pruned: `report` said so.
        Diverged: a loss is NaN or infinite.
        Stopped: a checkpoint is there.
    """
    try:
        training = task.training(params)
        for part in range(task.parts):
            saved = folder / str(part)
            _train_part(task.budget, training, part, params["learning_rate"], known, saved, report)
    except (Pruned, Diverged):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _train_part(
    budget: Budget,
    training: Training,
    part: int,
    learning_rate: float,
    known: Validation,
    folder: Path,
    report: Callable[[float, float], bool],
) -> None:
    before = max(0, min(budget.epochs, len(known) - part * budget.epochs))
    if before == budget.epochs:
        return
    steps = budget.steps_per_epoch or -(-training.windows(part) // budget.batch_size)
    saved = StepCheckpoints(folder, training.variables, training.optimizer, budget.checkpoint_seconds)
    training.reset(budget.seed)
    start = saved.restore()
    if start // steps > before:  # what was reported since has been lost: it is reported again
        shutil.rmtree(folder)
        training.reset(budget.seed)
        start = 0

    def validate(count: int) -> None:
        if count // steps <= before:
            return
        loss, pearson = training.measure(part)
        if not np.isfinite(loss):
            raise Diverged(f"validation/loss became {loss} at step {count}; try a lower learning_rate")
        if report(loss, pearson):
            raise Pruned

    fit_resumably(
        training.step,
        training.batches(part, budget.seed, start),
        Schedule(budget.epochs, steps, 0, learning_rate),
        lambda step, metrics: None,
        saved,
        flush=lambda: None,
        validate=validate,
        seed=budget.seed,
        start=start,
        label=f"part {part}",
    )


def worth(validation: Validation, epochs: int, objective: Objective) -> float:
    """What a trial is worth after these reports: the mean over parts of the objective at the epoch of the lowest loss.

    That epoch is the one that a training keeps. NaN where a Pearson r is undefined.

    Args:
        validation: reports, at least one.
        epochs: of a part.
        objective: pearson, or loss.
    """
    parts = [validation[start : start + epochs] for start in range(0, len(validation), epochs)]
    kept = [min(part, key=lambda report: report[0]) for part in parts]
    return float(np.mean([report[0 if objective == "loss" else 1] for report in kept]))


def hopeless(validation: Validation, epochs: int, objective: Objective) -> bool:
    """Whether a trial is worth NaN for good: in a part that is over, or in one after three epochs.

    The predictions of a head that has hardly begun may be all alike: each part has two chances.

    Args:
        validation, epochs, objective: as `worth` takes them.
    """
    judged = len(validation)
    if judged % epochs in (1, 2):
        judged -= judged % epochs
    return judged > 0 and bool(np.isnan(worth(validation[:judged], epochs, objective)))
