"""Tables of massively parallel reporter assays: short sequences, and the activity of each in one or more cell types.

A table has a header line and columns separated by tabs, commas or semicolons. Activities are in one column, with the
cell type in another where there are several; or in a column for each cell type; or in a column for each replicate.
Sequences are in the table, or in a FASTA file under the label of the row.
"""

import csv
import hashlib
import io
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from enformer_core import dna
from enformer_core.dna import PADDING
from mlproject.data.constructs import check_letters, measurement
from mlproject.data.files import read_lines, read_text
from mlproject.data.genome import name_some
from mlproject.data.mpra_replicates import merge
from mlproject.errors import InputError
from mlproject.options import nearest

DEFAULT_CELL_TYPE = "mpra"

_NOT_MEASURED = {"", "na", "nan", "n/a", "#n/a", "null", "none"}
_INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
_LOOKS_LIKE_DNA = re.compile("[ACGTNacgtn]{12,}")
_PLACE = re.compile(
    r"(?<![A-Za-z0-9])(chr[A-Za-z0-9]+?(?:_[A-Za-z0-9]+?(?:_(?:random|alt|fix))?)??)[-:_][0-9,]+[-_][0-9,]+"
)
_SEPARATORS = re.compile(r"([-_. ])")


@dataclass(frozen=True)
class MpraColumns:
    """What the columns of a table are called. `label` and `cell_type` may be absent where they have these names."""

    sequence: str = "sequence"
    activity: tuple[str, ...] = ("activity",)
    """One, or one for each cell type. Not read where there are `replicates`."""
    replicates: tuple[str, ...] = ()
    """A column for each replicate: their mean is the activity."""
    spread: tuple[str, ...] = ()
    """One for each of `activity`, in its units: the standard deviation over replicates if `replicate_count` is given,
    and the standard error of the activity if not."""
    replicate_count: tuple[str, ...] = ()
    """One for each of `activity`, or one for all of them."""
    cell_type: str = "cell_type"
    label: str = "label"
    """The name of a row, and of its sequence in the FASTA file; `name` is tried too."""
    chromosome: str = ""


@dataclass(frozen=True, eq=False)
class MpraTable:
    """n sequences, each once, and m measurements, one for a sequence and cell type.

    A measurement's `replicates` are NaN where their number is not known; `spread`, where it is known, is then the
    standard error.
    """

    names: tuple[str, ...]  # [n], of the row where the sequence is first
    sequences: tuple[str, ...]  # [n], upper case, A C G T N
    chromosomes: tuple[str, ...]  # [n], "" where it is not known
    cell_types: tuple[str, ...]  # in alphabetical order
    sequence: np.ndarray  # [m] int64, ascending: which of the sequences
    cell: np.ndarray  # [m] int64: which of the cell types
    activity: np.ndarray  # [m] float64
    spread: np.ndarray  # [m] float64: standard deviation over replicates, NaN where it is not known
    replicates: np.ndarray  # [m] float64
    notes: tuple[str, ...] = field(default=())
    """What a reader of the table should know, a line each."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all but the notes, in hexadecimal."""
        found = hashlib.sha256()
        for words in (self.names, self.sequences, self.chromosomes, self.cell_types):
            found.update("\n".join([str(len(words)), *words, ""]).encode())
        for values in (self.sequence, self.cell, self.activity, self.spread, self.replicates):
            found.update(np.where(np.isnan(values), np.nan, values).tobytes())  # NaN has many bit patterns
        return found.hexdigest()


