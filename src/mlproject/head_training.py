"""A track head, alone or on a trunk that stays as it is: trained on embeddings computed once, or in every step."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from enformer_core import checkpoints, initial
from enformer_core.dna import ONE_HOT
from enformer_core.heads import TrackHead
from enformer_core.losses import poisson, poisson_multinomial
from enformer_core.saved_model import Predictor
from enformer_core.track_model import TrackModel
from mlproject import compilation
from mlproject.data.batches import (
    codes_of_other_strand,
    evaluation_batches,
    target_of_other_strand,
    training_batches,
    training_rows,
    windows_in_order,
)
from mlproject.data.files import explained, write_whole
from mlproject.data.records import Example, TrackDataset
from mlproject.data.targets import strand_order
from mlproject.embeddings import EmbeddingCache, at_once, sequence_key
from mlproject.evaluation import Evaluation, See, evaluate, filled
from mlproject.training import Adam, Batch, make_step

_PATIENCE = 2.0  # seconds without a bar

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def loss_function(name: str, total_weight: float) -> Loss:
    """The mean over `[B, bins, tracks]` targets and predictions of `poisson`, or of `poisson_multinomial`."""
    if name == "poisson":
        return lambda target, prediction: tf.reduce_mean(poisson(target, prediction))
    return lambda target, prediction: tf.reduce_mean(poisson_multinomial(target, prediction, total_weight))


class StoredWindows:
    """Embeddings and targets of a dataset's windows on disk, to be read in any order.

    Embeddings are kept by the letters of the window: the other strand is another sequence, and another dataset may
    have the same. Targets are kept by the window's place in the dataset.

    FOLDER/SUBSET.sequences    sha256 of the rest, then a line for each window: its names on either strand

    Args:
        embeddings: of the trunk.
        folder: for the targets of this dataset alone.
        dataset: its windows.
        subsets: which of them are needed.
        both_strands: whether the training windows are kept on the other strand too.
    """

    def __init__(
        self,
        embeddings: EmbeddingCache,
        folder: Path,
        dataset: TrackDataset,
        subsets: Sequence[str],
        both_strands: bool,
    ):
        bins, tracks = dataset.head_bins(), dataset.statistics.num_targets
        # stored targets of 128 bp are float16; of smaller bins, sums are made
        kind = np.float16 if bins == dataset.statistics.target_length else np.float32
        self.channels = embeddings.shape[1]
        """Of an embedding."""
        self._embeddings = embeddings
        self._targets = EmbeddingCache(folder, bins, tracks, kind, "targets")
        self._dataset = dataset
        self._swap = strand_order(dataset.targets)
        self._strands = {
            subset: (False, True) if both_strands and subset == "train" else (False,) for subset in subsets
        }
        self._names: dict[str, list[list[str]]] = {}

    def fill(self, embed: Callable[[np.ndarray], np.ndarray], *, batch_size: int) -> int:
        """Computes what is not there yet; returns how many embeddings that were.

        Args:
            embed: base codes `[n, L]` uint8 to `[n, bins, channels]`.
            batch_size: the most windows of a call of it.
        """
        places = [f"{subset}-{row}" for subset in self._strands for row in range(self._dataset.count(subset))]
        read_target = _reader(example.target for example in self._in_order())
        self._targets.fill(places, lambda at: np.stack(read_target(at)), batch_size=batch_size)
        read_codes = _reader(self._codes_in_order())
        return self._embeddings.fill(
            self._every_name(), lambda at: embed(np.stack(read_codes(at))), batch_size=batch_size
        )

    def hold(self, most_bytes: int) -> None:
        """Reads all embeddings into memory, if they take no more than this there."""
        self._embeddings.hold(self._every_name(), most_bytes)

    def read(self, subset: str, rows: Sequence[int], flipped: Sequence[bool]) -> Batch:
        """The batch of these windows: `embedding` `[B, bins, C]` and `target` `[B, bins, tracks]`, float32."""
        names, strands = self._named(subset), list(zip(rows, flipped, strict=True))
        embedding = self._embeddings.tensor([names[row][strand] for row, strand in strands])
        target = self._targets.read([f"{subset}-{row}" for row in rows])
        for position, (_, strand) in enumerate(strands):
            if strand:
                target[position] = target_of_other_strand(target[position], self._swap)
        return {"embedding": embedding, "target": tf.constant(target.astype(np.float32))}

    def _named(self, subset: str) -> list[list[str]]:
        """The names of each window of a subset on its strand and on the other; read through once, then kept."""
        if subset not in self._names:
            path = self._targets.folder / f"{subset}.sequences"
            if (names := _read_names(path, self._dataset.count(subset))) is None:
                windows = tqdm(
                    windows_in_order(self._dataset, subset),
                    f"names of {subset} windows",
                    self._dataset.count(subset),
                    disable=None,
                    leave=False,
                    delay=_PATIENCE,
                )
                names = [
                    [sequence_key(codes), sequence_key(codes_of_other_strand(codes))] for codes, _ in windows
                ]
                _write_names(path, names)
            self._names[subset] = names
        return self._names[subset]

    def _every_name(self) -> list[str]:
        """The names of all windows, on the strands on which they are wanted."""
        return [
            of_window[flipped]
            for subset, strands in self._strands.items()
            for of_window in self._named(subset)
            for flipped in strands
        ]

    def _in_order(self) -> Iterator[Example]:
        for subset in self._strands:
            yield from windows_in_order(self._dataset, subset)

    def _codes_in_order(self) -> Iterator[np.ndarray]:
        for subset, strands in self._strands.items():
            for codes, _ in windows_in_order(self._dataset, subset):
                for flipped in strands:
                    yield codes_of_other_strand(codes) if flipped else codes


def _reader(values: Iterable[np.ndarray]) -> Callable[[list[int]], list[np.ndarray]]:
    """What gives the values at these positions, which only grow from call to call."""
    every = enumerate(values)

    def read(positions: list[int]) -> list[np.ndarray]:
        return [next(value for at, value in every if at == position) for position in positions]

    return read


def _write_names(path: Path, names: list[list[str]]) -> None:
    lines = "".join(f"{' '.join(of_window)}\n" for of_window in names)
    with explained(f"{path}: cannot be written; free some room, choose another work_dir, or cache=off"):
        write_whole(path, f"{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}")


def _read_names(path: Path, count: int) -> list[list[str]] | None:
    """What `_write_names` wrote; None where there is no such file, or it is damaged."""
    with explained(f"{path}: cannot be read", (OSError,)):
        if not path.exists():
            return None
        sha256, _, lines = path.read_bytes().partition(b"\n")
    if sha256.decode(errors="replace") != hashlib.sha256(lines).hexdigest():
        return None
    names = [line.split() for line in lines.decode().splitlines()]
    return names if len(names) == count else None


class StoredHeadTrainer:
    """A new track head on embeddings that are kept, its optimizer and its traced functions; it needs no trunk.

    Args:
        head: its variables are made where there are none; `reset` gives them values.
        dataset: its windows.
        loss: of targets and predictions.
        batch_size: windows of a training step and of a prediction.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        weight_decay: as `Adam` takes it.
        reverse_complement: training windows are shown on a strand drawn at random.
        stored: filled; None where a subclass computes embeddings.
        compiled: by XLA. A head's step takes as long without, and its first call a fifth of the time: better where a
            head is made for a few epochs.
    """

    def __init__(
        self,
        head: TrackHead,
        dataset: TrackDataset,
        *,
        loss: Loss,
        batch_size: int,
        clip_norm: float,
        weight_decay: float,
        reverse_complement: bool,
        stored: StoredWindows | None,
        compiled: bool = True,
    ):
        if stored is not None:
            head(tf.zeros([1, 1, stored.channels]))  # makes the variables
        self.head = head
        self.dataset = dataset
        self.optimizer = Adam(head.trainable_variables, weight_decay=weight_decay)
        self._loss_function = loss
        self._batch_size = batch_size
        self._reverse_complement = reverse_complement
        self.stored = stored
        self._step = make_step(self._loss, self.optimizer, clip_norm, compiled)
        self._head = tf.function(head, jit_compile=compiled, autograph=False)

    def reset(self, seed: int) -> None:
        """Back to before the first step: a new head."""
        initial.initialize(self.head, seed)
        self.optimizer.reset()

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """Endless training batches, already at step `start`."""
        assert self.stored is not None
        read = functools.partial(self.stored.read, "train")
        rows = training_rows(self.dataset.count("train"), **self._order(seed, start))
        return (read(windows.tolist(), flipped.tolist()) for windows, flipped in rows)

    def step(self, batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]:
        """One training step of the head."""
        return self._step(batch, learning_rate, key)

    def evaluate(self, subset: str, see: See | None = None) -> Evaluation:
        """Pearson r, R2 and the loss over the whole of a subset; `see` as `evaluation.evaluate` takes it."""
        tracks = self.dataset.statistics.num_targets
        return evaluate(self._predict, self.evaluation_batches(subset), tracks, self._loss_function, see)

    def evaluation_batches(self, subset: str) -> Iterator[Batch]:
        """Every window of a subset once, in file order."""
        assert self.stored is not None
        total = self.dataset.count(subset)
        for start in range(0, total, self._batch_size):
            rows = range(start, min(start + self._batch_size, total))
            yield self.stored.read(subset, rows, [False] * len(rows))

    def predict(self, subset: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and measured signal of the first windows of a subset: `[n, bins, tracks]` float32 each."""
        predicted, measured = [], []
        for batch in self.evaluation_batches(subset):
            predicted.append(self._predict(batch).numpy())
            measured.append(batch["target"].numpy())
            if sum(map(len, measured)) >= most:
                break
        return np.concatenate(predicted)[:most], np.concatenate(measured)[:most]

    # -- inside

    def _order(self, seed: int, start: int) -> dict[str, Any]:
        """Which training windows come when, as `training_rows` and `training_batches` take it."""
        return {
            "batch_size": self._batch_size,
            "seed": seed,
            "start": start,
            "reverse_complement": self._reverse_complement,
        }

    def _embedding(self, batch: Batch) -> tf.Tensor:
        return batch["embedding"]

    def _loss(
        self, batch: Batch, is_training: bool, key: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        answer = self.head(self._embedding(batch), is_training, key)
        return self._loss_function(batch["target"], answer), {}

    def _predict(self, batch: Batch) -> tf.Tensor:
        return filled(self._head, self._batch_size)(batch["embedding"])


class HeadTrainer(StoredHeadTrainer):
    """A trunk with a new track head, its optimizer and its traced functions, used for one seed after another.

    Args:
        model: its trunk stays as it is, bit by bit.
        dataset: windows of the trunk's own length.
        loss: of targets and predictions.
        batch_size: windows of a training step and of a prediction.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        weight_decay: as `Adam` takes it.
        reverse_complement: training windows are shown on a strand drawn at random.
        stored: embeddings that were computed before; None computes them in every step.
        work_dir: as `training_batches` takes it.
    """

    def __init__(
        self,
        model: TrackModel,
        dataset: TrackDataset,
        *,
        loss: Loss,
        batch_size: int,
        clip_norm: float,
        weight_decay: float = 0.0,
        reverse_complement: bool,
        stored: StoredWindows | None,
        work_dir: Path,
    ):
        self.model = model
        self._embedded_at_once = at_once(dataset.statistics.seq_length)
        self._embedded = False
        self._work_dir = work_dir
        super().__init__(
            model.head,
            dataset,
            loss=loss,
            batch_size=batch_size,
            clip_norm=clip_norm,
            weight_decay=weight_decay,
            reverse_complement=reverse_complement,
            stored=stored,
        )
        self._trunk = tf.function(self._frozen_trunk, jit_compile=True, autograph=False)
        self._predictor: Predictor | None = None

    def fill(self) -> None:
        """Computes the embeddings that are missing, where they are kept."""
        if self.stored is not None:
            self.stored.fill(self.embed, batch_size=self._embedded_at_once)

    def compile(self) -> None:
        """Traces and compiles step and prediction, on embeddings that are there; `reset` before training."""
        with compilation.compiling():
            batch = next(self.batches(seed=0, start=0))
            self.step(batch, 0.0, np.zeros(2, np.int32))
            self._predict(batch)

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """What the trunk says of a few windows: base codes `[n, L]` to `[n, bins, 2C]` float32."""
        sequences = tf.constant(np.take(ONE_HOT, codes, axis=0))
        embed = filled(self._trunk, self._embedded_at_once)
        with compilation.compiling(not self._embedded):
            self._embedded = True
            return embed(sequences).numpy()

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """Endless training batches, already at step `start`; of embeddings, where they are kept."""
        if self.stored is not None:
            return super().batches(seed, start)
        return training_batches(self.dataset, **self._order(seed, start), work_dir=self._work_dir)

    def evaluation_batches(self, subset: str) -> Iterator[Batch]:
        """Every window of a subset once, in file order; of embeddings, where they are kept."""
        if self.stored is not None:
            return super().evaluation_batches(subset)
        return iter(evaluation_batches(self.dataset, subset, batch_size=self._batch_size))

    def save(self, folder: Path, weights: str) -> None:
        """Writes `FOLDER/head`, the head alone, and `checkpoint` and `saved_model` of trunk and head together.

        Args:
            folder: where to.
            weights: what people call the trunk.
        """
        checkpoints.save_head(folder / "head", self.model, weights)
        checkpoints.save(folder / "checkpoint", self.model)
        if self._predictor is None:
            self._predictor = Predictor(self.model)
        self._predictor.save(folder / "saved_model")

    # -- inside

    def _frozen_trunk(self, sequence: tf.Tensor) -> tf.Tensor:
        return self.model.enformer.trunk(sequence, is_training=False)

    def _embedding(self, batch: Batch) -> tf.Tensor:
        return batch["embedding"] if "embedding" in batch else self._frozen_trunk(batch["sequence"])

    def _predict(self, batch: Batch) -> tf.Tensor:
        if "embedding" in batch:
            return super()._predict(batch)
        return filled(lambda sequence: self._head(self._trunk(sequence)), self._batch_size)(batch["sequence"])
