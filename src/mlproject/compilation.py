"""Compiled programs, kept from one process to the next: XLA's persistent cache, made safe to leave on.

TensorFlow writes what it compiles into a folder and loads from there whatever has the right name: a cut file ends a
training with an error that names nothing, a changed one is machine code that runs. So there is a store, whose entries
carry their digest in their name, and each process gets a folder of its own with links to those that are sound.

    ~/.cache/mlproject/xla/HOST/             HOST is a digest of what machine code depends on
        ENTRY.pb.SHA256                      a compiled program
        process-XXXX/ENTRY.pb                what TensorFlow reads and writes
"""

import atexit
import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlproject import stderr

FOLDER_VARIABLE = "MLPROJECT_COMPILATION_CACHE"
MAX_BYTES = 2 * 1000**3

# What XLA says when it loads a program: it takes two of its own tuning flags for features of the processor, and reads
# each entry as text first.
_NOISE = re.compile(
    rb"E0000 .*cpu_aot_loader.*prefer-no-(scatter|gather) is not|E0000 .*text_format.*XlaSerializedCacheEntry"
)

_process_folder: Path | None = None


def enable() -> None:
    """Lets this process use the store; TensorFlow must not have been imported before.

    The store is the folder that MLPROJECT_COMPILATION_CACHE names (`off` for none), or one below the user's cache
    folder. Where that cannot be found or written, everything is compiled anew.
    """
    global _process_folder
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if os.environ.get(FOLDER_VARIABLE) == "off" or _process_folder is not None:
        return
    if flags and not flags.startswith("-"):  # the name of a file of flags, to which none can be added
        return
    try:
        store = Path(os.environ.get(FOLDER_VARIABLE) or _user_cache()).absolute() / _host()
        if "'" in str(store):  # TensorFlow's only quotes
            return
        store.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(store)
        folder = Path(tempfile.mkdtemp(prefix="process-", dir=store))
        # Held as long as the process lives, however it ends: what others take to tell an abandoned folder.
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    # no home; a TensorFlow of another name, such as tensorflow-cpu
    except (OSError, RuntimeError, importlib.metadata.PackageNotFoundError):
        return
    _process_folder = folder
    ours = f"--tf_xla_persistent_cache_directory='{folder}' --tf_xla_persistent_cache_device_types=CPU"
    os.environ["TF_XLA_FLAGS"] = f"{flags} {ours}".strip()
    atexit.register(leave)


def keep() -> None:
    """Moves what this process has compiled into the store, where others find it."""
    if _process_folder is None:
        return
    store = _process_folder.parent
    known = {path.stem for path in store.glob("*.pb.*")}
    for path in _process_folder.glob("*.pb"):
        if path.name not in known:
            with suppress(OSError):
                os.link(path, store / f"{path.name}.{_digest(path)}")
    total = 0
    with suppress(OSError):
        for path in sorted(store.glob("*.pb.*"), key=lambda path: path.stat().st_mtime, reverse=True):
            total += path.stat().st_size
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)


def leave() -> None:
    """Keeps what was compiled and removes this process's folder: at exit, or before an exit that skips Python's own."""
    global _process_folder
    keep()
    if _process_folder is not None:
        shutil.rmtree(_process_folder, ignore_errors=True)
        _process_folder = None


@contextmanager
def compiling(first: bool = True) -> Iterator[None]:
    """Around first calls, which compile a program or load it, and run it; around another one (`first` false) nothing.

    Not to be held around a whole loop: it holds back what goes to stderr, progress bars too.

    Keeps XLA's noise off stderr and what it compiled in the store, and gives what the compiler has freed back to the
    system while the program begins to fill its own memory: at full width 0.7 GB, which the C library would hold.
    """
    if not first:
        yield
        return
    # Here and not in `enable`: a command that compiles nothing need not read the store.
    if _process_folder is not None:
        _fill(_process_folder.parent, _process_folder)
    ended = threading.Event()
    trimming = threading.Thread(target=_trim_until, args=(ended,), daemon=True)
    trimming.start()
    try:
        with stderr.without(_NOISE):
            yield
    finally:
        ended.set()
        trimming.join()
    keep()


def _trim_until(ended: threading.Event) -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    while trim and not ended.wait(0.5):
        trim(0)


def _fill(store: Path, folder: Path) -> None:
    for path in store.glob("*.pb.*"):
        if (folder / path.stem).exists():
            continue
        with suppress(OSError):  # another process has removed it
            if _digest(path) != path.suffix.removeprefix("."):
                path.unlink()
                continue
            os.link(path, folder / path.stem)
            os.utime(path)  # what is used last is kept longest


def _remove_abandoned(store: Path) -> None:
    for path in store.glob("process-*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _host() -> str:
    """A digest of what the machine code depends on: TensorFlow, the processor and its cores, XLA's flags."""
    features = platform.processor()
    with suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        features += found[0] if found else ""
    parts = (
        importlib.metadata.version("tensorflow"),
        platform.machine(),
        features,
        str(os.cpu_count() if not hasattr(os, "sched_getaffinity") else len(os.sched_getaffinity(0))),
        os.environ.get("XLA_FLAGS", ""),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlproject" / "xla"


def filled_up(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows with the first one again up to `size` of them: XLA compiles for each size of batch."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


class Batches:
    """Calls of compiled functions on any number of rows, in batches of one size: XLA compiles for each size."""

    def __init__(self) -> None:
        self._compiled: set[tuple[Callable[..., Any], int]] = set()

    def __call__(
        self, function: Callable[..., Any], size: int, *arrays: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """What a function says of all rows of arrays, one or more tensors, as an array for each of them.

        Args:
            function: takes as many arrays, each of `size` rows; its first call here with this size compiles it.
            size: rows of a batch; the last one is filled up.
            arrays: of one number of rows, at least one.
        """
        found = []
        for first in range(0, len(arrays[0]), size):
            batch = [array[first : first + size] for array in arrays]
            with compiling((function, size) not in self._compiled):
                self._compiled.add((function, size))
                answer = function(*(filled_up(array, size) for array in batch))
            parts = answer if isinstance(answer, tuple) else (answer,)
            found.append([part.numpy()[: len(batch[0])] for part in parts])
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))
