"""Records to batches: shuffled and augmented without end for training, in file order for evaluation.

B batch, L bp of sequence. What a training batch holds is a function of (dataset, seed, position in the
stream), so a stream that starts at batch k is the stream that was stopped after k batches.
"""

import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core.dna import ONE_HOT
from mlproject.data.records import Example, TrackDataset, miscounted, read_finite, read_shard, shard_counts
from mlproject.data.signals import coarsen
from mlproject.data.targets import strand_order
from mlproject.errors import InputError

MEMORY_BUDGET = 512 << 20  # bytes; a decoded subset up to this size is kept in memory
_BUFFER_BYTES = 256 << 20  # of windows waiting to be shuffled, where a subset is larger
_OPEN_SHARDS = 8
_CODES_OF_OTHER_STRAND = np.array([3, 2, 1, 0, 4], np.uint8)


class _Windows(NamedTuple):
    """A decoded subset: base codes `[n, L]` uint8 and targets `[n, bins, tracks]` float16 or float32."""

    sequence: np.ndarray
    target: np.ndarray


# (state of the dataset, subset, bin_size) -> windows. The ablation grid opens dozens of streams over the same data.
_decoded: dict[tuple[str, str, int], _Windows] = {}


def training_batches(
    dataset: TrackDataset,
    *,
    batch_size: int,
    seed: int,
    bin_size: int = 128,
    reverse_complement: bool = False,
    max_shift: int = 0,
    start: int = 0,
    subset: str = "train",
    work_dir: str | Path = "work",
) -> Iterator[dict[str, tf.Tensor]]:
    """Batches without end; pass after pass over the data, each in another order, no partial batch.

    Args:
      dataset: where the windows are.
      batch_size: windows per batch.
      seed: keys the order of each pass and the augmentation.
      bin_size: bp per bin of the targets; stored bins are pooled to it (`signals.coarsen`).
      reverse_complement: give every second window, by chance, as the other strand: sequence complemented and
        reversed, bins reversed, tracks exchanged with their `strand_pair`.
      max_shift: move the sequence, not the target, by up to this many bp either way; N fill the gap.
      start: batches to pass over, for resuming; costs no decoding of what is passed over.
      subset: train, valid or test.
      work_dir: where the number of records per shard is remembered, for data without a manifest.

    Returns:
      {"sequence": `[B, L, 4]` float32, N as zeros; "target": `[B, bins, tracks]` float32}. Always finite.

    Raises:
      InputError: a shard is damaged or stores NaN or infinite targets (names shard and track), at the call
        where the data fit in memory, at the batch otherwise.
    """
    if batch_size < 1 or start < 0 or max_shift < 0:
        raise InputError(
            f"batch_size is {batch_size}, start {start}, max_shift {max_shift}; expected at least 1, 0 and 0."
        )
    dataset.head_bins(bin_size)
    total = dataset.count(subset)
    if not total:
        raise InputError(f"{dataset.path}: has no {subset} windows.")
    in_memory = _fits(dataset, subset, bin_size)
    if in_memory:
        kept = _load(dataset, subset, bin_size)

        def windows(number: int, skip: int) -> Iterator[Example]:
            order = _generator(seed, number, 0).permutation(total)
            return (Example(kept.sequence[i], kept.target[i]) for i in order[skip:])
    else:
        counts = shard_counts(dataset, subset, work_dir)
        if sum(counts) != total:
            raise miscounted(dataset, subset, counts)

        def windows(number: int, skip: int) -> Iterator[Example]:
            rng = _generator(seed, number, 0)
            return _shuffled_from_disk(dataset, subset, bin_size, counts, rng, skip)

    swap = strand_order(dataset.targets)

    def augmented() -> Iterator[Example]:
        first, skip = divmod(start * batch_size, total)
        for number in itertools.count(first):
            rng = _generator(seed, number, 1)
            flips = rng.random(total) < 0.5 if reverse_complement else np.zeros(total, bool)
            shifts = rng.integers(-max_shift, max_shift, total, endpoint=True)
            for position, example in enumerate(windows(number, skip), skip):
                sequence, target = other_strand(example, swap) if flips[position] else example
                yield Example(_shifted(sequence, int(shifts[position])), target)
            skip = 0

    batches = _batched(augmented(), batch_size)
    return batches if in_memory else _ahead(batches)


class Rows(NamedTuple):
    """A batch by number: which windows of the subset, `[B]`, and which of them on the other strand, bool `[B]`."""

    window: np.ndarray
    flipped: np.ndarray


