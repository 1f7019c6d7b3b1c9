"""Which letters may follow what has been written, so that it can still be completed: an automaton and a table.

What has been written matters for the rest in two ways: by the beginnings of forbidden words that it ends with (a
state of the automaton) and by how many G and C it has. So whether the rest can be completed is a table over position,
state and count, filled from the right: exact, and small.

Shapes: L positions, S states, W counts of G and C that are told apart. A set of bases is an int with one bit for each:
A 1, C 2, G 4, T 8.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlproject.errors import InputError

IS_GC = np.array([0, 1, 1, 0])  # of A, C, G, T

_MOST_STATES = 50_000


def automaton(words: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Where each letter leads from each state: `[S + 1, 4]` int32; 0 is the start, S that a word has been completed.

    A state is the set of beginnings of words that what was written ends with, one bit for each letter of each word
    (shift-and, Baeza-Yates and Gonnet 1992), so that letters for several bases need no list of all words. For words
    of A, C, G and T alone, states are those of Aho and Corasick.

    Raises:
        InputError: there are too many states.
    """
    first = last = offset = 0
    accepts = [0, 0, 0, 0]
    for word in words:
        first |= 1 << offset
        for place, bases in enumerate(word, offset):
            for base in range(4):
                accepts[base] |= (bases >> base & 1) << place
        offset += len(word)
        last |= 1 << (offset - 1)
    numbers, rows = {0: 0}, []
    queue = [0]
    for reached in queue:  # it grows meanwhile
        row = []
        for base in range(4):
            # What shifts out of one word into the next is the first letter of that, and set anyway.
            new = (reached << 1 | first) & accepts[base]
            if new & last:
                row.append(-1)
                continue
            if new not in numbers:
                numbers[new] = len(numbers)
                queue.append(new)
            row.append(numbers[new])
        rows.append(row)
        if len(numbers) > _MOST_STATES:
            raise InputError(
                f"--forbid: the motifs have more than {_MOST_STATES} combinations of beginnings; forbid fewer, or such "
                "with fewer letters for several bases"
            )
    rows.append([-1] * 4)
    table = np.array(rows, np.int32)
    return np.where(table < 0, len(rows) - 1, table).astype(np.int32)


class Tables(NamedTuple):
    """What the dynamic programming runs on; W counts of G and C are told apart."""

    free: np.ndarray  # [L, 4] bool, which letters fixed ones leave
    leads_to: np.ndarray  # [S + 1, 4] int32
    counts: np.ndarray  # [2, W] int32: the count after a letter that is A or T, and one that is G or C
    end: np.ndarray  # [S + 1, W] bool, where a sequence may end


def make_tables(free: np.ndarray, words: Sequence[tuple[int, ...]], least: int, most: int) -> Tables:
    """The tables of sequences that hold none of the words, and `least` to `most` G and C.

    Args:
        free: `[L, 4]` bool, the letters that each position may have.
        words: sets of bases.

    Raises:
        InputError: as `automaton`.
    """
    leads_to = automaton(words)
    if least <= 0 and most >= len(free):
        width = 1  # they need not be counted
        end = np.ones([len(leads_to), 1], bool)
    else:
        width = max(most, 0) + 2  # the last is: too many
        end = np.zeros([len(leads_to), width], bool)
        end[:, least : most + 1] = True
    end[-1] = False
    count = np.arange(width, dtype=np.int32)
    counts = np.stack([count, np.minimum(count + 1, width - 1)])
    return Tables(free, leads_to, counts, end)


def completable(tables: Tables) -> Iterator[np.ndarray]:
    """For position L down to 0, whether what follows can be written: `[S + 1, W]` bool."""
    table = tables.end
    yield table
    for free in tables.free[::-1]:
        before = np.zeros_like(table)
        for base in np.flatnonzero(free):
            before |= table[tables.leads_to[:, base]][:, tables.counts[IS_GC[base]]]
        table = before
        yield table


def draw(logits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Letters `[n]` uint8 with probabilities softmax of `logits` `[n, 4]`, -inf for never.

    Args:
        logits: not all of a row -inf.
        numbers: `[n]`, uniform from 0 to below 1; each chooses one letter.
    """
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).cumsum(axis=1)
    # Where the share of a last letter is 0, rounding must not choose it: so to below the total, not to it.
    wanted = np.minimum(numbers * total[:, -1], np.nextafter(total[:, -1], 0))
    return (total <= wanted[:, None]).sum(axis=1).astype(np.uint8)
