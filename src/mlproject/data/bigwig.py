"""Values of a bigWig file, read block by block with NumPy; what a damaged file says is checked, never trusted.

The format (Kent et al. 2010, https://doi.org/10.1093/bioinformatics/btq351, supplement): a header, a B+ tree of
chromosome names, an R-tree that tells in which blocks a stretch lies, and blocks, mostly ZLIB streams, of records
`start, end, value` (bedGraph), `start, value` (variableStep) or `value` (fixedStep).

Nothing of a file is kept but its chromosomes, and it is opened for each reading: memory does not grow with what was
read, and there may be more tracks than a process may have open files. pyBigWig takes longer and crashes on some
damaged files; pybigtools is faster only at the second reading, from up to 5,000 inflated blocks that it keeps.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from zlib_ng import zlib_ng

# what reading a file may raise; its stub calls the last one a value
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, struct.error, zlib_ng.error)  # type: ignore[assignment]
MAGIC = {b"\x26\xfc\x8f\x88": "<", b"\x88\x8f\xfc\x26": ">"}  # first bytes to order of bytes
_NAMES_MAGIC = 0x78CA8C91
_INDEX_MAGIC = 0x2468ACE0
_WORDS = {1: 3, 2: 2, 3: 1}  # of 4 bytes in a record: bedGraph, variableStep, fixedStep
_BUFFER = 1 << 20  # bytes: a block that inflates to more takes longer
_ABSENT = np.float32("nan").view(np.uint32)
_NODE = 4  # bytes before the entries of a node of either tree


class Chromosome(NamedTuple):
    """A chromosome of one file: its number there, and its length in bp."""

    number: int
    length: int


# files of one genome share their table: of thousands of tracks, tables would be most of what is kept
_tables: dict[tuple, dict[str, Chromosome]] = {}


class BigWig:
    """Random access to the values of one file.

    Attributes: `chromosomes` by name, in the order of the file; `empty`, whether no position has a value.

    Args:
      path: the file.

    Raises:
      one of `DAMAGED`: it cannot be read, or is not a bigWig.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        with _Pieces(path) as file:
            raw = file.read(0, 64)
            if raw[:4] not in MAGIC:
                raise ValueError("it is not a bigWig")
            self._order = MAGIC[raw[:4]]
            names_at, _, self._index_at = struct.unpack_from(self._order + "QQQ", raw, 8)
            (self._inflated,) = struct.unpack_from(self._order + "I", raw, 52)
            chromosomes = dict(self._names(file, names_at))
            self.chromosomes = _tables.setdefault(tuple(chromosomes.items()), chromosomes)
            self.empty = not self._index_at
            if not self.empty:
                index = file.read(self._index_at, 48 + _NODE)
                if struct.unpack_from(self._order + "I", index)[0] != _INDEX_MAGIC:
                    raise ValueError("it has no index")
                self.empty = not struct.unpack_from(self._order + "H", index, 50)[0]

    def values(self, chrom: str, start: int, end: int) -> np.ndarray:
        """The value at each position, `[end - start]` float32, NaN where the file has none.

        Raises:
          one of `DAMAGED`: the file is damaged there, or has not this chromosome or stretch.
        """
        number, length = self.chromosomes.get(chrom, (0, 0))
        if not 0 <= start < end <= length:
            raise ValueError(f"its {chrom} has {length} bp")
        changes = np.zeros(end - start + 1, np.uint32)
        changes[0] = _ABSENT
        done = 0
        with _Pieces(self.path) as file:
            for at, size in self._blocks(file, number, start, end):
                records = self._records(file.read(at, size), number)
                if records is not None:
                    done = _add(changes, start, *records, done)
        np.bitwise_xor.accumulate(changes, out=changes)
        return changes[:-1].view(np.float32)

    def _names(self, file: "_Pieces", at: int) -> Iterator[tuple[str, Chromosome]]:
        magic, _, key, value, _ = struct.unpack(self._order + "IIIIQ", file.read(at, 24))
        if magic != _NAMES_MAGIC or value != 8:
            raise ValueError("it has no names of chromosomes")
        ahead, seen = [at + 32], {at + 32}
        while ahead:
            is_leaf, raw = self._node(file, ahead.pop(), key + 8, key + 8)
            for place in range(0, len(raw), key + 8):
                name, rest = raw[place : place + key], raw[place + key : place + key + 8]
                if is_leaf:
                    entry = Chromosome(*struct.unpack(self._order + "II", rest))
                    yield name.rstrip(b"\0").decode(), entry
                else:
                    self._descend(struct.unpack(self._order + "Q", rest)[0], ahead, seen)

    def _blocks(self, file: "_Pieces", chrom: int, start: int, end: int) -> list[tuple[int, int]]:
        """Place and size of each block that may have values of the stretch, in the order of the file."""
        if self.empty:
            return []
        ahead, seen = [self._index_at + 48], {self._index_at + 48}
        found: list[tuple[int, int]] = []
        low, high = chrom << 32 | start, chrom << 32 | end
        while ahead:
            is_leaf, raw = self._node(file, ahead.pop(), 32, 24)
            words = np.frombuffer(raw, self._order + "u4").reshape(-1, 8 if is_leaf else 6).astype(np.uint64)
            first, last = words[:, 0] << 32 | words[:, 1], words[:, 2] << 32 | words[:, 3]
            rows = np.flatnonzero((first < high) & (last > low))
            places = np.frombuffer(raw, self._order + "u8").reshape(len(words), -1)[rows, 2:].tolist()
            if is_leaf:
                found += places
            else:
                for (place,) in places:
                    self._descend(place, ahead, seen)
        return sorted(found)

    def _node(self, file: "_Pieces", at: int, leaf_size: int, size: int) -> tuple[bool, bytes]:
        """Whether this node of a tree is a leaf, and the bytes of its entries."""
        is_leaf, _, count = struct.unpack(self._order + "BBH", file.read(at, _NODE))
        return bool(is_leaf), file.read(at + _NODE, count * (leaf_size if is_leaf else size))

    @staticmethod
    def _descend(place: int, ahead: list[int], seen: set[int]) -> None:
        if place in seen:
            raise ValueError("its index leads in a circle")
        seen.add(place)
        ahead.append(place)

    def _records(self, raw: bytes, chrom: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Starts, ends and bits of values, uint32, of a block's records; None if it has none of `chrom`."""
        if self._inflated:
            raw = zlib_ng.decompress(raw, bufsize=min(self._inflated, _BUFFER))
        number, start, _, step, span, kind, _, count = struct.unpack_from(self._order + "IIIIIBBH", raw)
        if number != chrom or not count:
            return None
        if kind not in _WORDS:
            raise ValueError(f"a block is of kind {kind}")
        words = np.frombuffer(raw, self._order + "u4", count * _WORDS[kind], 24).reshape(count, -1)
        if kind == 1:
            return words[:, 0], words[:, 1], words[:, 2]
        # what a damaged block makes overflow is found not to be in order
        steps = np.uint32(step) * np.arange(count, dtype=np.uint32)
        starts = words[:, 0] if kind == 2 else np.uint32(start) + steps
        return starts, starts + np.uint32(span), words[:, -1]


def _add(
    changes: np.ndarray, first: int, starts: np.ndarray, ends: np.ndarray, bits: np.ndarray, done: int
) -> int:
    """Add records, none of which may start before `done`, to `changes`; returns the end of the last.

    `changes` has for each position from `first` on how the bits of its value differ from those of the one before.
    Summing these up takes a third of the time of repeating each value, since lengths of records are not to be
    foreseen, and processors wait where they guess wrong.
    """
    if starts[0] < done or (starts >= ends).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError("records overlap or are not in order")
    done, last = int(ends[-1]), first + changes.size - 1
    if starts[0] < first or done > last:
        inside = slice(np.searchsorted(ends, first, "right"), np.searchsorted(starts, last))
        starts, ends, bits = starts[inside].clip(first), ends[inside].clip(max=last), bits[inside]
        if not bits.size:
            return done
    at, end = starts.astype(np.int64) - first, ends.astype(np.int64) - first
    changes[at[0]] ^= bits[0] ^ _ABSENT
    changes[end[-1]] ^= bits[-1] ^ _ABSENT
    if np.array_equal(at[1:], end[:-1]):
        changes[at[1:]] = bits[1:] ^ bits[:-1]
    else:
        changes[at[1:]] = bits[1:] ^ _ABSENT
        changes[end[:-1]] ^= bits[:-1] ^ _ABSENT
    return done


class _Pieces:
    """Pieces of an open file, whole or not at all."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> "_Pieces":
        self._size = os.fstat(self._handle).st_size
        return self

    def __exit__(self, *_) -> None:
        os.close(self._handle)

    def read(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise ValueError("it ends early")
        raw = os.pread(self._handle, size, at)
        if len(raw) < size:
            raise ValueError("it ends early")
        return raw
