"""Files as users and machines leave them: unreadable, half-written, in other encodings; and writing them whole."""

import contextlib
import fcntl
import glob
import gzip
import math
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
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
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; others who ask wait. Nothing is left behind, even after a kill."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path | None]:
    """A hidden folder that is flushed and takes the name `final` when the block ends well; or else is removed.

    Several processes may ask at once: one makes it, and the others then get None, as where `final` is there
    already. What a killed process has left for the same name is removed.
    """
    created = not final.parent.exists()
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(final.parent):
            if final.exists():
                yield None
                return
            for leftover in final.parent.glob(f".{glob.escape(final.name)}.partial-*"):
                shutil.rmtree(leftover)
            partial = final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")
            try:
                partial.mkdir()
                yield partial
                for path in [*partial.rglob("*"), partial]:
                    sync(path)
                os.replace(partial, final)
                sync(final.parent)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    finally:
        if created and not any(final.parent.iterdir()):
            final.parent.rmdir()
