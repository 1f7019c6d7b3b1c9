"""The model that people are served: a table with letters in, a table with names out.

Copied into each logged model (models from code, no pickle), so it imports nothing of mlproject.

A request is a table in exactly one of three forms, and parameters:

    sequence                   DNA letters in either case
    chrom, start, end          0-based, half-open; with a reference genome alone
    chrom, pos, ref, alt       a variant, pos 0-based: both predictions and their difference; with a genome alone

    head        "" is the first one
    tracks      comma list of indices, identifiers, ranges `0-9` (both ends) or categories; "" is all
    bins        `a-b`: bins a to b - 1; "" is all
    aggregate   mean or max over the bins, or none: every bin
    strands     forward, reverse, or both: the mean of forward and of the reverse complement, turned back
    log1p       whether log(1 + x) is taken of the answer, after strands and aggregate

The answer has a row for each row of the request and each track, with these columns:

    row, head, index, identifier    which: rows from 0; the index is the track's own
    value                           or, of a variant, ref_value, alt_value and difference (alternative - reference)
    values, first_bin, start        in place of it with aggregate none (ref_values, alt_values, differences): a number
                                    for each bin, from which bin on, and where its first base is
    padded_left, padded_right       how many N are of no sequence, or off the chromosome; the most of two windows

What is wrong with a request is an MlflowException of one line with INVALID_PARAMETER_VALUE, which is a 400.

Shapes: n rows, B batch, L window (bp), T tracks.
"""

import itertools
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

REFERENCE = "MLPROJECT_REFERENCE_FASTA"
# What the environment may change, and to what it is else.
LIMITS = {"MLPROJECT_MAX_ROWS": 1000, "MLPROJECT_MAX_VALUES": 1_000_000, "MLPROJECT_BATCH_SIZE": 4}
FORMS = (("sequence",), ("chrom", "start", "end"), ("chrom", "pos", "ref", "alt"))
DEFAULTS = {"head": "", "tracks": "", "bins": "", "aggregate": "mean", "strands": "forward", "log1p": False}
CHOICES = {"aggregate": ("mean", "max", "none"), "strands": ("forward", "reverse", "both")}

_LETTERS = "ACGTRYSWKMBDHVN"  # of IUPAC for DNA; what is none of ACGT is a row of zeros
_REFUSED = 255
_CODE_OF_BYTE = np.full(256, _REFUSED, np.uint8)
for _code, _letter in enumerate(_LETTERS):
    _CODE_OF_BYTE[[ord(_letter), ord(_letter.lower())]] = min(_code, 4)
_ONE_HOT = np.vstack([np.eye(4, dtype=np.float32), np.zeros([1, 4], np.float32)])
_MOST_QUOTED = 80  # characters of what was found, in a message


class Window(NamedTuple):
    """What the model reads at once: letters with N on both sides, L together."""

    letters: Callable[[], str]  # read when its turn comes, because a thousand of them are a lot
    start: int  # where it begins, in the sequence or on the chromosome, from 0; below 0 are N
    right: int  # how many N are behind the letters

    @property
    def left(self) -> int:
        """How many N are before the letters."""
        return max(0, -self.start)


Row = tuple[Window, ...]  # of the request: one window, or two of a variant


class Wanted(NamedTuple):
    """The parameters of a request, checked against the model."""

    head: str
    tracks: list[Mapping[str, Any]]
    columns: np.ndarray  # [T] positions in the head
    partners: np.ndarray  # [T] of the tracks that are read on the other strand
    bins: range | None  # None: the head has none
    aggregate: str
    strands: str
    log1p: bool


class Reference:
    """Letters of a FASTA file, which may be asked by threads.

    An index beside it is used where it is no older and fits; else one is made in a temporary folder.

    Args:
        path: plain, not compressed.

    Raises:
        MlflowException: the file is absent, compressed or not FASTA.
    """

    def __init__(self, path: Path):
        import pyfaidx

        what = f"{REFERENCE}: {quoted(str(path))}"
        self._lock = threading.Lock()
        try:
            with path.open("rb") as file:
                if file.read(2) == b"\x1f\x8b":
                    raise mistake(f"{what} is compressed; give it decompressed")
            options: dict[str, Any] = {"rebuild": False, "as_raw": True, "strict_bounds": True}
            beside = path.with_name(f"{path.name}.fai")
            if _fits(beside, path):
                self._fasta = pyfaidx.Faidx(str(path), indexname=str(beside), **options)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    own = str(Path(folder, "reference.fai"))
                    pyfaidx.Faidx(str(path), indexname=own).close()
                    self._fasta = pyfaidx.Faidx(str(path), indexname=own, **options)
        except (OSError, ValueError, pyfaidx.FastaIndexingError, pyfaidx.IndexNotFoundError) as error:
            raise mistake(f"{what} cannot be read as FASTA: {_line(error)}") from None
        self.lengths: dict[str, int] = {name: entry.rlen for name, entry in self._fasta.index.items()}
        if not self.lengths:
            raise mistake(f"{what} holds no sequence")

    def letters(self, chrom: str, start: int, end: int) -> str:
        """Of an interval inside the chromosome, as they are in the file."""
        if start >= end:
            return ""
        with self._lock:  # it seeks and then reads
            return str(self._fasta.fetch(chrom, start + 1, end))