def training_rows(
    total: int, *, batch_size: int, seed: int, reverse_complement: bool = False, start: int = 0
) -> Iterator[Rows]:
    """The batches that `training_batches` makes of a subset of `total` windows in memory, by number."""
    first, skip = divmod(start * batch_size, total)
    left = Rows(np.zeros(0, np.int64), np.zeros(0, bool))
    for number in itertools.count(first):
        order = _generator(seed, number, 0).permutation(total)
        flips = _generator(seed, number, 1).random(total) < (0.5 if reverse_complement else 0)
        left = Rows(*(np.concatenate([a, b[skip:]]) for a, b in zip(left, (order, flips), strict=True)))
        skip = 0
        while len(left.window) >= batch_size:
            yield Rows(left.window[:batch_size], left.flipped[:batch_size])
            left = Rows(left.window[batch_size:], left.flipped[batch_size:])


def windows_in_order(dataset: TrackDataset, subset: str, bin_size: int = 128) -> Iterator[Example]:
    """The windows of a subset once each, in file order; arguments and errors as of `evaluation_batches`."""
    dataset.head_bins(bin_size)
    if _fits(dataset, subset, bin_size):
        kept = _load(dataset, subset, bin_size)
        return (Example(*pair) for pair in zip(kept.sequence, kept.target, strict=True))
    return _in_file_order(dataset, subset, bin_size, dataset.count(subset))


def other_strand(example: Example, swap: np.ndarray) -> Example:
    """The window on the other strand: sequence complemented and reversed, bins reversed, tracks in the order `swap`."""
    return Example(codes_of_other_strand(example.sequence), target_of_other_strand(example.target, swap))


def codes_of_other_strand(codes: np.ndarray) -> np.ndarray:
    """Base codes `[L]` of the other strand."""
    return _CODES_OF_OTHER_STRAND[codes[::-1]]


