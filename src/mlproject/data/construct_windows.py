"""Windows on constructs: which there are, which are held out, their sequences, and the order they are trained in.

Shapes: n windows, W bp of a window.
"""

import functools
import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from enformer_core import dna
from mlproject.data.constructs import Construct, sample_offsets
from mlproject.errors import InputError

SPLIT = ("train", "valid", "test")  # folds of a dataset that is split once


class Fold(NamedTuple):
    """What one training sees: the values of `Construct.fold` that it trains on, validates on and holds out."""

    name: str
    train: frozenset[str]
    valid: frozenset[str]
    test: frozenset[str]


def plan_folds(constructs: Sequence[Construct], held_out: Collection[str] = ()) -> list[Fold]:
    """The trainings that a dataset asks for.

    Folds named train, valid and test are one training. Any others are held out in turn: each is the test set of one
    training, the next one in order is its validation set, and the rest, at least one, is trained on.

    Args:
      constructs: all of them.
      held_out: only the trainings that hold these out; none for all.

    Raises:
      InputError: a fold is missing or unknown; says which there are.
    """
    names = sorted({construct.fold for construct in constructs}, key=lambda name: (len(name), name))
    if set(names) & set(SPLIT):
        if set(names) != set(SPLIT):
            raise InputError(
                f"folds of the constructs are {', '.join(names)}; expected train, valid and test, or numbers: "
                "build them again with other fold_ratios, or num_folds"
            )
        folds = [Fold("test", *(frozenset([name]) for name in SPLIT))]
    elif len(names) < 3:
        raise InputError(
            f"folds of the constructs are {', '.join(names) or 'none'}; expected three or more, one to hold out, "
            "one to validate on, the rest to train on: build them again with another num_folds"
        )
    else:
        folds = []
        for position, name in enumerate(names):
            others = {name, valid := names[(position + 1) % len(names)]}
            folds.append(Fold(name, frozenset(names) - others, frozenset([valid]), frozenset([name])))
    if unknown := [name for name in held_out if name not in {fold.name for fold in folds}]:
        raise InputError(f"--folds: found {unknown[0]!r}; it can be {', '.join(fold.name for fold in folds)}")
    return [fold for fold in folds if not held_out or fold.name in held_out]


def held_out_fold(constructs: Sequence[Construct], name: str) -> Fold:
    """The training of `plan_folds` that holds this fold out, the last one for an empty name.

    Raises:
      InputError: as `plan_folds`, or there is no such fold; says which there are.
    """
    by_name = {fold.name: fold for fold in plan_folds(constructs)}
    if name and name not in by_name:
        raise InputError(f"--held_out: found {name!r}; it can be {', '.join(by_name)}")
    return by_name[name or list(by_name)[-1]]


def search_folds(constructs: Sequence[Construct], held_out: str) -> list[Fold]:
    """What a search may see when a fold is held out: each of the others is validated on in turn, but one of a split.

    Args:
      constructs: all of them.
      held_out: the name of a training of `plan_folds`.
    """
    folds = plan_folds(constructs)
    if len(folds) == 1:
        return [folds[0]._replace(name="valid")]
    test = frozenset([held_out])
    names = frozenset(fold.name for fold in folds) - test
    in_order = [fold.name for fold in folds if fold.name in names]
    return [Fold(name, names - {name}, frozenset([name]), test) for name in in_order]


class ConstructWindows:
    """The windows drawn on some constructs, each place once. A window is named by its row.

    Args:
      constructs: of one length.
      window: length of a window in bp.
      samples, stride, seed: as `sample_offsets` takes them.

    Raises:
      InputError: no window fits, or `samples` or `stride` is none.
    """

    def __init__(
        self, constructs: Sequence[Construct], window: int, *, samples: float, stride: int, seed: int
    ):
        self.constructs = list(constructs)
        self.window = window
        drawn = [
            sample_offsets(
                len(construct.sequence),
                window,
                samples=samples,
                stride=stride,
                seed=seed,
                name=construct.name,
            )
            for construct in self.constructs
        ]
        self.construct = np.repeat(np.arange(len(drawn)), [len(offsets) for offsets in drawn])
        """Position of each window's construct: `[n]` int64."""
        self.offset = np.concatenate(drawn)
        """Where each window starts on its construct, in bp: `[n]` int64."""
        self._codes = [dna.codes(construct.sequence) for construct in self.constructs]
        self._activity = np.array([construct.activity for construct in self.constructs], np.float32)

    def __len__(self) -> int:
        return len(self.construct)

    @property
    def digest(self) -> str:
        """sha256 over everything that is known of the constructs."""
        return hashlib.sha256(repr(self.constructs).encode()).hexdigest()

    def in_folds(self, folds: Collection[str]) -> np.ndarray:
        """Rows of the windows on the constructs of these folds: `[n]` int64."""
        chosen = np.array([construct.fold in folds for construct in self.constructs])
        return np.flatnonzero(chosen[self.construct])

    def describe(self, folds: Collection[str]) -> str:
        """The constructs of these folds in words."""
        count = sum(construct.fold in folds for construct in self.constructs)
        return f"{count:,} constructs of the folds {', '.join(sorted(folds))}"

    def sequences(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """One-hot `[n, W, 4]` float32; N is zeros."""
        return dna.ONE_HOT[np.stack([self._window_codes(row) for row in rows])]

    def targets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The measured activity: `[n, 1]` float32."""
        return self._activity[self.construct[rows], np.newaxis]

    def table(self, rows: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """A row for each window: index, name, group, cluster and fold of its construct, offset, activity."""
        chosen = [self.constructs[position] for position in self.construct[rows]]
        fields = ("index", "name", "group", "cluster", "fold")
        frame = pd.DataFrame({field: [getattr(construct, field) for construct in chosen] for field in fields})
        return frame.assign(offset=self.offset[rows], activity=[construct.activity for construct in chosen])

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """A name for each window that is a function of its letters alone, 32 hexadecimal digits."""
        return [self._keys[row] for row in rows]

    @functools.cached_property
    def _keys(self) -> list[str]:
        """The names of all windows: every batch asks for some."""
        return [
            hashlib.sha256(self._window_codes(row).tobytes()).hexdigest()[:32] for row in range(len(self))
        ]

    def _window_codes(self, row: int) -> np.ndarray:
        start = self.offset[row]
        return self._codes[self.construct[row]][start : start + self.window]


def shuffled_batches(rows: np.ndarray, batch_size: int, *, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches `[batch_size]` of rows: all of them in a new order, then all again in another.

    The batch of a step is a pure function of (rows, batch_size, seed, step), so a resumed training sees what one
    never stopped does; a batch at the end of a pass goes on with the next one.

    Args:
      rows: what to draw from, at least one.
      batch_size: rows of a batch.
      seed: of the orders.
      start: steps to leave out.
    """
    orders: dict[int, np.ndarray] = {}
    place = start * batch_size
    while True:
        batch = []
        for position in range(place, place + batch_size):
            number, at = divmod(position, len(rows))
            if number not in orders:
                orders = {key: order for key, order in orders.items() if key == number - 1}
                orders[number] = np.random.default_rng([seed, number]).permutation(rows)
            batch.append(orders[number][at])
        yield np.array(batch)
        place += batch_size
