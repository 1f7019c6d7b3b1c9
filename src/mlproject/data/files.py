"""Files as users and machines leave them: unreadable, half-written, in other encodings; and writing them whole."""

import contextlib
import errno
import fcntl
import gzip
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlproject.errors import InputError

DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # what fits an int64, in ASCII
_NUMBER = re.compile(r"[-+.0-9eE]{1,40}")  # what float() reads, without its words and underscores


@contextlib.contextmanager
def explained(doing: str, kinds: tuple[type[Exception], ...] = (OSError, *DAMAGED_GZIP)) -> Iterator[None]:
    """Turn an error of the machine or of decompression into an `InputError`: "DOING (why).".

    Args:
      doing: what failed, such as "bed r.bed: cannot be read".
      kinds: the errors that mean this.
    """
    try:
        yield
    except kinds as error:
        cause = error
        if isinstance(error, OSError) and not error.strerror and isinstance(error.__context__, OSError):
            cause = error.__context__  # pyfaidx hides it behind one of its own
        why = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:200]
        where = getattr(cause, "filename", None)
        if where and str(where) not in doing:
            why = f"{where}: {why}"
        raise InputError(f"{doing} ({why}).") from None


def read_text(path: str | os.PathLike, kind: str) -> str:
    """The text of a UTF-8 file, plain or gzip, without its byte order mark and with `\\n` for CRLF.

    Args:
      path: the file.
      kind: what to call it in a message, such as "bed".

    Raises:
      InputError: it is absent, unreadable, damaged or not UTF-8; names it.
    """
    with explained(f"{kind} {path}: cannot be read"):
        raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        with explained(f"{kind} {path}: is gzip and cannot be decompressed"):
            raw = gzip.decompress(raw)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{kind} {path}: is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); "
            "save it as UTF-8."
        ) from None


def read_lines(path: str | os.PathLike, kind: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number in the file, from 1.

    Only a line feed ends a line: the other separators that `str.splitlines` knows may be in a description.

    Raises:
      InputError: as `read_text`.
    """
    lines = enumerate(read_text(path, kind).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]


def read_rows(path: str | os.PathLike, kind: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with a header line, as words by column; each with the number of its line.

    Columns are separated by tabs; blanks around a word are not part of it. Columns without a name are left out.

    Args:
      path: the table.
      kind: what to call it in a message, such as "table".
      columns: those that it must have; it may have others.

    Raises:
      InputError: as `read_text`, or it has no rows, lacks a column, or a row has another number of columns.
    """
    (_, header), *rows = read_lines(path, kind) or [(0, "")]
    if not rows:
        raise InputError(f"{kind} {path}: has no rows; expected a header line and one line per row.")
    names = [name.strip() for name in header.split("\t")]
    for separator, name in ((",", "commas"), (";", "semicolons")):
        if len(names) == 1 and separator in header:
            raise InputError(
                f"{kind} {path}: columns are separated by {name}; save it with tabs between them."
            )
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"{kind} {path}: has no column {missing[0]!r}; it has {', '.join(names)} (separated by tabs)."
        )
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{kind} {path}: the header names column {twice[0]!r} twice; remove one of them.")
    found = []
    for line, row in rows:
        words = [word.strip() for word in row.split("\t")]
        if len(words) != len(names):
            raise InputError(
                f"{kind} {path}, line {line}: has {len(words)} columns, the header has {len(names)}."
            )
        found.append((line, {name: word for name, word in zip(names, words, strict=True) if name}))
    return found


def whole_number(word: str, where: str, name: str) -> int:
    """The number that `word` is.

    Raises:
      InputError: it is none, or has more than 18 digits.
    """
    if not _WHOLE_NUMBER.fullmatch(word.strip()):
        more = "" if len(word) <= 40 else f"... ({len(word)} characters)"
        raise InputError(f"{where}: {name} is {word.strip()[:40]!r}{more}, expected a whole number.")
    return int(word)