def target_of_other_strand(target: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """Signal `[bins, tracks]` on the other strand, tracks in the order `swap`."""
    # [::-1, swap] in one would lie transposed in memory, slow to stack
    return np.take(target, swap, axis=1)[::-1]


def _generator(seed: int, number: int, what: int) -> np.random.Generator:
    """What the order (0) or the augmentation (1) of pass `number` is drawn from."""
    return np.random.default_rng([seed, number, what])


def evaluation_batches(
    dataset: TrackDataset, subset: str, *, batch_size: int, bin_size: int = 128, limit: int | None = None
) -> "EvaluationBatches":
    """The windows of a subset once each, in file order.

    Args:
      dataset: where the windows are.
      subset: train, valid or test.
      batch_size: windows per batch; the last batch may be smaller.
      bin_size: as in `training_batches`.
      limit: most batches; None for all.

    Raises:
      InputError: as in `training_batches`.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(f"batch_size is {batch_size} and limit {limit}; expected at least 1.")
    dataset.head_bins(bin_size)
    everything = dataset.count(subset)
    if not everything:
        raise InputError(f"{dataset.path}: has no {subset} windows.")
    if _fits(dataset, subset, bin_size):
        _load(dataset, subset, bin_size)
    windows = everything if limit is None else min(limit * batch_size, everything)
    return EvaluationBatches(dataset, subset, batch_size, bin_size, windows)


@dataclass(frozen=True)
class EvaluationBatches:
    """Batches as in `training_batches`, but finite; can be iterated again."""

    dataset: TrackDataset
    subset: str
    batch_size: int
    bin_size: int
    windows: int

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.windows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, tf.Tensor]]:
        windows = windows_in_order(self.dataset, self.subset, self.bin_size)
        batches = _batched(itertools.islice(windows, self.windows), self.batch_size)
        return batches if _fits(self.dataset, self.subset, self.bin_size) else _ahead(batches)


def _batched(examples: Iterator[Example], batch_size: int) -> Generator[dict[str, tf.Tensor]]:
    while batch := list(itertools.islice(examples, batch_size)):
        codes = np.stack([example.sequence for example in batch])
        target = np.stack([example.target for example in batch])
        yield {
            "sequence": tf.constant(np.take(ONE_HOT, codes, axis=0)),
            "target": tf.cast(target, tf.float32),  # NumPy takes nine times as long to widen float16
        }


def _ahead(batches: Generator[dict[str, tf.Tensor]]) -> Iterator[dict[str, tf.Tensor]]:
    """The same batches, each made in a thread while the one before it is in use."""
    pool = ThreadPoolExecutor(1)
    try:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


def _shifted(sequence: np.ndarray, shift: int) -> np.ndarray:
    """Base codes moved towards higher positions by `shift`; N come in."""
    if shift == 0:
        return sequence
    moved = np.full_like(sequence, 4)
    if shift > 0:
        moved[shift:] = sequence[:-shift]
    else:
        moved[:shift] = sequence[-shift:]
    return moved


def _window_bytes(dataset: TrackDataset, bin_size: int) -> int:
    statistics = dataset.statistics
    value = 2 if bin_size == statistics.pool_width else 4
    return statistics.seq_length + dataset.head_bins(bin_size) * statistics.num_targets * value


def _fits(dataset: TrackDataset, subset: str, bin_size: int) -> bool:
    return dataset.count(subset) * _window_bytes(dataset, bin_size) <= MEMORY_BUDGET


def _load(dataset: TrackDataset, subset: str, bin_size: int) -> _Windows:
    key = (dataset.state, subset, bin_size)
    if key not in _decoded:
        statistics, total = dataset.statistics, dataset.count(subset)
        sequence = np.empty((total, statistics.seq_length), np.uint8)
        kind = np.float16 if bin_size == statistics.pool_width else np.float32
        target = np.empty((total, dataset.head_bins(bin_size), statistics.num_targets), kind)
        found = 0
        for example in _in_file_order(dataset, subset, bin_size, total + 1):
            if found < total:
                sequence[found], target[found] = example
            found += 1
        if found != total:
            shards = dataset.shards(subset)
            counts = [sum(1 for _ in read_shard(shard, statistics)) for shard in shards]
            raise miscounted(dataset, subset, counts)
        _decoded[key] = _Windows(sequence, target)
    return _decoded[key]


def _in_file_order(dataset: TrackDataset, subset: str, bin_size: int, most: int) -> Iterator[Example]:
    for shard in dataset.shards(subset):
        for example in _checked(dataset, shard, bin_size):
            yield example
            most -= 1
            if not most:
                return


def _checked(
    dataset: TrackDataset, shard: Path, bin_size: int, skip: Sequence[int] | set[int] = ()
) -> Iterator[Example]:
    """The windows of a shard, pooled to `bin_size`."""
    factor = bin_size // dataset.statistics.pool_width
    for sequence, target in read_finite(dataset, shard, skip):
        yield Example(sequence, coarsen(target, factor, dataset.targets) if factor > 1 else target)


Place = tuple[int, int]  # shard, record


def _reading_order(
    counts: Sequence[int], rng: np.random.Generator, buffer: int
) -> tuple[list[Place], list[Place]]:
    """The order in which records are read and the order in which they leave the shuffle buffer.

    Shards in random order, up to `_OPEN_SHARDS` in turn, through a buffer of which a random place is
    exchanged for each record read.
    """
    waiting = iter([int(shard) for shard in rng.permutation(len(counts)) if counts[shard]])
    opened = [[shard, 0] for shard in itertools.islice(waiting, _OPEN_SHARDS)]
    read: list[Place] = []
    while opened:
        for entry in list(opened):
            read.append((entry[0], entry[1]))
            entry[1] += 1
            if entry[1] == counts[entry[0]]:
                following = next(waiting, None)
                if following is None:
                    opened.remove(entry)
                else:
                    entry[:] = [following, 0]
    places = rng.integers(buffer, size=len(read)).tolist()
    held = read[:buffer]
    left: list[Place] = []
    for place, item in zip(places, read[buffer:], strict=False):
        left.append(held[place])
        held[place] = item
    left += [held[i] for i in rng.permutation(len(held))]
    return read, left


def _shuffled_from_disk(
    dataset: TrackDataset,
    subset: str,
    bin_size: int,
    counts: Sequence[int],
    rng: np.random.Generator,
    skip: int,
) -> Iterator[Example]:
    """One pass from its window number `skip` on; shards and records that have all passed are not decoded."""
    shards = dataset.shards(subset)
    buffer = max(8, min(1024, _BUFFER_BYTES // _window_bytes(dataset, bin_size)))
    read, left = _reading_order(counts, rng, buffer)
    passed: dict[int, set[int]] = {}
    for shard, record in left[:skip]:
        passed.setdefault(shard, set()).add(record)
    upcoming = (place for place in read if place[1] not in passed.get(place[0], ()))
    iterators: dict[int, Iterator[Example]] = {}
    following: dict[int, Future] = {}
    ready: dict[Place, Example] = {}
    pool = ThreadPoolExecutor(_OPEN_SHARDS)
    try:
        for wanted in left[skip:]:
            while wanted not in ready:
                shard, record = next(upcoming)
                if shard not in iterators:
                    skipped = passed.get(shard, set())
                    iterators[shard] = _checked(dataset, shards[shard], bin_size, skipped)
                    following[shard] = pool.submit(next, iterators[shard], None)
                example = following[shard].result()
                if example is None:
                    raise InputError(f"{shards[shard]}: has fewer than {counts[shard]} records.")
                following[shard] = pool.submit(next, iterators[shard], None)
                ready[shard, record] = example
            yield ready.pop(wanted)
    finally:
        pool.shutdown(cancel_futures=True)
        for iterator in iterators.values():
            iterator.close()  # type: ignore[attr-defined]
