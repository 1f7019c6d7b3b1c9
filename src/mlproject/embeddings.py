"""Trunk embeddings of windows, and their targets, kept on disk so that each is computed once and read in any order.

FOLDER/NAME.npy     a shard: float16 (or another dtype) [windows, bins, channels]
FOLDER/NAME.keys    sha256, size and time of change of the shard, then the names of its windows, a line each; written
                    last, so a shard without it does not exist

A window is named by its letters, so whatever has the same letters at the same trunk is computed once.
float16 keeps three digits, and the largest embedding of a trained trunk is far below its limit of 65,504.
"""

import contextlib
import fcntl
import functools
import hashlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from enformer_core import checkpoints
from enformer_core.enformer import Enformer
from mlproject import __version__
from mlproject.data.files import disk_free, explained, size_text, sync, write_whole
from mlproject.data.records import file_sha256
from mlproject.errors import InputError
from mlproject.resuming import fingerprint

_SHARD_BYTES = 64 * 2**20
_EMBEDDED_BP = 65_536  # of windows whose embeddings are computed at once
_PATIENCE = 2.0  # seconds without a bar
_say_now = functools.partial(print, flush=True)


def sequence_key(codes: np.ndarray) -> str:
    """The name of a window: 32 hexadecimal digits of its base codes `[L]` uint8 alone."""
    return hashlib.sha256(codes.tobytes()).hexdigest()[:32]


