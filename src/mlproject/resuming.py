"""What lets a stopped training go on: a fingerprint of its options, a lock, checkpoints by step and a clean stop."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from enformer_core import checkpoints
from mlproject import stopping
from mlproject.data.files import explained
from mlproject.errors import InputError, Stopped
from mlproject.training import Adam, Batch, Diverged, Schedule, Step, TrainResult, fit


def fingerprint(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that change with any of the values (JSON, or what has a `str`)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


_MOST_TRIES = 100  # there are file systems on which an open file never is the one of its name


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keeps other processes on this machine out of the same work while the block runs.

    The system lets go of the lock however this process ends. At the end of the block the file is removed, and the
    folder beside it, `NAME` for `NAME.lock`, where that is empty; what a kill leaves of them is in nobody's way.

    Args:
        path: of the lock, which is made.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with explained(f"{path}: cannot be written", (OSError,)):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(_locked(path))
            for _ in range(_MOST_TRIES):
                if _is_open_as(lock, path):
                    break
                lock.close()  # its holder removed the file after it was opened here
                lock = stack.enter_context(_locked(path))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if _is_open_as(lock, path):
                    with contextlib.suppress(OSError):
                        path.with_suffix("").rmdir()
                    path.unlink()


def _locked(path: Path) -> IO[str]:
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(f"{path}: another process is at this work; wait for it, or stop it") from None
    return lock


def _is_open_as(file: IO[str], path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class StepCheckpoints:
    """Checkpoints of one training that is under way, `FOLDER/step-000000050` and so on: the newest two are kept.

    Each is `weights.npz`, the variables, and `training.npz`, the optimizer. Two, so that one that is found damaged
    leaves another to continue from.

    Args:
        folder: of this training alone.
        variables: everything that training changes, BatchNorm averages included.
        optimizer: its state is saved with them.
        every_seconds: after how long a checkpoint is `due`.
    """

    def __init__(self, folder: Path, variables: Sequence[tf.Variable], optimizer: Adam, every_seconds: float):
        self._folder = folder
        self._variables = variables
        self._optimizer = optimizer
        self._every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def restore(self) -> int:
        """Sets variables and optimizer from the newest whole checkpoint; returns its step, 0 where there is none."""
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            try:
                training = checkpoints.read_arrays(folder / "training.npz")
                self.restore_weights(folder)
                self._optimizer.restore(training)
            except (OSError, ValueError, KeyError) as error:
                print(f"{folder} is passed over: {error}", flush=True)
                shutil.rmtree(folder)
                continue
            return _step_of(folder)
        return 0

    def save(self, step: int) -> None:
        """Writes a checkpoint, whole or not at all.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        self._save(self._folder / f"step-{step:09d}", self._optimizer.state())
        for old in sorted(self._folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is `every_seconds` old."""
        return time.monotonic() - self._saved_at >= self._every_seconds

    def keep_best(self, step: int) -> None:
        """Keeps the variables as the best so far, in `FOLDER/best-...`; what was the best before is forgotten."""
        self._save(self._folder / f"best-{step:09d}")
        for old in self._folder.glob("best-*"):
            if _step_of(old) != step:
                shutil.rmtree(old)

    def restore_best(self) -> int:
        """Sets the variables to the best there were, and returns the step of that.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        for folder in self._folder.glob("best-*"):
            self.restore_weights(folder)
            return _step_of(folder)
        raise ValueError(f"{self._folder}: has no best-* checkpoint")

    def restore_weights(self, folder: Path) -> None:
        """Sets the variables, but not the optimizer, from one of these checkpoints."""
        path = folder / "weights.npz"
        checkpoints.assign_variables(self._variables, checkpoints.read_arrays(path), path)

    def _save(self, folder: Path, training: Mapping[str, Any] | None = None) -> None:
        if folder.exists():
            return
        full = f"{self._folder}: cannot be written; free some room, or choose another work_dir"
        with explained(full, (OSError,)), checkpoints.whole_folder(folder) as temporary:
            np.savez(temporary / "weights.npz", **checkpoints.arrays(self._variables))  # type: ignore[arg-type]
            if training is not None:
                np.savez(temporary / "training.npz", **training)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def fit_resumably(
    step: Step,
    batches: Iterator[Batch],
    schedule: Schedule,
    log: Callable[[int, dict[str, float]], None],
    saved: StepCheckpoints,
    *,
    flush: Callable[[], None],
    validate: Callable[[int], bool | None],
    seed: int,
    start: int,
    label: str,
) -> TrainResult:
    """`fit` with a progress bar and checkpoints: after epochs when one is due, at the end, and when asked to stop.

    Args:
        step, batches, schedule, log, seed, start: as `fit` takes them.
        saved: where checkpoints go.
        flush: called before a checkpoint is written: what is logged must not be behind what is saved.
        validate: called with the step count after every epoch; true ends the training.
        label: of the bar.

    Raises:
        Stopped: SIGTERM or Ctrl-C; a checkpoint is there.
        Diverged: as `fit`.
    """

    def save(count: int) -> None:
        flush()
        saved.save(count)

    def end_of_epoch(count: int) -> bool:
        enough = bool(validate(count))
        if saved.due() or enough or count == schedule.steps:
            save(count)
        return enough

    with (
        tqdm(total=schedule.steps, initial=start, desc=label, unit="step", disable=None, leave=False) as bar,
        stopping.deferred() as should_stop,
    ):

        def log_and_show(count: int, metrics: dict[str, float]) -> None:
            log(count, metrics)
            shown = {name: f"{value:.4f}" for name, value in metrics.items() if name.startswith("loss")}
            bar.set_postfix(shown, refresh=False)
            bar.update()

        def after_step(count: int) -> None:
            if should_stop():
                save(count)
                raise Stopped(f"after step {count} of {schedule.steps}")

        return fit(
            step,
            batches,
            schedule,
            log_and_show,
            seed=seed,
            start=start,
            end_of_epoch=end_of_epoch,
            after_step=after_step,
        )


def fit_keeping_best(
    step: Step,
    batches: Iterator[Batch],
    schedule: Schedule,
    log: Callable[[int, dict[str, float]], None],
    saved: StepCheckpoints,
    *,
    measure: Callable[[], dict[str, float]],
    losses: Sequence[float],
    patience: int,
    flush: Callable[[], None],
    seed: int,
    start: int,
    label: str,
) -> TrainResult:
    """`fit_resumably` with an epoch of the lowest validation loss, which is kept as `saved`'s best, and an early end.

    Args:
        step, batches, schedule, log, saved, flush, seed, start, label: as `fit_resumably` takes them; `log` also gets
            what is measured after every epoch.
        measure: the validation numbers by name, `validation/loss` among them.
        losses: validation losses of the epochs up to `start`.
        patience: epochs without a lower validation loss after which it ends; 0 for never.

    Raises:
        Stopped, Diverged: as `fit_resumably`; a validation loss that is not finite diverges too.
    """
    losses = list(losses)

    def enough() -> bool:
        return 0 < patience <= len(losses) - 1 - int(np.argmin(losses))

    def validate(count: int) -> bool:
        found = measure()
        losses.append(found["validation/loss"])
        if not np.isfinite(losses[-1]):
            raise Diverged(f"validation/loss became {losses[-1]} at step {count}; try a lower learning_rate")
        log(count, found)
        if int(np.argmin(losses)) == len(losses) - 1:
            saved.keep_best(count)
        return enough()

    if losses and enough():  # a process was stopped between its last epoch and its end
        schedule = dataclasses.replace(schedule, epochs=len(losses))
    return fit_resumably(
        step,
        batches,
        schedule,
        log,
        saved,
        flush=flush,
        validate=validate,
        seed=seed,
        start=start,
        label=label,
    )