class SequenceModel(PythonModel):
    """Calls the serving signature of the SavedModel that was logged beside this code; threads may share it."""

    def load_context(self, context):
        """Reads the artifacts.

        `saved_model` is a folder: `[B, L, 4]` one-hot float32, A C G T, to `[B, bins, T]` or `[B, T]` by head.
        `about` is a JSON file: kind (tracks, activity, joint), sequence_length (bp), bin_size (bp), and heads by name,
        each with bins (null: none) and tracks: index, identifier, description, category, and strand_pair, the position
        in the head of the track on the other strand, its own where there is none.

        Raises:
            MlflowException: a variable of the environment that is no whole number from 1, or a bad reference genome.
        """
        about = json.loads(Path(context.artifacts["about"]).read_text(encoding="utf-8"))
        self._heads: dict[str, Any] = about["heads"]
        self._names = {name: TrackNames(head["tracks"]) for name, head in self._heads.items()}
        self._length, self._bin_size = int(about["sequence_length"]), int(about["bin_size"])
        # Trained on sequences at the left, it takes zeros before a letter for N, and after them for nothing.
        self._at_left = about["kind"] == "joint"
        self._max_rows, self._max_values, self._batch_size = map(_limit, LIMITS)
        self._reference: Any = Reference(Path(path)) if (path := os.environ.get(REFERENCE)) else None
        self._module = tf.saved_model.load(context.artifacts["saved_model"])
        self._call = self._module.signatures["serving_default"]
        (self._input,) = self._call.structured_input_signature[1]

    def warm_up(self) -> None:
        """Predicts once, so that no request waits for what TensorFlow makes at the first call."""
        self.predict(None, pd.DataFrame({"sequence": ["N" * self._length]}))

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None):
        """The answer to a table, as the module describes both; an answer of model and row is never NaN.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE for what is wrong with the request, INTERNAL_ERROR where the model
                fails or answers what is no finite number.
        """
        wanted = self._wanted(params or {})
        rows = self._rows(model_input)
        windows = [window for row in rows for window in row]
        each = len(wanted.bins) if wanted.aggregate == "none" and wanted.bins is not None else 1
        count = len(windows) * len(wanted.tracks) * each
        if count > self._max_values:
            most = f"{self._max_values} are the most: ask for fewer rows, tracks or bins, or for their mean"
            raise mistake(f"the answer would have {count} numbers, {most}")
        values = np.concatenate(list(self._predictions(windows, wanted, len(rows[0]))))
        return self._table(rows, wanted, values)

    def _wanted(self, params: Mapping[str, Any]) -> Wanted:
        for name, value in params.items():
            if name not in DEFAULTS:
                raise mistake(f"parameter {quoted(name)} is not known; there are {', '.join(DEFAULTS)}")
            kind = type(DEFAULTS[name])
            expected = ", ".join(CHOICES.get(name, ("true or false" if kind is bool else "text",)))
            if type(value) is not kind or (name in CHOICES and value not in CHOICES[name]):
                raise mistake(f"{name}: found {quoted(value)}; expected {expected}")
        given = {**DEFAULTS, **params}
        head = given["head"] or next(iter(self._heads))
        if head not in self._heads:
            raise mistake(f"head: found {quoted(head)}; the model has {', '.join(self._heads)}")
        tracks = self._heads[head]["tracks"]
        columns = self._names[head].choose(given["tracks"])
        return Wanted(
            head,
            [tracks[column] for column in columns],
            np.array(columns),
            np.array([tracks[column].get("strand_pair", column) for column in columns]),
            self._bins(given["bins"], head, given["strands"]),
            given["aggregate"],
            given["strands"],
            bool(given["log1p"]),
        )

    def _bins(self, word: str, head: str, strands: str) -> range | None:
        count = self._heads[head]["bins"]
        if count is None:
            if word:
                raise mistake(f"bins: found {quoted(word)}; head {head} has no bins")
            return None
        # After an odd crop the bins of the strands are one apart: bin 0 is predicted of the forward strand alone.
        first = 0 if strands == "forward" else self._cropped(count) % 2
        if first == count:
            raise mistake(f"strands: found {strands}; the only bin of head {head} is of the forward strand")
        if not word:
            return range(first, count)
        found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", word)
        low, high = (int(found[1]), int(found[2])) if found else (0, 0)
        if not first <= low < high <= count:
            raise mistake(f"bins: found {quoted(word)}; expected a-b, within {first}-{count}, for a to b - 1")
        return range(low, high)

    def _cropped(self, bins: int) -> int:
        """How many bins of the window are not predicted."""
        return self._length // self._bin_size - bins

    def _rows(self, table: pd.DataFrame) -> list[Row]:
        if not isinstance(table, pd.DataFrame):
            raise mistake(f"expected a table, found {type(table).__name__}")
        found = [str(name) for name in table.columns]
        form = next((form for form in FORMS if sorted(form) == sorted(found)), None)
        if form is None:
            forms = "; or ".join(", ".join(form) for form in FORMS)
            raise mistake(f"columns: found {quoted(', '.join(found))}; expected exactly {forms}")
        if not 1 <= len(table) <= self._max_rows:
            raise mistake(f"{len(table)} rows; expected 1 to {self._max_rows} in a request")
        read: Any = (self._of_sequence, self._of_interval, self._of_variant)[FORMS.index(form)]
        if form != FORMS[0] and self._reference is None:
            needed = f"need a reference genome, and the server has none ({REFERENCE}); send a column sequence"
            raise mistake(f"columns {', '.join(form)} {needed}")
        columns = [table[name].tolist() for name in form]
        return [read(f"row {number}", *values) for number, values in enumerate(zip(*columns, strict=True))]

    def _of_sequence(self, where: str, sequence: object) -> Row:
        letters = check_letters(f"{where}: sequence", sequence)
        self._check_length(f"{where}: sequence", len(letters))
        spare = self._length - len(letters)
        left = 0 if self._at_left else spare // 2
        return (Window(partial(str, letters), -left, spare - left),)

    def _of_interval(self, where: str, chrom: object, start: object, end: object) -> Row:
        name, size = self._chromosome(where, chrom)
        first, last = _whole(f"{where}: start", start), _whole(f"{where}: end", end)
        if not 0 <= first < last <= size:
            expected = f"0 <= start < end <= {size}, the length of {quoted(name)}"
            raise mistake(f"{where}: found start {first} and end {last}; expected {expected}")
        self._check_length(f"{where}: the interval", last - first)
        at = first - (self._length - (last - first)) // 2
        return (self._around(name, at, "", at, self._length, at),)

    def _of_variant(self, where: str, chrom: object, pos: object, ref: object, alt: object) -> Row:
        name, size = self._chromosome(where, chrom)
        at = _whole(f"{where}: pos", pos)
        old, new = check_letters(f"{where}: ref", ref), check_letters(f"{where}: alt", alt)
        self._check_length(f"{where}: ref", len(old))
        if not 0 <= at <= size - len(old):
            raise mistake(f"{where}: pos {at}, {len(old)} letters: not inside {quoted(name)} of {size}")
        there = self._reference.letters(name, at, at + len(old)).upper()
        if there != old.upper():
            found = f"ref is {quoted(old)}, the reference has {quoted(there)} at {at} of {quoted(name)}"
            raise mistake(f"{where}: {found}; positions count from 0")
        start = at - (self._length - len(old)) // 2
        room = self._length - (at - start)
        self._check_length(f"{where}: alt", len(new), room)
        end = at + len(old)
        return tuple(self._around(name, start, one, at, room - len(one), end) for one in (old, new))

    def _check_length(self, what: str, found: int, most: int | None = None) -> None:
        if found > (most or self._length):
            raise mistake(f"{what} is {found} bp long; the model takes {most or self._length} at most")

    def _chromosome(self, where: str, chrom: object) -> tuple[str, int]:
        lengths = self._reference.lengths
        if not isinstance(chrom, str) or chrom not in lengths:
            raise mistake(f"{where}: chrom: found {quoted(chrom)}; the reference has {_some(lengths)}")
        return chrom, lengths[chrom]

    def _around(self, chrom: str, start: int, letters: str, at: int, after: int, onwards: int) -> Window:
        """The chromosome from `start` to `at`, then letters, then `after` bp of the chromosome from `onwards` on."""
        reference, size = self._reference, self._reference.lengths[chrom]
        end = onwards + after

        def read() -> str:
            before = reference.letters(chrom, max(start, 0), at)
            return before + letters + reference.letters(chrom, max(onwards, 0), min(end, size))

        return Window(read, start, max(0, end - size))

    def _predictions(self, windows: Sequence[Window], wanted: Wanted, per_row: int) -> Iterator[np.ndarray]:
        """What is wanted of each window, batch by batch: `[B, T]` float32, or `[B, bins, T]` with aggregate none."""
        for start in range(0, len(windows), self._batch_size):
            batch = windows[start : start + self._batch_size]
            sequences = np.zeros([len(batch), self._length, 4], np.float32)
            for place, window in enumerate(batch):
                codes = np.minimum(_codes(window.letters()), 4)  # any other letter of a genome is N
                sequences[place, window.left : window.left + len(codes)] = _ONE_HOT[codes]
            values = self._of_strands(sequences, [window.right for window in batch], wanted)
            bad = ~np.isfinite(values.reshape(len(batch), -1)).all(1)
            if bad.any():
                row = (start + int(bad.argmax())) // per_row
                raise mistake(f"row {row}: the model's answer is no finite number", INTERNAL_ERROR)
            yield self._reduced(values, wanted, start // per_row)

    def _of_strands(self, sequences: np.ndarray, right: Sequence[int], wanted: Wanted) -> np.ndarray:
        """`[B, bins, T]` or `[B, T]` float64, of the bins wanted."""
        bins = wanted.bins
        parts = []
        if wanted.strands != "reverse":
            values = self._outputs(sequences, wanted.head)[..., wanted.columns]
            parts.append(values if bins is None else values[:, bins.start : bins.stop])
        if wanted.strands != "forward":
            turned = sequences[:, ::-1, ::-1].copy()
            if self._at_left:
                for place, padding in enumerate(right):
                    turned[place] = np.roll(turned[place], -padding, axis=0)
            values = self._outputs(turned, wanted.head)[..., wanted.partners]
            if bins is not None:
                shift = self._cropped(values.shape[1]) % 2
                values = values[:, ::-1][:, bins.start - shift : bins.stop - shift]
            parts.append(values)
        return np.stack(parts).mean(0, dtype=np.float64)

    def _outputs(self, sequences: np.ndarray, head: str) -> np.ndarray:
        try:
            return self._call(**{self._input: tf.constant(sequences)})[head].numpy()
        except tf.errors.OpError as error:
            raise mistake(f"the model failed: {_line(error)}", INTERNAL_ERROR) from error

    def _reduced(self, values: np.ndarray, wanted: Wanted, row: int) -> np.ndarray:
        if wanted.bins is not None and wanted.aggregate != "none":
            values = values.mean(1) if wanted.aggregate == "mean" else values.max(1)
        if wanted.log1p:
            if (low := values.min()) <= -1:
                raise mistake(f"log1p: the model answers {low:.6g} from row {row} on; it takes more than -1")
            values = np.log1p(values)
        return values.astype(np.float32)

    def _table(self, rows: Sequence[Row], wanted: Wanted, values: np.ndarray) -> pd.DataFrame:
        n, tracks = len(rows), len(wanted.tracks)
        each = wanted.bins is not None and wanted.aggregate == "none"
        values = values.swapaxes(1, -1) if each else values
        values = values.reshape(n, len(rows[0]), tracks, *values.shape[2:])
        found = {"value": values[:, 0]}
        if len(rows[0]) == 2:
            ref, alt = values[:, 0], values[:, 1]
            found = {"ref_value": ref, "alt_value": alt, "difference": alt - ref}
        answer: dict[str, Any] = {
            "row": np.repeat(np.arange(n), tracks),
            "head": wanted.head,
            "index": np.tile([track["index"] for track in wanted.tracks], n),
            "identifier": [track["identifier"] for track in wanted.tracks] * n,
        }
        for name, array in found.items():
            numbers = shortest(array).reshape(n * tracks, *array.shape[2:])
            answer[f"{name}s" if each else name] = numbers.tolist() if each else numbers
        if each:
            assert wanted.bins is not None
            first = wanted.bins.start + self._cropped(self._heads[wanted.head]["bins"]) // 2
            starts = [row[0].start + first * self._bin_size for row in rows]
            answer |= {"first_bin": wanted.bins.start, "start": np.repeat(starts, tracks)}
        for side in ("left", "right"):
            padding = [max(getattr(window, side) for window in row) for row in rows]
            answer[f"padded_{side}"] = np.repeat(padding, tracks)
        return pd.DataFrame(answer)


class TrackNames:
    """What the tracks of a head are called; made once, as a request asks of thousands for a few."""

    def __init__(self, tracks: Sequence[Mapping[str, Any]]):
        self._tracks = tracks
        self._by_name: dict[str, list[int]] = {}
        self._by_category: dict[str, list[int]] = {}
        for at, track in enumerate(tracks):
            self._by_name.setdefault(track["identifier"], []).append(at)
            self._by_category.setdefault(track["category"].upper(), []).append(at)
        self._by_name |= {str(track["index"]): [at] for at, track in enumerate(tracks)}
        self._indices = np.array([int(track["index"]) for track in tracks])

    def choose(self, words: str) -> list[int]:
        """Positions of the tracks that a parameter names, each once, in the order in which they are named.

        A word is an index, else an identifier, else (in either case) a category, else a range of indices, both ends in.

        Raises:
            MlflowException: a word that names none.
        """
        if not words.strip():
            return list(range(len(self._tracks)))
        chosen: dict[int, None] = {}
        indices = self._indices
        parts = dict.fromkeys(part.strip() for part in words.split(","))
        if len(parts) > len(self._tracks):  # each may be a range of all
            raise mistake(f"tracks: found {len(parts)} words; the head has {len(self._tracks)} tracks")
        for word in parts:
            found = self._by_name.get(word) or self._by_category.get(word.upper()) or []
            if not found and (ends := re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", word)):
                low, high = int(ends[1]), int(ends[2])
                if min(indices) <= low <= high <= max(indices):
                    found = np.flatnonzero((low <= indices) & (indices <= high)).tolist()
            if not found:
                raise mistake(
                    f"tracks: found {quoted(word)}; expected indices or ranges within {min(indices)}-{max(indices)}, "
                    f"identifiers such as {quoted(self._tracks[0]['identifier'])}, or categories such as "
                    f"{_some(self._by_category)}"
                )
            chosen.update(dict.fromkeys(found))
        return list(chosen)


def check_letters(what: str, value: object) -> str:
    """Text of IUPAC letters for DNA, as it came.

    Raises:
        MlflowException: not text, empty, or another letter, U among them; begins with `what`.
    """
    if not isinstance(value, str) or not value:
        raise mistake(f"{what}: found {quoted(value)}; expected text of DNA letters")
    bad = _codes(value) == _REFUSED
    if bad.any():
        at = int(bad.argmax())
        expected = f"{_LETTERS}{', T for U' if value[at] in 'Uu' else ''}"
        raise mistake(f"{what}: found {quoted(value[at])} at position {at} (from 0); expected {expected}")
    return value


def _codes(letters: str) -> np.ndarray:
    return _CODE_OF_BYTE[np.frombuffer(letters.encode("ascii", "replace"), np.uint8)]


def shortest(values: np.ndarray) -> np.ndarray:
    """Float32 as the float64 of the fewest digits that mean the same: half the characters in JSON."""
    return np.asarray(values, np.float32).astype("U16").astype(np.float64)


def mistake(message: str, code: int = INVALID_PARAMETER_VALUE) -> MlflowException:
    """What is wrong with a request, a 400; with INTERNAL_ERROR, with the model, a 500."""
    return MlflowException(message, error_code=code)


def quoted(value: object) -> str:
    """What was found, for a message: on one line, in ASCII, cut where it is long."""
    text = ascii(value[: _MOST_QUOTED + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_QUOTED else text[:_MOST_QUOTED] + "..."


def _some(names: Iterable[str]) -> str:
    return ", ".join(itertools.islice(names, 6))[:200]


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def _whole(what: str, value: object) -> int:
    """A whole number; JSON tables with a gap, and some clients, have them as floats."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not (is_number and abs(value) < 2**53 and value == int(value)):  # type: ignore[arg-type, call-overload]
        raise mistake(f"{what}: found {quoted(value)}; expected a whole number")
    return int(value)  # type: ignore[call-overload]


def _limit(name: str) -> int:
    word = os.environ.get(name) or str(LIMITS[name])
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", word):
        raise mistake(f"{name}: found {quoted(word)}; expected a whole number from 1")
    return int(word)


def _fits(index: Path, fasta: Path) -> bool:
    """Whether an index is no older than its FASTA, and its last sequence ends where the file does."""
    try:
        if index.stat().st_mtime_ns < fasta.stat().st_mtime_ns:
            return False
        entries = [list(map(int, line.split("\t")[1:5])) for line in index.read_text().splitlines()]
        length, offset, bases, width = max(entries, key=lambda entry: entry[1])
        end = offset + length // bases * width + length % bases
        return 0 <= fasta.stat().st_size - end <= width - bases
    except (OSError, ValueError, ZeroDivisionError):
        return False


set_model(SequenceModel())
