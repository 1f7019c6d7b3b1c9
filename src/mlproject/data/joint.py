"""Tracks and MPRA as one set of examples: cell types that both share, what each subset has, and the order of training.

Every batch is a pure function of (seed, step), so a resumed training sees what one never stopped does.

Shapes: n sequences, m measurements, B batch, L letters of a padded sequence or positions of a window.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from enformer_core.dna import MASKED, PADDING
from mlproject.data.construct_windows import shuffled_batches
from mlproject.data.coverage import CoverageSource, CoverageWindows
from mlproject.data.mpra import MpraTable, codes
from mlproject.data.mpra_split import MpraSplit
from mlproject.errors import InputError

_COMPLEMENT = np.array([3, 2, 1, 0, 4, 5, 6], np.uint8)
_UNCONDITIONED = 0.1  # share of letters predicted without the activity: what guidance compares with
_WRITTEN = 0.9  # share of sequences that are hidden from a place on
_HELD_OUT_SEED = 0  # of windows that are held out: the same for every training


@dataclasses.dataclass(frozen=True)
class MpraExamples:
    """A table, split, with its cell types numbered as the model numbers them."""

    table: MpraTable
    split: MpraSplit
    codes: np.ndarray
    """Letters from the left, `[n, L]` uint8; `PADDING` beyond the end."""
    cell: np.ndarray
    """Of each measurement, a position in the model's cell types: `[m]` int32."""

    def rows(self, subset: str, *, without: Collection[int] = (), only: Collection[int] = ()) -> np.ndarray:
        """Measurements of a subset, but those in the cell types `without`, or only those in `only`: `[r]` int64."""
        chosen = self.split.subset[self.table.sequence] == subset
        if without:
            chosen &= ~np.isin(self.cell, list(without))
        if only:
            chosen &= np.isin(self.cell, list(only))
        return np.flatnonzero(chosen)

    def sample(self, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
        """The measurements among `rows` of `count` sequences drawn by the seed, or all of them for 0 or too few."""
        sequences = np.unique(self.table.sequence[rows])
        if not 0 < count < len(sequences):
            return rows
        drawn = np.random.default_rng([seed, 2]).choice(sequences, count, replace=False)
        return rows[np.isin(self.table.sequence[rows], drawn)]


@dataclasses.dataclass(frozen=True)
class TrackExamples:
    """Where windows come from, with the source's cell types numbered as the model numbers them."""

    source: CoverageSource
    length: int
    cells: np.ndarray
    """Of each cell type of the source, a position in the model's cell types: `[cells]` int32."""

    def train(self, count: int, seed: int) -> CoverageWindows:
        """Windows to train on, drawn by the seed."""
        return self.source.draw("train", count, self.length, seed)

    def held_out(self, subset: str, count: int) -> CoverageWindows:
        """Windows of another subset, the same for every training."""
        return self.source.draw(subset, count, self.length, _HELD_OUT_SEED)


@dataclasses.dataclass(frozen=True)
class JointData:
    """What a study trains on; one of both may be absent."""

    cell_types: tuple[str, ...]
    mpra: MpraExamples | None
    tracks: TrackExamples | None

    @property
    def digest(self) -> str:
        """sha256 over both."""
        parts: list[str] = [*self.cell_types]
        if self.mpra is not None:
            parts += [self.mpra.table.digest, *self.mpra.split.subset.tolist(), str(self.mpra.codes.shape)]
        if self.tracks is not None:
            parts += [self.tracks.source.digest, str(self.tracks.length)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def join(
    table: MpraTable | None,
    split: MpraSplit | None,
    source: CoverageSource | None,
    *,
    mpra_len: int,
    seq_len: int,
) -> JointData:
    """Both sides with one numbering of cell types: first those of the tracks, then what the table has beside them.

    Raises:
        InputError: both are there and have no cell type in common.
    """
    names = list(source.cell_types) if source is not None else []
    if table is not None:
        if source is not None and not set(names) & set(table.cell_types):
            raise InputError(
                f"tracks and MPRA have no cell type in common: tracks have {_some(names)}, the MPRA table has "
                f"{_some(table.cell_types)}; name them alike (column cell_type of the targets table, "
                "--mpra_cell_type_name) or choose --modalities mpra or tracks"
            )
        names += [name for name in table.cell_types if name not in names]
    place = {name: number for number, name in enumerate(names)}
    mpra = tracks = None
    if table is not None and split is not None:
        numbers = np.array([place[name] for name in table.cell_types], np.int32)
        mpra = MpraExamples(table, split, codes(table.sequences, mpra_len), numbers[table.cell])
    if source is not None:
        tracks = TrackExamples(
            source, seq_len, np.array([place[name] for name in source.cell_types], np.int32)
        )
    return JointData(tuple(names), mpra, tracks)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


# --- batches ------------------------------------------------------------------------------------------------------


def mpra_batches(
    examples: MpraExamples, rows: np.ndarray, batch_size: int, *, augment: bool, seed: int, start: int = 0
) -> Iterator[Mapping[str, np.ndarray]]:
    """Endless batches of measurements.

    Args:
        examples: what the rows are of.
        rows: measurements to train on.
        batch_size: measurements of a batch.
        augment: show each sequence on a strand drawn at random, and where its activity is asked for, at a place drawn
            at random in the padded length.
        seed: of order, strands, places and masks.
        start: steps to leave out.

    Yields:
        `letters` `[B, L]` int32; `whole_letters`, the same sequences from the left, as they are written,
        `hidden_letters` (these with some `MASKED`) and `letters_before` (as the function says); `cell` `[B]` int32,
        `activity` `[B]` float32, `known_activity` (the same with some NaN), and `sequence` `[B]` int64, which it is.
    """
    for step, batch in enumerate(shuffled_batches(rows, batch_size, seed=seed, start=start), start):
        rng = np.random.default_rng([seed, step, 0])
        number = examples.table.sequence[batch]
        letters = whole = examples.codes[number]
        if augment:
            letters, whole = placed(letters, rng), turned(letters, rng)
        hidden = hide_letters(whole, rng)
        activity = examples.table.activity[batch].astype(np.float32)
        unknown = rng.random(len(batch)) < _UNCONDITIONED
        yield {
            "letters": letters.astype(np.int32),
            "whole_letters": whole.astype(np.int32),
            "hidden_letters": hidden.astype(np.int32),
            "letters_before": letters_before(whole, hidden).astype(np.int32),
            "cell": examples.cell[batch],
            "activity": activity,
            "known_activity": np.where(unknown, np.float32(np.nan), activity),
            "sequence": number,
        }


def track_batches(
    examples: TrackExamples,
    windows: CoverageWindows,
    batch_size: int,
    *,
    augment: bool,
    seed: int,
    start: int = 0,
) -> Iterator[Mapping[str, np.ndarray]]:
    """Endless batches of windows, each in one cell type.

    Args:
        examples: what the windows were drawn from.
        windows: to train on; each is shown in every cell type before it comes again.
        batch_size, seed, start: as `mpra_batches`.
        augment: show each window on a strand drawn at random.

    Yields:
        `letters` `[B, L]` int32, `cell` `[B]` int32, `log_coverage` `[B, L]` float32, `visible_coverage` (the same,
        NaN where it is hidden), and `window` `[B]` int64.
    """
    count = len(examples.cells)
    pairs = np.arange(len(windows.codes) * count)
    for step, batch in enumerate(shuffled_batches(pairs, batch_size, seed=seed, start=start), start):
        rng = np.random.default_rng([seed, step, 1])
        window, column = np.divmod(batch, count)
        letters = windows.codes[window]
        coverage = windows.log_coverage[window, column].astype(np.float32)
        if augment:
            flipped = rng.random(len(batch)) < 0.5
            letters = np.where(flipped[:, None], _COMPLEMENT[letters[:, ::-1]], letters)
            coverage = np.where(flipped[:, None], coverage[:, ::-1], coverage)
        yield {
            "letters": letters.astype(np.int32),
            "cell": examples.cells[column],
            "log_coverage": coverage,
            "visible_coverage": hide_coverage(coverage, rng),
            "window": window,
        }


def placed(letters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sequences `[B, L]` on a strand and at a place drawn at random, padded at both ends: `[B, L]` uint8."""
    size = letters.shape[1]
    length = (letters != PADDING).sum(1)
    first = rng.integers(0, size - length + 1)
    at = np.arange(size) - first[:, None]  # position in the sequence
    inside = (at >= 0) & (at < length[:, None])
    flipped = rng.random(len(letters)) < 0.5
    source = np.clip(np.where(flipped[:, None], length[:, None] - 1 - at, at), 0, size - 1)
    found = np.take_along_axis(letters, source, 1)
    return np.where(inside, np.where(flipped[:, None], _COMPLEMENT[found], found), PADDING).astype(np.uint8)


def turned(letters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sequences `[B, L]` on a strand drawn at random, from the left as they are written: `[B, L]` uint8."""
    length = (letters != PADDING).sum(1, keepdims=True)
    at = np.arange(letters.shape[1])
    reverse = np.take_along_axis(letters, np.where(at < length, length - 1 - at, at), 1)
    return np.where(rng.random((len(letters), 1)) < 0.5, _COMPLEMENT[reverse], letters)


def letters_before(letters: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The letters that are there when each hidden one is written: `[B, L]` uint8.

    In rows that hide all from a place on these are the true `letters`, so that every hidden letter is an example of the
    next one and not the first alone; in other rows those that are not `hidden`.
    """
    masked = hidden == MASKED
    written = (masked | (letters == PADDING) | (np.cumsum(masked, 1) == 0)).all(1, keepdims=True)
    return np.where(written, letters, hidden)


def hide_letters(letters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Letters `[B, L]` with some `MASKED`: of `_WRITTEN` of the rows all from a place on, as sequences are written.

    Of the others a share of places, drawn from 0 to 1. One letter at least is hidden in each row.
    """
    there = letters < PADDING
    rank = np.cumsum(there, 1) - 1  # of each letter among those of its row
    count = there.sum(1, keepdims=True)
    cut = rng.integers(0, count)
    share = rng.random((len(letters), 1))
    scattered = rng.random(letters.shape) < share
    scattered |= rank == cut
    from_a_place = rank >= cut
    hidden = np.where(rng.random((len(letters), 1)) < _WRITTEN, from_a_place, scattered) & there
    return np.where(hidden, MASKED, letters).astype(np.uint8)


def hide_coverage(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverage `[B, L]` float32 with NaN where it is hidden: in half the rows all, else a stretch of 1/8 or more."""
    rows, size = coverage.shape
    length = rng.integers(max(1, size // 8), size + 1, rows)
    first = rng.integers(0, size - length + 1)
    at = np.arange(size)
    hidden = (at >= first[:, None]) & (at < (first + length)[:, None])
    hidden |= rng.random((rows, 1)) < 0.5
    return np.where(hidden, np.float32(np.nan), coverage)
