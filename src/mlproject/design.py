"""Sequences with a wanted activity: written by a model, or improved step by step for one; and what they are like.

Models are plain functions on NumPy arrays. No state is kept outside of a call, and all chance is a pure function of
the seed, so that a call that was interrupted is begun again with the same answer.

Shapes: n sequences, L positions. Base codes are uint8: A 0, C 1, G 2, T 3, 4 for N, 5 for a letter not known yet.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from enformer_core import dna
from enformer_core.dna import MASKED
from mlproject.automaton import draw
from mlproject.constraints import Plan
from mlproject.data.files import read_lines
from mlproject.errors import InputError

Logits = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of codes `[b, L]` uint8 with MASKED and targets `[b]` float32, NaN for none, the logits `[b, L, 4]` of letters."""
Predict = Callable[[np.ndarray], np.ndarray]
"""Of codes `[b, L]` uint8 the activity `[b]`."""


# --- written by a model -------------------------------------------------------------------------------------------


def sample(
    logits: Logits,
    plan: Plan,
    targets: np.ndarray,
    *,
    temperature: float,
    seed: int,
    batch_size: int,
    step: int = 1,
    guidance: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Sequences that a model writes for targets: `[n, L]` uint8, which obey all constraints.

    All letters but those that are given begin as masked; the model sees given ones on both sides from the start.
    Masked positions are revealed from left to right, not the surest first: so the plan can promise that each
    beginning is completed, and a motif is written in one go, by a model that sees the letters of it so far.

    The letter at one position of one sequence depends on the seed, its number and the model alone, not on the batch.

    Args:
        logits: the model; each call has the same number of rows, the last ones filled up.
        plan: what sequences obey.
        targets: `[n]`, the wanted activity of each, in the units of the model.
        temperature: letters are drawn from softmax(logits / temperature) among those that are allowed; 0 takes the
            most likely one.
        seed: not below 0.
        batch_size: rows of a call at most.
        step: positions revealed by one call; more is faster, and they do not see each other.
        guidance: how far logits are moved away from those without a target, as (1 + guidance) * with - guidance *
            without (Ho and Salimans 2022); other than 0, the model is called twice.
        progress: called after each round with positions revealed and all to be revealed.

    Raises:
        InputError: a value out of range, a target that is no number, or logits that are not finite.
    """
    _check(seed=seed, temperature=temperature, batch_size=batch_size)
    if step < 1:
        raise InputError(f"--step: found {step}; it must be 1 or more")
    targets = _numbers(targets)
    known = plan.known
    codes = np.tile(np.where(known < 4, known, MASKED).astype(np.uint8), [len(targets), 1])
    masked = np.flatnonzero(known >= 4)
    numbers = np.stack(
        [np.random.default_rng((seed, number)).random(plan.length) for number in range(len(codes))]
    )
    state, gc_count = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
    written = 0
    for first in range(0, len(masked), step):
        positions = masked[first : first + step]
        found = _logits_at(logits, codes, targets, positions, batch_size, guidance)
        for position in range(written, positions[-1] + 1):
            if known[position] >= 4:
                allowed = plan.allowed(state, gc_count, position)
                column = np.where(allowed, found[:, position - positions[0]], -np.inf)
                codes[:, position] = _chosen(column, temperature, numbers[:, position])
            state, gc_count = plan.advance(state, gc_count, codes[:, position])
        written = positions[-1] + 1
        if progress is not None:
            progress(first + len(positions), len(masked))
    return codes


def _logits_at(
    logits: Logits,
    codes: np.ndarray,
    targets: np.ndarray,
    positions: np.ndarray,
    batch_size: int,
    guidance: float,
) -> np.ndarray:
    """The logits from the first to the last of positions: `[n, last - first + 1, 4]` float64."""
    where = slice(positions[0], positions[-1] + 1)
    found = _batched(lambda *rows: logits(*rows)[:, where], batch_size, codes, targets)
    if guidance:
        nothing = np.full_like(targets, np.nan)
        without = _batched(lambda *rows: logits(*rows)[:, where], batch_size, codes, nothing)
        found = (1 + guidance) * found - guidance * without
    if not np.isfinite(found).all():
        raise InputError(
            f"the model's logits at position {positions[0]} (from 0) are not finite; it cannot write sequences: "
            "choose another model"
        )
    return found


def _chosen(logits: np.ndarray, temperature: float, numbers: np.ndarray) -> np.ndarray:
    """Letters `[n]` uint8 by logits `[n, 4]`, -inf for never, and uniform numbers `[n]`."""
    if not temperature:
        return logits.argmax(axis=1).astype(np.uint8)
    with np.errstate(
        over="ignore"
    ):  # a low temperature may make anything but the most likely letter impossible
        return draw((logits - logits.max(axis=1, keepdims=True)) / temperature, numbers)


def _batched(function: Callable[..., np.ndarray], batch_size: int, *arrays: np.ndarray) -> np.ndarray:
    """What `function` says of all rows, as float64; it is called with rows of one number, the last filled up.

    So a compiled function sees one shape, and a row is computed in the same way wherever it is.
    """
    rows = len(arrays[0])
    parts = []
    for start in range(0, rows, batch_size):
        chosen = np.minimum(np.arange(start, start + batch_size), rows - 1)
        answer = np.asarray(function(*(array[chosen] for array in arrays)), np.float64)
        parts.append(answer[: rows - start])
    return np.concatenate(parts)


# --- improved step by step ----------------------------------------------------------------------------------------


class Evolved(NamedTuple):
    """The best sequences that were seen, and the way there."""

    codes: np.ndarray
    """`[n, L]` uint8."""
    predicted: np.ndarray
    """`[n]` float64, activity by the function they were chosen by, in its units."""
    history: np.ndarray
    """`[rounds + 1]` float64, the mean absolute distance of predicted activity to target, at the start and after each
    round, of the sequences that the round ends with."""


def evolve(
    predict: Predict,
    plan: Plan,
    targets: np.ndarray,
    start: np.ndarray,
    *,
    rounds: int,
    proposals: int,
    mutations: int = 3,
    temperature: float = 0.0,
    seed: int,
    batch_size: int,
    crossover: float = 0.2,
    shifts: float = 0.1,
    progress: Callable[[int], None] | None = None,
) -> Evolved:
    """Sequences that are changed as long as their predicted activity comes nearer to the target.

    In each round every sequence has `proposals` mutants: most with 1 to `mutations` letters changed, some with a
    stretch of another sequence at the same positions, some with a stretch moved by one letter. Given letters never
    change, and a mutant that breaks a constraint is dropped. The mutant that is predicted nearest to the target takes
    the place of the sequence if it is nearer; with a temperature also, by chance, if it is not (Metropolis).

    Args:
        predict: the model; each call has the same number of rows, the last ones filled up.
        plan: what sequences obey.
        targets: `[n]`, the wanted activity of each, in the units of the model.
        start: `[n, L]` uint8, which obey the constraints.
        rounds: 0 or more.
        proposals: mutants of a sequence in a round.
        mutations: letters of a mutant that are changed at most.
        temperature: in the units of activity; a mutant that is d further away is taken with probability
            exp(-d / temperature). 0: never.
        seed: not below 0.
        batch_size: rows of a call at most.
        crossover: share of mutants with a stretch of another sequence; none where there is one only.
        shifts: share of mutants with a stretch moved.
        progress: called with the number of each round that is done, from 1.

    Raises:
        InputError: a value out of range, a target that is no number, a start that breaks a constraint, or
            one whose prediction is not finite.
    """
    _check(seed=seed, temperature=temperature, batch_size=batch_size)
    for name, value, least in (
        ("rounds", rounds, 0),
        ("proposals", proposals, 1),
        ("mutations", mutations, 1),
    ):
        if value < least:
            raise InputError(f"--{name}: found {value}; it must be {least} or more")
    for name, share in (("crossover", crossover), ("shifts", shifts)):
        if not 0 <= share <= 1 - (crossover if name == "shifts" else 0):
            raise InputError(
                f"--{name}: found {share:g}; it must be 0 or more, and both shares together 1 or less"
            )
    targets = _numbers(targets)
    _check_start(plan, start, len(targets))
    codes = start.astype(np.uint8)
    predicted = _batched(predict, batch_size, codes)
    distance = _distance(predicted, targets)
    if not np.isfinite(distance).all():
        raise InputError(
            f"the model predicts no finite activity of {np.isinf(distance).sum()} of {len(codes)} start sequences; "
            "choose another model"
        )
    best, best_predicted, best_distance = codes.copy(), predicted.copy(), distance.copy()
    history = [distance.mean()]
    first = np.arange(len(codes)) * proposals
    for round_number in range(1, rounds + 1):
        rng = np.random.default_rng((seed, round_number))
        mutants = _mutants(codes, plan, rng, proposals, mutations, crossover, shifts)
        chance = rng.random(len(codes))
        good = np.flatnonzero(plan.satisfied(mutants))
        if len(good):
            of_mutants = np.full(len(codes) * proposals, np.nan)
            of_mutants[good] = _batched(predict, batch_size, mutants[good])
            distances = _distance(of_mutants, np.repeat(targets, proposals)).reshape(-1, proposals)
            chosen = first + distances.argmin(axis=1)
            new = distances.min(axis=1)
            taken = new < distance
            if temperature:
                with np.errstate(over="ignore"):
                    taken |= chance < np.exp(-np.maximum(new - distance, 0) / temperature)
            codes = np.where(taken[:, None], mutants[chosen], codes)
            predicted = np.where(taken, of_mutants[chosen], predicted)
            distance = np.where(taken, new, distance)
            better = distance < best_distance
            best[better], best_predicted[better] = codes[better], predicted[better]
            best_distance = np.minimum(best_distance, distance)
        history.append(distance.mean())
        if progress is not None:
            progress(round_number)
    return Evolved(best, best_predicted, np.array(history))


def _mutants(
    codes: np.ndarray,
    plan: Plan,
    rng: np.random.Generator,
    proposals: int,
    mutations: int,
    crossover: float,
    shifts: float,
) -> np.ndarray:
    """Changed copies, those of one sequence together, with given letters in place: `[n * proposals, L]` uint8."""
    n, length = codes.shape
    count = n * proposals
    position, row = np.arange(length), np.arange(count)
    known = plan.known
    mutants = np.repeat(codes, proposals, axis=0)
    kind = rng.random(count)
    is_crossed = kind < (crossover if n > 1 else 0)
    is_shifted = ~is_crossed & (kind < crossover + shifts)
    # Where a stretch begins and ends, with both ends in it.
    ends = np.sort(rng.integers(length, size=[count, 2]), axis=1)
    direction = rng.choice([-1, 1], size=[count, 1])
    other = rng.integers(max(n - 1, 1), size=count)
    other += other >= row // proposals  # not itself

    free = np.flatnonzero(known >= 4)
    if len(free):
        changes = np.where(is_crossed | is_shifted, 0, rng.integers(1, mutations + 1, size=count))
        for number in range(mutations):
            place = free[rng.integers(len(free), size=count)]
            letter = (mutants[row, place] + rng.integers(1, 4, size=count)) % 4
            mutants[row, place] = np.where(number < changes, letter, mutants[row, place])

    first, last = ends[is_crossed, :1], ends[is_crossed, 1:]
    inside = (first <= position) & (position <= last)
    mutants[is_crossed] = np.where(inside, codes[other[is_crossed]], mutants[is_crossed])

    # One letter on, or one back; what leaves the stretch at one end comes in at the other.
    first, last = ends[is_shifted, :1], ends[is_shifted, 1:]
    inside = (first <= position) & (position <= last)
    source = np.where(
        inside, first + (position - first + direction[is_shifted]) % (last - first + 1), position
    )
    mutants[is_shifted] = np.take_along_axis(mutants[is_shifted], source, axis=1)
    return np.where(known < 4, known, mutants)


def _distance(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How far predictions are from targets; what is not finite is infinitely far."""
    return np.where(np.isfinite(predicted), np.abs(predicted - targets), np.inf)


def _check(*, seed: int, temperature: float, batch_size: int) -> None:
    if seed < 0:
        raise InputError(f"--seed: found {seed}; it cannot be negative")
    if not 0 <= temperature < np.inf:
        raise InputError(f"--temperature: found {temperature:g}; it must be 0 (greedy) or more")
    if batch_size < 1:
        raise InputError(f"--batch_size: found {batch_size}; it must be 1 or more")


def _numbers(targets: np.ndarray) -> np.ndarray:
    targets = np.asarray(targets, np.float32)
    if targets.ndim != 1 or not len(targets) or not np.isfinite(targets).all():
        raise InputError(
            f"--target_activity: found {targets.tolist()}; expected one number for each sequence"
        )
    return targets


# --- where it starts ----------------------------------------------------------------------------------------------


def read_start(path: str | os.PathLike, length: int) -> np.ndarray:
    """The sequences of a file, `[n, length]` uint8: FASTA, or one sequence on each line; letters of either case.

    Raises:
        InputError: it cannot be read, is empty, or a sequence has another length or letters other than A, C, G and T;
            names the line.
    """
    sequences: list[tuple[int, str]] = []
    lines = read_lines(path, "start")
    is_fasta = bool(lines) and lines[0][1].startswith(">")
    for line, text in lines:
        if is_fasta and text.startswith(">"):
            sequences.append((line, ""))
        elif is_fasta:
            at, letters = sequences[-1]
            sequences[-1] = (at, letters + text.strip())
        else:
            sequences.append((line, text.strip()))
    if not sequences:
        raise InputError(f"start {path}: is empty; expected FASTA, or one sequence on each line")
    codes = []
    for line, letters in sequences:
        where = f"start {path}, line {line}"
        own = dna.codes(letters)
        if (own > 3).any():
            place = int(own.argmax())
            raise InputError(
                f"{where}: found {letters[place]!r} at position {place} (from 0) of the sequence, expected A, C, G or T"
            )
        if len(own) != length:
            raise InputError(
                f"{where}: a sequence of {len(own)} letters, expected {length}; change --length or the sequence"
            )
        codes.append(own)
    return np.stack(codes)


def _check_start(plan: Plan, start: np.ndarray, n: int) -> None:
    if start.shape != (n, plan.length):
        raise InputError(
            f"--start: found {len(start)} sequences of {start.shape[-1]} letters, expected {n} of {plan.length}"
        )
    bad = np.flatnonzero(~plan.satisfied(start))
    if len(bad):
        broken = ", ".join(plan.broken(start[bad[0]]))
        raise InputError(
            f"--start: {len(bad)} of {n} sequences break constraints, the first of them (number {bad[0] + 1}) "
            f"{broken}; change the sequences or the constraints"
        )


# --- what sequences are like --------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """Of each sequence, the one of others that is the fewest edits away; of equals the first."""

    neighbour: np.ndarray
    """`[n]` int64, its place among the others."""
    distance: np.ndarray
    """`[n]` int64, letters to insert, delete or change."""


def nearest(sequences: Sequence[str], training: Sequence[str]) -> Nearest:
    """The training sequence that is the fewest edits away from each sequence, and how many those are; exact.

    It takes about 2 microseconds for each pair of 150 letters, and no memory.

    Raises:
        InputError: there is no training sequence.
    """
    if not len(training):
        raise InputError("no training sequences to compare with; expected at least one")
    neighbour, distance = np.zeros(len(sequences), np.int64), np.zeros(len(sequences), np.int64)
    for number, sequence in enumerate(sequences):
        # With a function of distance the least is looked for, and what is further than the best so far is left early.
        _, distance[number], neighbour[number] = process.extractOne(
            sequence, training, scorer=Levenshtein.distance
        )
    return Nearest(neighbour, distance)


class Diversity(NamedTuple):
    """How different sequences are from each other."""

    hamming: float
    """Mean over pairs of the share of positions at which they differ; NaN of fewer than two."""
    distinct: int
    """How many different ones there are."""


def diversity(codes: np.ndarray) -> Diversity:
    """How different the sequences `[n, L]` uint8 are from each other."""
    n, length = codes.shape
    pairs = n * (n - 1) / 2
    if not pairs:
        return Diversity(float("nan"), n)
    same = sum(
        float((count * (count - 1.0) / 2).sum())
        for count in ((codes == base).sum(axis=0) for base in np.unique(codes))
    )
    return Diversity(1 - same / (pairs * length), len(np.unique(codes, axis=0)))
