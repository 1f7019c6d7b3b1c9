"""Windows to shards, in worker processes: sequence and signal are read, examples written."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from mlproject.data.genome import Genome, Interval
from mlproject.data.records import SUBSETS, Example, file_sha256, write_shard
from mlproject.data.signals import SignalReader
from mlproject.data.windows import Regions, Window
from mlproject.errors import InputError

Item = TypeVar("Item")
MOST_UNKNOWN = 0.5  # windows with a larger part of N are left out


class Plan(NamedTuple):
    """What a worker needs to make any shard; sent to each worker once."""

    fasta: str
    work_dir: str
    targets: pd.DataFrame
    bigwigs: list[Path]
    blacklist: list[Interval]
    crop_bp: int
    bin_size: int
    min_std: float


class Task(NamedTuple):
    """One shard to make: where to write it, and the windows it is of."""

    subset: str
    number: int
    path: Path
    windows: list[Window]


class Shard(NamedTuple):
    """What came of one task."""

    task: Task
    kept: list[Window]
    with_n: int  # kept windows with at least one N
    dropped_n: int
    dropped_flat: int
    missing: np.ndarray  # [tracks] bp
    limited: np.ndarray  # [tracks] bins
    bytes: int
    sha256: str


_state: dict[str, Any] = {}  # of this worker process: the plan and its open files


def _start_worker(plan: Plan) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _open_plan(plan)


def _end_with_parent() -> None:
    """A build that is killed (kill -9, out of memory) cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _open_plan(plan: Plan) -> None:
    black: dict[str, list[Interval]] = {}
    for interval in plan.blacklist:
        black.setdefault(interval.chrom, []).append(interval)
    _state.update(
        plan=plan,
        genome=Genome(plan.fasta, plan.work_dir),
        reader=SignalReader(plan.targets, plan.bigwigs),
        blacklist={chrom: Regions(intervals) for chrom, intervals in black.items()},
    )


def _make_shard(task: Task) -> Shard:
    plan, genome, reader = _state["plan"], _state["genome"], _state["reader"]
    reader.missing[:] = 0
    reader.limited[:] = 0
    with_n = dropped_n = dropped_flat = 0
    known: list[tuple[Window, np.ndarray]] = []
    for windows in stretches(task.windows, lambda window: window):
        first = windows[0]
        stretch = genome.codes(Interval(first.chrom, first.start, windows[-1].end))
        for window in windows:
            codes = stretch[window.start - first.start : window.end - first.start]
            unknown = int(np.count_nonzero(codes == 4))
            if unknown > MOST_UNKNOWN * len(codes):
                dropped_n += 1
                continue
            with_n += unknown > 0
            known.append((window, codes))
    examples: list[Example] = []
    kept: list[Window] = []
    for group in stretches(known, lambda item: item[0]):
        first, last = group[0][0], group[-1][0]
        black = _state["blacklist"].get(first.chrom)
        target = reader.read(
            first.chrom,
            [window.start + plan.crop_bp for window, _ in group],
            first.end - first.start - 2 * plan.crop_bp,
            plan.bin_size,
            black.within(first.chrom, first.start, last.end) if black else (),
        )
        flat = np.zeros(len(group), bool)
        if plan.min_std > 0:
            flat = (target.astype(np.float32).std(axis=1) < plan.min_std).all(axis=-1)
        for (window, codes), values, is_flat in zip(group, target, flat, strict=True):
            if is_flat:
                dropped_flat += 1
                with_n -= bool((codes == 4).any())
            else:
                kept.append(window)
                examples.append(Example(codes, values))
    if examples:
        write_shard(task.path, examples)
    size, digest = (task.path.stat().st_size, file_sha256(task.path)) if examples else (0, "")
    return Shard(
        task,
        kept,
        with_n,
        dropped_n,
        dropped_flat,
        reader.missing.copy(),
        reader.limited.copy(),
        size,
        digest,
    )


def stretches(items: Sequence[Item], window_of: Callable[[Item], Window]) -> Iterator[list[Item]]:
    """Items of neighbouring windows of one chromosome, to be read together."""
    group: list[Item] = []
    for item in items:
        window = window_of(item)
        last = window_of(group[-1]) if group else window
        apart = window.start - last.start
        if group and not (window.chrom == last.chrom and 0 < apart <= 2 * (last.end - last.start)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def make_shards(tasks: list[Task], plan: Plan, workers: int, progress: bool) -> list[Shard]:
    """Write the shards of all tasks, in this process and `workers` - 1 others; in the order of the tasks."""
    others = min(workers, len(tasks)) - 1
    # spawn, not fork: TensorFlow may have threads in this process
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(others, context, _start_worker, (plan,)) if others else None
    done: list[Shard] = []
    total = sum(len(task.windows) for task in tasks)
    one_at_a_time = threading.Lock()  # what the others have done is shown from a thread of the pool
    with tqdm(total=total, desc="build_tracks", unit="window", disable=not progress) as bar:

        def show(task: Task) -> None:
            with one_at_a_time:
                bar.update(len(task.windows))

        def show_if_made(future: "Future[Shard]") -> None:
            if not future.cancelled() and future.exception() is None:
                show(future.result().task)

        try:
            futures = [pool.submit(_make_shard, task) if pool else None for task in tasks]
            for future in futures:
                if future:
                    future.add_done_callback(show_if_made)
            _open_plan(plan)
            # from the end, until it meets what the others, which have to start first, do from the beginning
            for task, future in zip(reversed(tasks), reversed(futures), strict=True):
                if future is None or future.cancel():
                    done.append(_make_shard(task))
                    show(task)
            for ended in as_completed(future for future in futures if future and not future.cancelled()):
                done.append(ended.result())
        except BrokenProcessPool:
            raise InputError(
                "a worker of the build died, most likely because memory ran out; "
                "try workers=1 or fewer examples_per_shard."
            ) from None
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)
            if "genome" in _state:
                _state["genome"].close()
            _state.clear()
    return sorted(done, key=lambda shard: (SUBSETS.index(shard.task.subset), shard.task.number))
