"""What a designed sequence must obey, and which letters keep it possible to obey all of it to the end.

Shapes: n sequences, L positions, S states of the automaton, W counts of G and C. Base codes are uint8: A 0, C 1, G 2,
T 3.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlproject.automaton import IS_GC, Tables, completable, draw, make_tables
from mlproject.errors import InputError
from mlproject.motifs import IUPAC, named, parse_forbidden, strands

_MOST_BYTES = 2**30  # of the table of what can be completed


@dataclasses.dataclass(frozen=True)
class Constraints:
    """What a sequence of `length` letters must obey.

    Raises:
        InputError: a value that means nothing; names the option of the command line.
    """

    length: int
    """Letters of a sequence."""
    fixed: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Letters that are given, by position from 0: A, C, G, T, or a letter of IUPAC for some of them."""
    forbidden: tuple[str, ...] = ()
    """Motifs of letters of IUPAC that are on neither strand."""
    gc: tuple[float, float] = (0.0, 1.0)
    """Least and most share of G and C, both allowed."""
    max_homopolymer: int = 0
    """Longest run of one letter; 0: any."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"--length: found {self.length}; it must be 1 or more")
        for position, letter in self.fixed.items():
            if letter not in IUPAC:
                raise InputError(
                    f"--fixed: found {letter!r} at {position}; expected A, C, G, T or another letter of IUPAC for bases"
                )
            if not 0 <= position < self.length:
                raise InputError(
                    f"--fixed: found a letter at {position}; expected positions from 0 to {self.length - 1}"
                )
        for motif in self.forbidden:
            if not motif or not set(motif) <= set(IUPAC):
                raise InputError(f"--forbid: found {motif!r}; expected letters of IUPAC for bases")
        low, high = self.gc
        for name, share in (("gc_min", low), ("gc_max", high)):
            if not 0 <= share <= 1:
                raise InputError(f"--{name}: found {share:g}; expected a share from 0 to 1")
        if low > high:
            raise InputError(f"--gc_min: found {low:g}, above --gc_max {high:g}; choose a smaller one")
        if self.max_homopolymer < 0:
            raise InputError(
                f"--max_homopolymer: found {self.max_homopolymer}; expected 1 or more, or 0 for no limit"
            )

    @property
    def gc_counts(self) -> tuple[int, int]:
        """Least and most G and C, both allowed; a share that is meant to be a whole number of letters is one."""
        low, high = self.gc
        return math.ceil(low * self.length - 1e-9), math.floor(high * self.length + 1e-9)

    def plan(self) -> "Plan":
        """How sequences that obey this are written.

        Raises:
            InputError: there is none, and which of the constraints are enough for that: without any one of those
                named, the others can be met. Or the motifs take too large a table.
        """
        plan = Plan(self)
        if not plan.possible:
            raise InputError(self._conflict())
        return plan

    def _conflict(self) -> str:
        rules = _rules(self)

        def possible(chosen: Sequence[_Rule]) -> bool:
            return _is_possible(_joined(self.length, chosen))

        culprits = _smallest_conflict(possible, rules)
        names = list(dict.fromkeys(rule.name for rule in culprits))
        if len(names) == 1:
            return f"{names[0]} cannot be met: no sequence of {self.length} letters obeys it; change it"
        together = f"{', '.join(names[:-1])} and {names[-1]}"
        return (
            f"{together} cannot be met together: no sequence of {self.length} letters obeys "
            f"{'both' if len(names) == 2 else 'all of them'}; change one of them"
        )


# --- words of the command line ------------------------------------------------------------------------------------


def parse_constraints(
    length: int,
    fixed: str = "",
    forbid: Iterable[str] = (),
    gc_min: float = 0.0,
    gc_max: float = 1.0,
    max_homopolymer: int = 0,
) -> Constraints:
    """The constraints that options of these names and words mean.

    Raises:
        InputError: a word that means nothing; names the option.
    """
    if length < 1:
        raise InputError(f"--length: found {length}; it must be 1 or more")
    return Constraints(
        length, parse_fixed(fixed, length), parse_forbidden(forbid), (gc_min, gc_max), max_homopolymer
    )


def parse_fixed(word: str, length: int) -> dict[int, str]:
    """The letters that are given, by position from 0; free ones (N) are left out.

    Args:
        word: a template of `length` letters, or pieces as `0:GAATTC,140:ACGT`; nothing where it is empty.
        length: of the sequence.

    Raises:
        InputError: it is of neither form, a letter is none of IUPAC, a piece leaves the sequence, or two pieces give
            one position different letters.
    """
    pieces: list[tuple[int, str]] = []
    if ":" in word:
        for piece in filter(None, map(str.strip, word.split(","))):
            place, _, letters = (part.strip() for part in piece.partition(":"))
            if not (place.isascii() and place.isdigit() and letters):
                raise InputError(f"--fixed: found {piece!r}, expected POSITION:LETTERS, such as 0:GAATTC")
            pieces.append((int(place), letters.upper()))
    elif word.strip():
        pieces.append((0, word.strip().upper()))
        if len(word.strip()) != length:
            raise InputError(
                f"--fixed: found a template of {len(word.strip())} letters, expected {length} (N where any letter may "
                "be), or pieces such as 0:GAATTC,140:ACGT"
            )
    fixed: dict[int, str] = {}
    for start, letters in pieces:
        if start + len(letters) > length:
            raise InputError(
                f"--fixed: {start}:{letters} ends at {start + len(letters)}, after the {length} letters of the sequence"
            )
        for position, letter in enumerate(letters, start):
            if letter not in IUPAC:
                raise InputError(
                    f"--fixed: found {letter!r} at {position} (from 0), expected A, C, G, T, N or another letter of "
                    "IUPAC for bases"
                )
            if letter != "N" and fixed.setdefault(position, letter) != letter:
                raise InputError(
                    f"--fixed: position {position} is {fixed[position]} and {letter}; give it one letter"
                )
    return fixed


# --- which constraints contradict each other ----------------------------------------------------------------------


class _Rule(NamedTuple):
    """One constraint alone, and what to call it."""

    name: str
    alone: Constraints


def _rules(constraints: Constraints) -> list[_Rule]:
    """The constraints one by one; of fixed letters each run without a gap."""
    length, rules = constraints.length, []
    runs: list[dict[int, str]] = []
    for position in sorted(constraints.fixed):
        if not runs or position - 1 not in runs[-1]:
            runs.append({})
        runs[-1][position] = constraints.fixed[position]
    for run in runs:
        rules.append(_Rule(f"--fixed {min(run)}:{''.join(run.values())}", Constraints(length, run)))
    for motif in constraints.forbidden:
        rules.append(_Rule(f"--forbid {named(motif)}", Constraints(length, forbidden=(motif,))))
    low, high = constraints.gc
    least, most = constraints.gc_counts
    if least > 0:
        rules.append(_Rule(f"--gc_min {low:g}", Constraints(length, gc=(low, 1.0))))
    if most < length:
        rules.append(_Rule(f"--gc_max {high:g}", Constraints(length, gc=(0.0, high))))
    if longest := constraints.max_homopolymer:
        rules.append(
            _Rule(f"--max_homopolymer {longest}", Constraints(length, max_homopolymer=longest)),
        )
    return rules


def _joined(length: int, rules: Sequence[_Rule]) -> Constraints:
    alone = [rule.alone for rule in rules]
    return Constraints(
        length,
        {position: letter for one in alone for position, letter in one.fixed.items()},
        tuple(motif for one in alone for motif in one.forbidden),
        (max((one.gc[0] for one in alone), default=0.0), min((one.gc[1] for one in alone), default=1.0)),
        max((one.max_homopolymer for one in alone), default=0),
    )


def _smallest_conflict(possible: Callable[[Sequence[_Rule]], bool], rules: Sequence[_Rule]) -> list[_Rule]:
    """Rules that cannot be met together and of which every part can (QuickXplain, Junker 2004).

    It asks `possible` about k log(n / k) times for k of n rules.
    """

    def explain(known: list[_Rule], grown: bool, candidates: list[_Rule]) -> list[_Rule]:
        if grown and not possible(known):
            return []
        if len(candidates) == 1:
            return candidates
        half = len(candidates) // 2
        first, second = candidates[:half], candidates[half:]
        of_second = explain(known + first, True, second)
        of_first = explain(known + of_second, bool(of_second), first)
        return of_first + of_second

    return explain([], False, list(rules))


# --- writing -------------------------------------------------------------------------------------------------------


def _words(constraints: Constraints) -> list[tuple[int, ...]]:
    """What a sequence must not hold, as sets of bases: motifs on both strands, and runs; none that has no room."""
    words = [word for motif in constraints.forbidden for word in strands(motif)]
    if constraints.max_homopolymer:
        words += [(1 << base,) * (constraints.max_homopolymer + 1) for base in range(4)]
    return [word for word in dict.fromkeys(words) if len(word) <= constraints.length]


def _tables(constraints: Constraints) -> Tables:
    bits = np.full(constraints.length, 15)
    for position, letter in constraints.fixed.items():
        bits[position] = IUPAC[letter]
    free = (bits[:, None] >> np.arange(4) & 1).astype(bool)
    return make_tables(free, _words(constraints), *constraints.gc_counts)


def _is_possible(constraints: Constraints) -> bool:
    (table,) = collections.deque(completable(_tables(constraints)), maxlen=1)
    return bool(table[0, 0])


class Plan:
    """How sequences that obey all constraints are written from left to right, without ever a dead end.

    A sequence begins with state 0 and no G or C. Made by `Constraints.plan`.

    Raises:
        InputError: the table is too large.
    """

    def __init__(self, constraints: Constraints):
        self.constraints = constraints
        self._tables = _tables(constraints)
        states, width = self._tables.end.shape
        length = constraints.length
        size = (length + 1) * states * (-(-width // 8))
        if size > _MOST_BYTES:
            raise InputError(
                f"--forbid: the table of {length} letters and {states} beginnings of motifs takes {size / 1e9:.1f} GB; "
                "forbid fewer or shorter motifs, or choose a smaller --max_homopolymer"
            )
        self._completable = np.zeros([length + 1, states, -(-width // 8)], np.uint8)
        for position, table in zip(range(length, -1, -1), completable(self._tables), strict=True):
            self._completable[position] = np.packbits(table, axis=1)

    @property
    def length(self) -> int:
        """L."""
        return self.constraints.length

    @property
    def states(self) -> int:
        """S, the states that what was written can be in."""
        return len(self._tables.leads_to) - 1

    @property
    def possible(self) -> bool:
        """Whether there is a sequence that obeys the constraints."""
        return bool(self._completable[0, 0, 0] >> 7)

    @property
    def known(self) -> np.ndarray:
        """The letters that are given: `[L]` uint8, 4 where more than one may be."""
        free = self._tables.free
        return np.where(free.sum(axis=1) == 1, free.argmax(axis=1), 4).astype(np.uint8)

    def allowed(self, state: np.ndarray, gc_count: np.ndarray, position: int) -> np.ndarray:
        """After which letters at `position` the sequence can still be completed: `[n, 4]` bool, exact.

        Args:
            state: `[n]` int, of what is written before `position`.
            gc_count: `[n]` int, how many G and C that has.
            position: from 0.
        """
        after = self._tables.leads_to[state]
        column = np.minimum(gc_count[:, None] + IS_GC, self._tables.end.shape[1] - 1)
        bits = self._completable[position + 1, after, column >> 3] >> (7 - (column & 7)) & 1
        return bits.astype(bool) & self._tables.free[position]

    def advance(
        self, state: np.ndarray, gc_count: np.ndarray, letter: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """State and count, `[n]` int each, after these letters, `[n]` uint8."""
        return self._tables.leads_to[state, letter], gc_count + IS_GC[letter]

    def random(self, n: int, composition: Sequence[float], rng: np.random.Generator) -> np.ndarray:
        """Sequences that obey the constraints: `[n, L]` uint8.

        Each is drawn with the probability that it has among independent letters of this composition, given that it
        obeys the constraints: exactly, by the weights of all completions. The first of many are those of a few.

        Args:
            n: how many.
            composition: of A, C, G, T, in any unit; a letter that alone is allowed by `fixed` needs no share.
            rng: one number is drawn for each letter.

        Raises:
            InputError: letters with a share cannot meet the constraints.
        """
        share = np.asarray(composition, np.float64)
        if share.shape != (4,) or not (np.isfinite(share).all() and (share >= 0).all() and share.any()):
            raise InputError(
                f"composition: found {composition}, expected a share of A, C, G and T, not below 0"
            )
        free = self._tables.free
        given = free.sum(axis=1, keepdims=True) == 1
        with np.errstate(divide="ignore"):
            log_share = np.log(np.where(free, np.where(given, 1.0, share / share.sum()), 0.0))
        numbers = rng.random([n, self.length])
        codes = np.zeros([n, self.length], np.uint8)
        state, gc_count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for position, weights in enumerate(self._log_weights(log_share)):
            column = np.minimum(gc_count[:, None] + IS_GC, weights.shape[1] - 1)
            logits = weights[self._tables.leads_to[state], column] + log_share[position]
            if position == 0 and n and np.isneginf(logits[0]).all():
                raise InputError(
                    f"composition: found {composition}; sequences of these letters alone cannot meet the constraints; "
                    "give every letter a share"
                )
            codes[:, position] = draw(logits, numbers[:, position])
            state, gc_count = self.advance(state, gc_count, codes[:, position])
        return codes

    def _log_weights(self, log_share: np.ndarray) -> Iterator[np.ndarray]:
        """For position 1 to L, the log probability that what follows obeys: `[S + 1, W]` float64.

        Of the tables, every so many-th is kept and those between are made again, so that about 2 sqrt(L) are there.
        """
        with np.errstate(divide="ignore"):
            table = np.log(self._tables.end.astype(np.float64))
        stride = math.isqrt(self.length) + 1
        kept = {self.length: table}
        for position in range(self.length - 1, 0, -1):
            table = self._before(table, log_share[position])
            if position % stride == 0:
                kept[position] = table
        for start in range(0, self.length, stride):
            end = min(start + stride, self.length)
            between = [kept[end]]
            for position in range(end - 1, start, -1):
                between.append(self._before(between[-1], log_share[position]))
            yield from reversed(between)

    def _before(self, table: np.ndarray, log_share: np.ndarray) -> np.ndarray:
        total = np.full_like(table, -np.inf)
        for base in np.flatnonzero(np.isfinite(log_share)):
            columns = self._tables.counts[IS_GC[base]]
            total = np.logaddexp(
                total, table[self._tables.leads_to[:, base]][:, columns] + log_share[base], out=total
            )
        return total

    def satisfied(self, codes: np.ndarray) -> np.ndarray:
        """Which sequences `[n, L]` uint8 obey all constraints: `[n]` bool; by comparing letters, not by tables."""
        good = np.ones(len(codes), bool)
        for _, obeys in self._checks(codes):
            good &= obeys
        return good

    def broken(self, sequence: np.ndarray) -> list[str]:
        """The options that one sequence `[L]` uint8 breaks."""
        return [name for name, obeys in self._checks(sequence[None]) if not obeys[0]]

    def _checks(self, codes: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        constraints = self.constraints
        bits = np.where(codes < 4, 1 << np.minimum(codes, 3), 0).astype(np.uint8)
        yield "letters", np.all(bits > 0, axis=1)
        if constraints.fixed:
            where = list(constraints.fixed)
            wanted = np.array([IUPAC[letter] for letter in constraints.fixed.values()], np.uint8)
            yield "--fixed", np.all(bits[:, where] & wanted > 0, axis=1)
        for motif in constraints.forbidden:
            found = np.zeros(len(codes), bool)
            for word in strands(motif):
                found |= _holds(bits, word)
            yield f"--forbid {named(motif)}", ~found
        least, most = constraints.gc_counts
        gc_count = ((codes == 1) | (codes == 2)).sum(axis=1)
        yield "--gc_min", gc_count >= least
        yield "--gc_max", gc_count <= most
        if longest := constraints.max_homopolymer:
            same = np.ones([len(codes), max(self.length - longest, 0)], bool)
            for offset in range(longest):
                end = offset + same.shape[1]
                same &= codes[:, offset:end] == codes[:, offset + 1 : end + 1]
            yield "--max_homopolymer", ~np.any(same, axis=1)


def _holds(bits: np.ndarray, word: Sequence[int]) -> np.ndarray:
    """Which sequences hold the word: `[n]` bool.

    Args:
        bits: base sets `[n, L]` uint8 with one bit or none.
        word: base sets.
    """
    room = max(bits.shape[1] - len(word) + 1, 0)
    found = np.ones([len(bits), room], bool)
    for offset, bases in enumerate(word):
        found &= bits[:, offset : offset + room] & bases > 0
    return np.any(found, axis=1)
