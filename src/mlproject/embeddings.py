"""Trunk embeddings of windows, and their targets, kept on disk so that each is computed once and read in any order.

FOLDER/NAME.npy     a shard: float16 (or another dtype) [windows, bins, channels]
FOLDER/NAME.keys    sha256 of the shard, then the names of its windows, a line each; written last, so a shard without it
                    does not exist

float16 keeps three digits, and the largest embedding of a trained trunk is far below its limit of 65,504.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mlproject.data.files import explained, locked, sync, write_whole
from mlproject.data.records import file_sha256
from mlproject.errors import InputError

_SHARD_BYTES = 64 * 2**20


class EmbeddingCache:
    """The embeddings of one trunk at one length of window.

    Args:
        folder: of this trunk and length alone; made where there is none.
        bins: of an embedding.
        channels: of an embedding.
        dtype: what is kept.
        what: what people call it.
    """

    def __init__(
        self, folder: Path, bins: int, channels: int, dtype: Any = np.float16, what: str = "embeddings"
    ):
        self.folder = Path(folder)
        self._shape = (bins, channels)
        self._dtype = np.dtype(dtype)
        self._what = what
        self._shards: dict[str, np.ndarray] = {}
        self._places: dict[str, tuple[str, int]] = {}
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
        say: Callable[[str], None] = print,
    ) -> int:
        """Computes what is missing, a shard at a time; what a killed process has finished is not computed again.

        Args:
            keys: names of the windows wanted.
            embed: positions in `keys`, at most `batch_size`, to `[n, bins, channels]` of any float dtype.
            batch_size: windows of a call of `embed`.
            say: gets one line, of the size, before the work begins.

        Returns:
            How many windows were computed.

        Raises:
            InputError: the disk has too little room, or an embedding is NaN or beyond float16.
        """
        with locked(self.folder):
            for left in self.folder.glob("*.*.*"):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            self._look()
            wanted = self.missing(keys)
            if not wanted:
                return 0
            window_bytes = self._dtype.itemsize * int(np.prod(self._shape))
            total, free = len(wanted) * window_bytes, shutil.disk_usage(self.folder).free
            say(
                f"{self._what}: {len(wanted)} of {len(set(keys))} windows to compute, {_size(total)}, "
                f"in {self.folder}"
            )
            if total > free:
                raise InputError(
                    f"{self.folder}: {_size(total)} needed for {self._what}, {_size(free)} free; "
                    "choose another work_dir, fewer windows, or cache=off"
                )
            size = max(batch_size, _SHARD_BYTES // window_bytes // batch_size * batch_size)
            with tqdm(total=len(wanted), desc=self._what, unit="window", disable=None, leave=False) as bar:
                for start in range(0, len(wanted), size):
                    shard = wanted[start : start + size]
                    found = []
                    for at in range(0, len(shard), batch_size):
                        found.append(self._kept(embed(shard[at : at + batch_size])))
                        bar.update(len(found[-1]))
                    self._write([keys[position] for position in shard], np.concatenate(found))
        return len(wanted)

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """The embeddings of windows that are there: `[n, bins, channels]` of their dtype."""
        places = [self._places[key] for key in keys]
        return np.stack([self._shards[name][row] for name, row in places])

    def _look(self) -> None:
        """Opens the shards that are new and verifies them; what is damaged is removed, to be computed again."""
        for names in sorted(self.folder.glob("*.keys")):
            name = names.stem
            if name in self._shards:
                continue
            try:
                sha256, *keys = names.read_text(encoding="utf-8").split()
                if name != _name(keys):
                    raise ValueError(f"{names.name} does not name its windows")
                if sha256 != file_sha256(names.with_suffix(".npy")):
                    raise ValueError("it is not what was written, by its sha256")
                array = np.load(names.with_suffix(".npy"), mmap_mode="r")
                if array.shape != (len(keys), *self._shape) or array.dtype != self._dtype:
                    raise ValueError(f"is {array.shape} {array.dtype}")
            except (OSError, ValueError, InputError) as error:
                print(f"{self.folder / name}.npy is passed over: {error}", flush=True)
                with explained(f"{names}: is damaged and cannot be removed; remove it"):
                    names.unlink(missing_ok=True)
                continue
            self._shards[name] = array
            self._places.update({key: (name, row) for row, key in enumerate(keys)})

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
                os.replace(unfinished, path)
                write_whole(path.with_suffix(".keys"), "\n".join([sha256, *keys]) + "\n")
        finally:
            unfinished.unlink(missing_ok=True)
        self._look()

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


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
