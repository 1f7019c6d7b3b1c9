"""Constructs: a sequence with a payload in it, and the activity measured for it; and where windows lie on one.

`constructs.tsv` has a row per construct, separated by tabs, in the order of `COLUMNS`. `annotation` names the sites
as `name:start-end;name:start-end`, 0-based and half-open on the sequence. What is in one cluster is in one fold.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlproject.data.files import number, read_rows, whole_number
from mlproject.errors import InputError

FILE = "constructs.tsv"
COLUMNS = ("index", "name", "group", "fold", "activity", "annotation", "sequence", "cluster")
_FILLED = ("name", "group", "fold", "cluster")
_LARGEST = float(np.finfo(np.float32).max)
_OTHER_LETTER = re.compile("[^ACGTN]")
_FOLD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")  # it becomes part of the name of a folder
_SITE = re.compile(r"(.+):([0-9]{1,18})-([0-9]{1,18})")


class Site(NamedTuple):
    """A named stretch of a construct: `start` is 0-based and inside, `end` is outside."""

    name: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.name}:{self.start}-{self.end}"


class Construct(NamedTuple):
    """A sequence whose activity was measured: letters A, C, G, T and N, upper case."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    name: str
    group: str
    cluster: str  # what the folds keep together
    fold: str
    activity: float
    sites: tuple[Site, ...]
    sequence: str


def read_constructs(path: str | os.PathLike) -> list[Construct]:
    """The constructs of a table, in file order, all of one length.

    Lower case is accepted and upper-cased. Without a column `cluster` a group is a cluster, but may be in many folds.

    Args:
      path: the folder that `build_constructs` made, or a table like the one in it.

    Raises:
      InputError: the table is absent or wrong; names the line and the field.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    constructs: list[Construct] = []
    lines_of: dict[tuple[str, int | str], int] = {}  # where an index or a name was first
    folds: dict[str, tuple[int, str]] = {}  # where a cluster was first, and its fold there
    for line, words in read_rows(path, "constructs", COLUMNS[:-1]):
        where = f"constructs {path}, line {line}"
        construct = _construct(words, where)
        for field in ("index", "name"):
            value = getattr(construct, field)
            first = lines_of.setdefault((field, value), line)
            if first != line:
                raise InputError(f"{where}: {field} {value!r} is that of line {first} too; expected its own.")
        first, fold = folds.setdefault(construct.cluster, (line, construct.fold))
        if "cluster" in words and fold != construct.fold:
            raise InputError(
                f"{where}: cluster {construct.cluster!r} is in fold {construct.fold}, on line {first} it is in fold "
                f"{fold}; expected a cluster in one fold, or related constructs are trained on and held out."
            )
        length = len(constructs[0].sequence) if constructs else len(construct.sequence)
        if len(construct.sequence) != length:
            raise InputError(
                f"{where}: sequence is {len(construct.sequence)} bp, that of the first construct {length}; "
                "expected one length."
            )
        constructs.append(construct)
    return constructs


def _construct(fields: dict[str, str], where: str) -> Construct:
    fields = {"cluster": fields["group"]} | fields
    for field in _FILLED:
        if not fields[field]:
            raise InputError(f"{where}: {field} is empty.")
    if not _FOLD.fullmatch(fields["fold"]):
        raise InputError(
            f"{where}: fold is {fields['fold'][:80]!r}, expected up to 64 letters, digits, '_', '-' and '.', "
            "and no '.' at the start."
        )
    sequence = fields["sequence"].upper()
    check_letters(sequence, where)
    return Construct(
        index=whole_number(fields["index"], where, "index"),
        name=fields["name"],
        group=fields["group"],
        cluster=fields["cluster"],
        fold=fields["fold"],
        activity=measurement(fields["activity"], where, "activity"),
        sites=_sites(fields["annotation"], len(sequence), where),
        sequence=sequence,
    )


def check_letters(sequence: str, where: str) -> None:
    """Refuses an empty sequence, and one with other letters than A, C, G, T and N, upper case.

    Raises:
      InputError: names the letter and its position.
    """
    if not sequence:
        raise InputError(f"{where}: sequence is empty.")
    other = _OTHER_LETTER.search(sequence)
    if other:
        raise InputError(
            f"{where}: sequence has {other[0]!r} at position {other.start()} (0-based), expected A, C, G, T or N."
        )


def measurement(word: str, where: str, name: str) -> float:
    """The number that `word` is, which float32 can hold.

    Raises:
      InputError: it is none, not finite, or too large for float32, in which models compute.
    """
    value = number(word, where, name)
    if abs(value) > _LARGEST:
        raise InputError(
            f"{where}: {name} is {word.strip()[:40]}, expected at most {_LARGEST:.3g} (float32)."
        )
    return value


def _sites(annotation: str, length: int, where: str) -> tuple[Site, ...]:
    sites = []
    for word in filter(None, annotation.split(";")):
        match = _SITE.fullmatch(word)
        if not match:
            raise InputError(f"{where}: annotation has {word[:40]!r}, expected name:start-end.")
        site = Site(match[1], int(match[2]), int(match[3]))
        if not site.start < site.end <= length:
            raise InputError(
                f"{where}: annotation {site} is not a stretch of the sequence, which is {length} bp long."
            )
        sites.append(site)
    return tuple(sites)


def as_table(constructs: Sequence[Construct]) -> str:
    """The text of a table that `read_constructs` reads back."""
    rows = ["\t".join(COLUMNS)]
    for construct in constructs:
        words = construct._asdict() | {
            "activity": repr(construct.activity),
            "annotation": ";".join(map(str, construct.sites)),
        }
        rows.append("\t".join(str(words[name]) for name in COLUMNS))
    return "\n".join(rows) + "\n"


def sample_offsets(
    length: int, window: int, *, samples: float, stride: int, seed: int, name: str
) -> np.ndarray:
    """Where windows start on a construct, each place once: `[n]` int64, ascending.

    A pure function of its arguments; different names give different places.

    Args:
      length: of the construct, in bp.
      window: in bp.
      samples: how many of the places 0, `stride`, 2 `stride`, ... to draw, at most all; below 1 the share of them,
        at least one.
      stride: distance between places in bp.
      seed: of the draw.
      name: of the construct.

    Raises:
      InputError: no window fits, or `samples` or `stride` is none, or the stride is longer than the construct.
    """
    if stride < 1:
        raise InputError(f"stride is {stride}, expected 1 or more.")
    if stride > max(length, 1):
        raise InputError(f"stride is {stride}, expected at most {length}, the bp of construct {name}.")
    if not samples > 0 or (samples >= 1 and samples % 1):
        raise InputError(f"samples is {samples:g}, expected a whole number, or a share between 0 and 1.")
    if not 1 <= window <= length:
        raise InputError(
            f"construct {name}: a window of {window} bp does not fit on its {length} bp; "
            "expected a shorter window, or constructs built with a greater length."
        )
    places = (length - window) // stride + 1
    count = min(places, int(samples)) if samples >= 1 else max(1, round(samples * places))
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    drawn = np.random.default_rng(int.from_bytes(key, "big")).choice(places, count, replace=False)
    return np.sort(drawn).astype(np.int64) * stride