def at_once(length_bp: int) -> int:
    """Windows whose embeddings are computed at once.

    By the length alone: the last digits of an embedding depend on it, and what is kept serves every batch_size.
    """
    return max(1, _EMBEDDED_BP // length_bp)


def trunk_key(enformer: Enformer) -> str:
    """Sixteen digits of what the embedding of a window depends on: the trunk and its lengths, whatever the heads."""
    config = enformer.config
    lengths = [config.sequence_length, config.num_bins]
    return fingerprint(
        {"trunk": checkpoints.trunk_digest(enformer), "lengths": lengths, "version": __version__}
    )


def trunk_embeddings(work_dir: Path, enformer: Enformer) -> "EmbeddingCache":
    """What is kept of a trunk at its length, for every dataset and command."""
    config = enformer.config
    folder = work_dir / "embeddings" / trunk_key(enformer)
    return EmbeddingCache(folder, config.num_bins, 2 * config.channels)


class EmbeddingCache:
    """The embeddings of one trunk at one length of window.

    Args:
        folder: of this trunk and length alone; made where there is none.
        bins: of an embedding.
        channels: of an embedding.
        dtype: what is kept.
        what: what people call it.

    Raises:
        InputError: the folder cannot be written, or something in it cannot be read; nothing is removed for that.
    """

    def __init__(
        self, folder: Path, bins: int, channels: int, dtype: Any = np.float16, what: str = "embeddings"
    ):
        self.folder = Path(folder)
        self.shape = (bins, channels)
        """Of the embedding of a window."""
        self._dtype = np.dtype(dtype)
        self._what = what
        self._window_bytes = self._dtype.itemsize * bins * channels
        self._starts: dict[str, int] = {}  # shard -> where in the file its numbers start
        self._places: dict[str, tuple[str, int]] = {}
        self._held: tuple[dict[str, int], tf.Tensor] | None = None
        with explained(f"{folder}: cannot be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._look()

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of the windows that are not there, each name once."""
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        return sorted(position for key, position in first.items() if key not in self._places)

    def fill(
        self,
        keys: Sequence[str],
        embed: Callable[[list[int]], np.ndarray],
        *,
        batch_size: int,
        say: Callable[[str], None] = _say_now,
    ) -> int:
        """Computes what is missing, a shard at a time; what a killed process has finished is not computed again.

        Args:
            keys: names of the windows wanted.
            embed: positions in `keys`, at most `batch_size`, to `[n, bins, channels]` of any float dtype.
            batch_size: windows of a call of `embed`.
            say: gets one line, of the size, before the work begins, and one of the process that is waited for.

        Returns:
            How many windows were computed.

        Raises:
            InputError: the disk has too little room, or an embedding is NaN or beyond float16.
        """
        if not self.missing(keys):
            return 0
        with _alone(self.folder, say):
            self._look()
            wanted = self.missing(keys)
            if not wanted:
                return 0
            self._remove_unfinished()
            total, free = len(wanted) * self._window_bytes, disk_free(self.folder)
            say(
                f"{self._what}: {len(wanted)} of {len(set(keys))} windows to compute, {size_text(total)}, "
                f"in {self.folder}"
            )
            if total > free:
                raise InputError(
                    f"{self.folder}: {size_text(total)} needed for {self._what}, {size_text(free)} free; "
                    "choose another work_dir, fewer windows, or cache=off"
                )
            size = max(batch_size, _SHARD_BYTES // self._window_bytes // batch_size * batch_size)
            with tqdm(total=len(wanted), desc=self._what, unit="window", disable=None, leave=False) as bar:
                for start in range(0, len(wanted), size):
                    shard = wanted[start : start + size]
                    found = []
                    for at in range(0, len(shard), batch_size):
                        found.append(self._kept(embed(shard[at : at + batch_size])))
                        bar.update(len(found[-1]))
                    self._write([keys[position] for position in shard], np.concatenate(found))
        return len(wanted)

    def hold(self, keys: Sequence[str], most_bytes: int) -> None:
        """Reads these windows into memory, for many epochs, if as float32 they take no more than `most_bytes` there."""
        names = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        if 4 * len(names) * math.prod(self.shape) <= most_bytes:
            self._held = names, tf.constant(self.read(list(names)).astype(np.float32))

    def tensor(self, keys: Sequence[str]) -> tf.Tensor:
        """The embeddings of windows that are there: `[n, bins, channels]` float32; raises as `read`.

        Of windows that are held this copies once, and what a small head trains on is mostly copied.
        """
        if self._held is not None and all(key in self._held[0] for key in keys):
            rows, held = self._held
            return tf.gather(held, [rows[key] for key in keys])
        # widened here: XLA would multiply in float16, and TensorFlow's first cast of one prints a warning
        return tf.constant(self.read(keys).astype(np.float32))

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """The embeddings of windows that are there: `[n, bins, channels]` of their dtype.

        Files are opened for the call alone: there may be more of them than a process may hold open.

        Raises:
            InputError: a window is not there, or its shard cannot be read.
        """
        if missing := self.missing(keys):
            raise InputError(
                f"{self.folder}: has no {self._what} of {len(missing)} of {len(set(keys))} windows "
                f"({keys[missing[0]]}); the same command computes them"
            )
        wanted: dict[str, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            name, row = self._places[key]
            wanted.setdefault(name, []).append((position, row))
        found = np.empty((len(keys), *self.shape), self._dtype)
        for name, rows in wanted.items():
            path = self.folder / f"{name}.npy"
            with (
                explained(f"{path}: cannot be read; the same command makes what is gone anew", (OSError,)),
                path.open("rb") as file,
            ):
                for position, row in rows:
                    file.seek(self._starts[name] + row * self._window_bytes)
                    if file.readinto(found[position]) != self._window_bytes:
                        raise OSError("it was cut short")
        return found

    # -- inside

    def _look(self) -> None:
        """Takes in the shards that are new; what is damaged is removed, to be computed again."""
        with explained(f"{self.folder}: cannot be read", (OSError,)):
            names = sorted(name[:-5] for name in os.listdir(self.folder) if name.endswith(".keys"))
        new = [name for name in names if name not in self._starts]
        for name in tqdm(
            new, f"check {self._what}", unit="shard", disable=None, leave=False, delay=_PATIENCE
        ):
            self._take_in(self.folder / f"{name}.keys")

    def _take_in(self, names: Path) -> None:
        shard = names.with_suffix(".npy")
        with explained(f"{shard}: cannot be read", (OSError,)):
            try:
                first, *keys = names.read_text(encoding="utf-8").splitlines()
                sha256, *known = first.split()
                if names.stem != _name(keys):
                    raise ValueError(f"{names.name} does not name its windows")
                if known != (state := _state(shard)):  # it was copied, or changed
                    if sha256 != file_sha256(shard):
                        raise ValueError("it is not what was written, by its sha256")
                    with contextlib.suppress(OSError):  # it is looked through again the next time
                        write_whole(names, _listed(sha256, state, keys))
                start, shape, dtype = _header(shard)
                if shape != (len(keys), *self.shape) or dtype != self._dtype:
                    raise ValueError(f"is {shape} {dtype}")
            except FileNotFoundError:
                if not names.exists():  # another process has found it damaged
                    return
                self._pass_over(names, "it is gone")
            except ValueError as error:
                self._pass_over(names, str(error))
            else:
                self._add(names.stem, start, keys)

    def _pass_over(self, names: Path, why: str) -> None:
        print(f"{names.with_suffix('.npy')} is passed over: {why}", flush=True)
        with explained(f"{names}: is damaged and cannot be removed; remove it", (OSError,)):
            names.unlink(missing_ok=True)

    def _add(self, name: str, start: int, keys: Sequence[str]) -> None:
        self._starts[name] = start
        self._places.update({key: (name, row) for row, key in enumerate(keys)})

    def _remove_unfinished(self) -> None:
        """What killed processes have left: files under other names, and shards without their names."""
        with explained(f"{self.folder}: cannot be written", (OSError,)):
            for left in [*self.folder.glob("*.npy.*"), *self.folder.glob("*.keys.*")]:
                left.unlink(missing_ok=True)
            for shard in self.folder.glob("*.npy"):
                if not shard.with_suffix(".keys").exists():
                    shard.unlink(missing_ok=True)

    def _write(self, keys: list[str], array: np.ndarray) -> None:
        path = self.folder / f"{_name(keys)}.npy"
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with explained(
                f"{self.folder}: cannot be written; free some room, choose another work_dir, or cache=off"
            ):
                with unfinished.open("wb") as file:
                    np.lib.format.write_array(file, array)
                sync(unfinished)
                sha256 = file_sha256(unfinished)
                start, *_ = _header(unfinished)
                os.replace(unfinished, path)
                write_whole(path.with_suffix(".keys"), _listed(sha256, _state(path), keys))
        finally:
            unfinished.unlink(missing_ok=True)
        self._add(path.stem, start, keys)

    def _kept(self, computed: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            array = np.asarray(computed).astype(self._dtype)
        if not np.isfinite(array).all():
            raise InputError(
                f"{self.folder}: of the {self._what} one is NaN or beyond {self._dtype}; this needs cache=off"
            )
        return array


def _name(keys: Sequence[str]) -> str:
    """What the shard of these windows is called."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def _listed(sha256: str, state: list[str], keys: Sequence[str]) -> str:
    """What a .keys file says."""
    return "\n".join([" ".join([sha256, *state]), *keys]) + "\n"


def _state(path: Path) -> list[str]:
    """Size and time of change of a file: while they stay, it was not written to."""
    found = path.stat()
    return [str(found.st_size), str(found.st_mtime_ns)]


def _header(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the numbers of a .npy file start, and their shape and dtype; ValueError where it has no such header."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("is of another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return file.tell(), shape, dtype


@contextlib.contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a folder for this process; others who ask wait, and say for whom. A kill leaves nothing in the way."""
    note = folder / "holder"
    with explained(f"{folder}: cannot be locked", (OSError,)):
        handle = os.open(folder, os.O_RDONLY)
    try:
        with explained(f"{folder}: cannot be locked", (OSError,)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{folder}: waiting for {_holder(note)}, which fills it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            note.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            if note.read_text().split()[1:2] == [str(os.getpid())]:
                note.unlink()
        os.close(handle)


def _holder(note: Path) -> str:
    with contextlib.suppress(OSError):
        return note.read_text() or "another process"
    return "another process"