def codes(sequences: Sequence[str], length: int) -> np.ndarray:
    """Sequences as `[n, length]` uint8: A 0, C 1, G 2, T 3, N 4, and 6 behind the end.

    Raises:
      InputError: one is longer.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    if len(lengths) and lengths.max() > length:
        raise InputError(f"a sequence is {lengths.max()} bp long, expected at most {length}.")
    found = dna.codes("".join(sequence.ljust(length) for sequence in sequences)).reshape(-1, length)
    found[np.arange(length) >= lengths[:, np.newaxis]] = PADDING
    return found


# --- reading ------------------------------------------------------------------------------------------------------


def read_mpra(
    path: str | os.PathLike,
    columns: MpraColumns | None = None,
    *,
    fasta: str | os.PathLike | None = None,
    cell_type: str = "",
    max_length: int,
) -> MpraTable:
    """The sequences and measurements of a table, plain or gzip, in file order.

    Empty activities and NA, NaN and the like are not measured: they are left out, and sequences without a measurement
    with them. Where a sequence is measured more than once in one cell type, that becomes one measurement
    (`mpra_replicates.merge` says how, and when such measurements contradict one another).

    Args:
      path: the table.
      columns: what its columns are called.
      fasta: where the sequences are, under the labels of the table; otherwise in the table.
      cell_type: of all measurements, where neither a column says it nor there are several columns of activity, beside
        which it is refused.
      max_length: in bp.

    Raises:
      InputError: a file or a column is absent, or a row is wrong; names the line and the field.
    """
    columns = columns or MpraColumns()
    header, rows = _table(path)
    layout = _layout(path, header, columns, fasta is not None)
    if cell_type and (layout.cell_type is not None or any(layout.cell_names)):
        where = "a column of activity for each cell type" if any(layout.cell_names) else "a column for it"
        raise InputError(
            f"--mpra_cell_type_name: found {cell_type!r}, and mpra {path} has {where}; leave it out."
        )
    library = {} if fasta is None else _read_fasta(fasta)
    names: list[str] = []
    chromosomes: list[str] = []
    numbers: dict[str, int] = {}  # of each sequence
    cells: dict[str, int] = {}
    found: list[tuple[int, int, float, float, float]] = []
    labels: set[str] = set()
    absent: list[str] = []
    longer: list[tuple[int, str]] = []  # length, and where
    not_measured = 0
    for line, words in rows:
        where = f"mpra {path}, line {line}"
        measured = list(_measurements(words, layout, where))
        not_measured += layout.cells - len(measured)
        if not measured:
            continue
        label = words[layout.label] if layout.label is not None else f"line_{line}"
        if fasta is None:
            sequence, source = words[layout.sequence].upper(), where
        elif label in library:
            sequence, source = library[label], f"fasta {fasta}, record {label}"
            labels.add(label)
        else:
            absent.append(label)
            continue
        number = numbers.setdefault(sequence, len(numbers))
        if number == len(names):
            check_letters(sequence, source)
            if len(sequence) > max_length:
                longer.append((len(sequence), source))
            names.append(label)
            chromosomes.append("")
        chromosomes[number] = chromosomes[number] or _chromosome(words, layout, label)
        for cell, activity, spread, replicates in measured:
            cell = cell or _cell_type(words, layout, cell_type, where)
            found.append((number, cells.setdefault(cell, len(cells)), activity, spread, replicates))
    if absent:
        raise InputError(
            f"fasta {fasta}: has no sequence for {len(set(absent)):,} measured labels of mpra {path}, such as "
            f"{name_some(dict.fromkeys(absent), 3)}; it has {name_some(library, 3)}."
        )
    if longer:
        longest = max(length for length, _ in longer)
        raise InputError(
            f"{longer[0][1]}: sequence is {longer[0][0]} bp long, expected at most {max_length}; {len(longer):,} of "
            f"{len(names):,} sequences are longer: set --mpra_len to {longest}, the longest."
        )
    if not found:
        raise InputError(
            f"mpra {path}: no activity is measured ({not_measured:,} cells of {', '.join(layout.measured)} are empty "
            "or NA); expected numbers."
        )
    notes = list(layout.notes)
    if not_measured:
        notes.append(
            f"{not_measured:,} of {not_measured + len(found):,} activities are empty or NA: left out"
        )
    if len(library) > len(labels):
        notes.append(f"{len(library) - len(labels):,} of {len(library):,} FASTA records have no activity")
    cell_types = tuple(sorted(cells))
    rank = np.array([cell_types.index(cell) for cell in cells])
    sequence_of, cell_of, *values = map(np.array, zip(*found, strict=True))
    merged, repeats = merge(sequence_of, rank[cell_of], *values)
    if repeats.rows:
        notes.append(
            f"{repeats.groups:,} of {len(merged.activity):,} activities are measured more than once and averaged, "
            f"{repeats.contradicted:,} of them contradict themselves by more than chance"
        )
    return MpraTable(
        tuple(names), tuple(numbers), tuple(chromosomes), cell_types, *merged, notes=tuple(notes)
    )


def _table(path: str | os.PathLike) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and the rows that are not blank with the number of their line; words without blanks around them."""
    text = read_text(path, "mpra")
    first = next((line for line in text.split("\n") if line.strip()), "")
    separator = "\t" if "\t" in first else max(",;", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for words in reader:
                words = [word.strip() for word in words]
                if any(words):
                    yield reader.line_num, words
        except csv.Error as error:
            raise InputError(
                f"mpra {path}, line {reader.line_num}: is not a row of a table ({error}); expected fields that end "
                "with a quote where they begin with one."
            ) from None

    def checked(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        for line, words in rows:
            if len(words) != len(header):
                raise InputError(
                    f"mpra {path}, line {line}: has {len(words)} columns, the header has {len(header)}."
                )
            yield line, words

    every = rows()
    _, header = next(every, (0, []))
    second = next(every, None)
    if second is None:
        raise InputError(f"mpra {path}: has no rows; expected a header line and one line per row.")
    return header, checked(itertools.chain([second], every))


def _read_fasta(path: str | os.PathLike) -> dict[str, str]:
    """Sequences in upper case by the first word of their header."""
    pieces: dict[str, list[str]] = {}
    for line, text in read_lines(path, "fasta"):
        where = f"fasta {path}, line {line}"
        text = text.strip()
        if text.startswith(">"):
            name = next(iter(text[1:].split()), "")
            if not name:
                raise InputError(f"{where}: a record without a name; expected >NAME.")
            if name in pieces:
                raise InputError(f"{where}: record {name!r} is there twice; remove one of them.")
            own = pieces[name] = []
        elif pieces:
            own.append(text.upper())
        else:
            raise InputError(f"{where}: found {text[:20]!r}, expected a line that starts with '>'.")
    if not pieces:
        raise InputError(f"fasta {path}: is empty; expected lines that start with '>', and sequences.")
    return {name: "".join(own) for name, own in pieces.items()}


# --- columns ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where columns are, None for those that are not there."""

    sequence: int
    label: int | None
    cell_type: int | None
    chromosome: int | None
    replicates: tuple[int, ...]
    activity: tuple[int, ...]
    spread: tuple[int | None, ...]  # of each of `activity`
    count: tuple[int | None, ...]
    cell_names: tuple[str, ...]  # of each of `activity`; "" where each row has its own
    measured: tuple[str, ...]  # names of the columns of values
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """How many activities a row has."""
        return 1 if self.replicates else len(self.activity)


def _layout(path: str | os.PathLike, header: list[str], columns: MpraColumns, joined: bool) -> _Layout:
    measured = columns.replicates or columns.activity
    several = not columns.replicates and len(columns.activity) > 1
    counts = columns.replicate_count * (len(columns.activity) if len(columns.replicate_count) == 1 else 1)
    for name, given in (("spread", columns.spread), ("replicate_count", counts)):
        if given and columns.replicates:
            raise InputError(f"mpra {path}: {name} is given with replicates, which say it; leave it out.")
        if given and len(given) != len(columns.activity):
            raise InputError(
                f"mpra {path}: found {len(given)} columns of {name} for {len(columns.activity)} of activity; "
                "expected one for each, in the same order."
            )
    if counts and not columns.spread:
        raise InputError(f"mpra {path}: replicate_count is given without spread; give both, or leave it out.")
    if not measured:
        raise InputError(f"mpra {path}: no column of activity is named; expected one or more.")
    twice = [name for name in measured if measured.count(name) > 1]
    if twice:
        raise InputError(f"mpra {path}: column {twice[0]!r} is asked for twice; name it once.")

    def place(name: str, what: str) -> int:
        if header.count(name) == 1:
            return header.index(name)
        if name in header:
            raise InputError(f"mpra {path}: the header names column {name!r} twice; remove one of them.")
        if any(_LOOKS_LIKE_DNA.fullmatch(word) for word in header):
            hint = "; the first line looks like a row, expected a header line"
        else:
            hint = nearest(name, header)
            if what == "sequence" and not hint:
                hint = "; name the one with the sequences, or a FASTA file that has them"
            if what == "activity" and not hint:
                hint = (
                    "; name the one with the activity, or several, one for each cell type (--mpra_activity)"
                )
        raise InputError(
            f"mpra {path}: has no column {name!r} ({what}); it has {name_some(header, 12)}{hint}"
        )

    def optional(name: str, what: str, default: str) -> int | None:
        return place(name, what) if name and (name in header or name != default) else None

    label = columns.label
    if label == MpraColumns.label and label not in header and "name" in header:
        label = "name"
    cell_type = optional(columns.cell_type, "cell_type", MpraColumns.cell_type)
    notes = []
    if several and cell_type is not None:
        notes.append(f"column {columns.cell_type!r} is not read: each column of activity is a cell type")
    return _Layout(
        sequence=-1 if joined else place(columns.sequence, "sequence"),
        label=place(label, "label") if joined else optional(label, "label", MpraColumns.label),
        cell_type=cell_type,
        chromosome=optional(columns.chromosome, "chromosome", ""),
        replicates=tuple(place(name, "replicates") for name in columns.replicates),
        activity=() if columns.replicates else tuple(place(name, "activity") for name in columns.activity),
        spread=tuple(place(name, "spread") for name in columns.spread) or (None,) * len(columns.activity),
        count=tuple(place(name, "replicate_count") for name in counts) or (None,) * len(columns.activity),
        cell_names=_cell_names(columns.activity) if several else ("",),
        measured=tuple(measured),
        notes=tuple(notes),
    )


def _cell_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The names of columns without the words that all begin or end with: of a_K562_log2, a_HepG2_log2 K562, HepG2."""
    words = [_SEPARATORS.split(name) for name in columns]
    for end in (slice(None, 2), slice(-2, None)):  # a word and the separator beside it
        while all(len(own) > 2 for own in words) and len({tuple(own[end]) for own in words}) == 1:
            for own in words:
                del own[end]
    return tuple("".join(own) for own in words)


# --- rows ---------------------------------------------------------------------------------------------------------


def _measurements(words: list[str], layout: _Layout, where: str) -> Iterator[tuple[str, float, float, float]]:
    """Cell type ("" for that of the row), activity, spread and replicates of what is measured in a row."""
    if layout.replicates:
        values = [
            _value(words[place], where, name)
            for place, name in zip(layout.replicates, layout.measured, strict=True)
        ]
        values = [value for value in values if not math.isnan(value)]
        if values:
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            yield "", math.fsum(values) / len(values), spread, len(values)
        return
    for number, place in enumerate(layout.activity):
        name = layout.measured[number]
        activity = _value(words[place], where, name)
        if math.isnan(activity):
            continue
        spread, count = (
            math.nan if column is None else _value(words[column], where, f"{what} of {name}")
            for column, what in ((layout.spread[number], "spread"), (layout.count[number], "replicate_count"))
        )
        if spread < 0:
            raise InputError(f"{where}: spread of {name} is {spread:g}, expected 0 or more.")
        if count < 1:
            raise InputError(f"{where}: replicate_count of {name} is {count:g}, expected 1 or more.")
        yield layout.cell_names[number], activity, spread, count


def _value(word: str, where: str, name: str) -> float:
    """The number that a word is, NaN for one that says that there is none."""
    if word.lower() in _NOT_MEASURED:
        return math.nan
    if _INFINITE.fullmatch(word):
        raise InputError(
            f"{where}: {name} is {word!r}, expected a finite number, or an empty cell for what was not measured."
        )
    return measurement(word, where, name)


def _cell_type(words: list[str], layout: _Layout, given: str, where: str) -> str:
    if layout.cell_type is None:
        return given or DEFAULT_CELL_TYPE
    if not words[layout.cell_type]:
        raise InputError(f"{where}: cell_type is empty.")
    return words[layout.cell_type]


def _chromosome(words: list[str], layout: _Layout, label: str) -> str:
    """From its column, or a label such as chr8-100-200_WT, chr8:100-200 or chr8_100_200."""
    if layout.chromosome is not None:
        return words[layout.chromosome]
    place = _PLACE.search(label)
    return place[1] if place else ""


def log2_activity(table: MpraTable, added: float) -> MpraTable:
    """The table with log2(activity + added) for each activity; spreads follow by the delta method.

    Raises:
      InputError: activity + added is not above 0 for some; says how many and the lowest.
    """
    total = table.activity + added
    if (low := int((total <= 0).sum())) > 0:
        raise InputError(
            f"--mpra_log2 {added:g}: {low} of {len(total)} activities are {0 - added:g} or less (the lowest is "
            f"{table.activity.min():g}), and have no logarithm; add more, or leave it out."
        )
    return replace(table, activity=np.log2(total), spread=table.spread / (total * math.log(2)))