def number(word: str, where: str, name: str) -> float:
    """The finite number that `word` is.

    Raises:
      InputError: it is none, or not finite.
    """
    with contextlib.suppress(ValueError):
        if _NUMBER.fullmatch(word.strip()) and math.isfinite(value := float(word)):
            return value
    raise InputError(f"{where}: {name} is {word.strip()[:40]!r}, expected a number.")


def identity(path: str | os.PathLike | None) -> list | None:
    """What a file is known by without reading it: its name, size and time of change; None for none."""
    if path is None:
        return None
    state = os.stat(path)
    return [Path(path).name, state.st_size, state.st_mtime_ns]


def write_whole(path: Path, text: str) -> None:
    """Write the file under another name beside it and rename it; its folder is made where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold `folder`, open, for this process; others who ask wait. Nothing is left behind, even after a kill."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path | None]:
    """A hidden folder that is flushed and takes the name `final` when the block ends well; or else is removed.

    Several processes may ask for the same name at once: one makes it while the others wait, which then get None, as
    where `final` is there already. Other names beside it are free. What a killed process has left is removed.
    """
    if final.exists():
        yield None
        return
    missing = [parent for parent in final.parents if not parent.exists()]
    partial = _hidden(final)
    try:
        with _held(partial):
            if made := not final.exists():
                with _removed_on_failure(partial):
                    for leftover in partial.iterdir():
                        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                    yield partial
                    for path in [*partial.rglob("*"), partial]:
                        sync(path)
                    os.replace(partial, final)
                    sync(final.parent)
            else:
                shutil.rmtree(partial)
        if not made:
            yield None
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _hidden(final: Path) -> Path:
    """What a folder is called until it is whole."""
    return final.with_name(f".{final.name}.partial-new")


_MOST_TRIES = 100  # there are file systems on which an open folder never is the one of its name


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make `folder` where it is not there, and hold it; who asks for the same name waits."""
    with contextlib.ExitStack() as stack:
        for _ in range(_MOST_TRIES):
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # who held it has renamed or removed it
                handle = stack.enter_context(locked(folder))
                if os.path.samestat(os.fstat(handle), folder.stat()):
                    break
        yield


# --- before it is written -----------------------------------------------------------------------------------------


def check_new(path: Path) -> None:
    """Refuse a folder that `new_folder` could not make, or a file like it, and make nothing.

    Raises:
      OSError: a name is too long, a parent is no folder, or nothing may be written there.
    """
    there = _nearest_there(path.parent)
    for part in Path(os.path.abspath(path)).relative_to(there).parts:
        try:
            os.lstat(_hidden(there / part))
        except FileNotFoundError:
            pass
        except OSError as error:  # without the name, which is the hidden one
            raise OSError(error.errno, error.strerror) from None
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def check_room(needs: Iterable[tuple[str, Path, int]], advice: str) -> None:
    """Refuse what a disk has no room for.

    Args:
      needs: what a folder is called, the folder, which need not be there yet, and the bytes that it is to hold. Those
        on one disk share its room.
      advice: what to do.

    Raises:
      InputError: names the folders, and what is needed and free.
    """
    disks: dict[int, list[tuple[str, Path, int]]] = {}
    for name, folder, size in needs:
        there = _nearest_there(folder)
        disks.setdefault(os.stat(there).st_dev, []).append((f"{name} {folder}", there, size))
    for parts in disks.values():
        names, places, sizes = zip(*parts, strict=True)
        free = disk_free(places[0])
        if sum(sizes) > free:
            raise InputError(
                f"{', '.join(names)}: {size_text(sum(sizes))} needed there, {size_text(free)} free; {advice}"
            )


def disk_free(folder: Path) -> float:
    """Bytes that may still be written to the disk of a folder; there are disks that do not say, and have no end."""
    total, _, free = shutil.disk_usage(folder)
    return free if total else math.inf


def size_text(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _nearest_there(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    whole = Path(os.path.abspath(path))
    return next(parent for parent in (whole, *whole.parents) if os.path.exists(parent))
