"""Files as users and machines leave them: unreadable, half-written, in other encodings; and writing them whole."""

import contextlib
import fcntl
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from mlproject.errors import InputError

DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # what fits an int64, in ASCII


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


def whole_number(word: str, where: str, name: str) -> int:
    """The number that `word` is.

    Raises:
      InputError: it is none, or has more than 18 digits.
    """
    if not _WHOLE_NUMBER.fullmatch(word.strip()):
        more = "" if len(word) <= 40 else f"... ({len(word)} characters)"
        raise InputError(f"{where}: {name} is {word.strip()[:40]!r}{more}, expected a whole number.")
    return int(word)


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
