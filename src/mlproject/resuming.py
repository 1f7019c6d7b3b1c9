"""What lets a stopped training go on: a fingerprint of its options, a lock and checkpoints by step."""

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enformer_core import checkpoints
from enformer_core.enformer import Enformer
from mlproject.errors import InputError
from mlproject.training import Adam


def fingerprint(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that change with any of the values (JSON, or what has a `str`)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keeps other processes on this machine out of the same work while the block runs.

    The system lets go of the lock however this process ends, so a kill leaves nothing to clean up.

    Raises:
        InputError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: another process is at this work; wait for it, or stop it") from None
        yield


class StepCheckpoints:
    """Checkpoints of one training that is under way, `FOLDER/step-000000050` and so on: the newest two are kept.

    Two, so that one that is found damaged leaves another to continue from.

    Args:
        folder: of this training alone.
        model, optimizer: what is saved, and set by `restore`.
        every_seconds: after how long a checkpoint is `due`.
    """

    def __init__(self, folder: Path, model: Enformer, optimizer: Adam, every_seconds: float):
        self._folder = folder
        self._model = model
        self._optimizer = optimizer
        self._every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def restore(self) -> int:
        """Sets model and optimizer from the newest whole checkpoint; returns its step, 0 where there is none."""
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            try:
                weights = checkpoints.read_arrays(folder / "weights.npz")
                training = checkpoints.read_arrays(folder / "training.npz")
                checkpoints.assign(self._model, weights, folder)
                self._optimizer.restore(training)
            except (OSError, ValueError, KeyError) as error:
                print(f"{folder} is passed over: {error}", flush=True)
                shutil.rmtree(folder)
                continue
            return int(folder.name.removeprefix("step-"))
        return 0

    def save(self, step: int) -> None:
        """Writes a checkpoint, whole or not at all."""
        folder = self._folder / f"step-{step:09d}"
        if not folder.exists():
            checkpoints.save(folder, self._model, self._optimizer.state())
        for old in sorted(self._folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is `every_seconds` old."""
        return time.monotonic() - self._saved_at >= self._every_seconds
