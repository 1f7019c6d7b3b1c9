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
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlproject import stderr

FOLDER_VARIABLE = "MLPROJECT_COMPILATION_CACHE"
MAX_BYTES = 2 * 1000**3
_STALE_SECONDS = 7 * 24 * 3600  # of folders that a killed process left

# What XLA says when it loads a program: it takes two of its own tuning flags for features of the processor, and reads
# each entry as text first.
_NOISE = re.compile(
    rb"E0000 .*cpu_aot_loader.*prefer-no-(scatter|gather) is not|E0000 .*text_format.*XlaSerializedCacheEntry"
)

_process_folder: Path | None = None


def enable() -> None:
    """Lets this process use the store; before TensorFlow compiles anything, at best before it is imported.

    The store is the folder that MLPROJECT_COMPILATION_CACHE names (`off` for none), or one below the user's cache
    folder. Where it cannot be written, everything is compiled anew.
    """
    global _process_folder
    chosen = os.environ.get(FOLDER_VARIABLE) or _user_cache() / "mlproject" / "xla"
    if chosen == "off" or _process_folder is not None:
        return
    store = Path(chosen).absolute() / _host()
    try:
        store.mkdir(parents=True, exist_ok=True)
        _remove_stale(store)
        _process_folder = Path(tempfile.mkdtemp(prefix="process-", dir=store))
        _fill(store, _process_folder)
    except OSError:
        return
    flags = (
        f"--tf_xla_persistent_cache_directory={_process_folder} --tf_xla_persistent_cache_device_types=CPU"
    )
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {flags}".strip()
    atexit.register(_leave)


def keep() -> None:
    """Moves what this process has compiled into the store, where others find it."""
    if _process_folder is None:
        return
    store = _process_folder.parent
    known = {path.stem for path in store.glob("*.pb.*")}
    with suppress(OSError):
        for path in _process_folder.glob("*.pb"):
            if path.name not in known:
                os.link(path, store / f"{path.name}.{_digest(path)}")
        entries = sorted(store.glob("*.pb.*"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in entries:
            total += path.stat().st_size
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)


@contextmanager
def compiling() -> Iterator[None]:
    """Around first calls, which compile a program or load it, and run it.

    Keeps XLA's noise off stderr and what it compiled in the store, and gives what the compiler has freed back to the
    system while the program begins to fill its own memory: at full width 0.7 GB, which the C library would hold.
    """
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
        if _digest(path) == path.suffix.removeprefix("."):
            os.link(path, folder / path.stem)
            os.utime(path)  # what is used last is kept longest
        else:
            path.unlink(missing_ok=True)


def _remove_stale(store: Path) -> None:
    for path in store.glob("process-*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _leave() -> None:
    keep()
    if _process_folder is not None:
        shutil.rmtree(_process_folder, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _host() -> str:
    """A digest of what the machine code depends on: TensorFlow, the processor's features, XLA's flags."""
    features = platform.processor()
    with suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        features += found[0] if found else ""
    parts = (
        importlib.metadata.version("tensorflow"),
        platform.machine(),
        features,
        os.environ.get("XLA_FLAGS", ""),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
