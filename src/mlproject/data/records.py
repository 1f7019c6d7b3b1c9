"""The one dataset format: Basenji's folder of TFRecord shards, `statistics.json` and `targets.txt`.

    DATA/ORGANISM/statistics.json    sizes and counts (`Statistics`)
    DATA/ORGANISM/targets.txt        one row per track (`targets.read_targets`)
    DATA/ORGANISM/sequences.bed      chrom, start, end, subset of each window, in the order of the records
    DATA/ORGANISM/tfrecords/SUBSET-N.tfr
    DATA/ORGANISM/manifest.json      sha256, bytes and records of each shard; datasets built here have it

A record has two features: `sequence`, the raw bytes of a `[seq_length, 4]` bool (order A C G T; N is a row of
False), and `target`, the raw bytes of a `[target_length, num_targets]` float16. The newer Baskerville records
write `sequence` as `[seq_length]` uint8 (0 to 3, 4 = N); the number of bytes tells which.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from enformer_core.dna import ONE_HOT
from mlproject.data.files import explained, read_text, write_whole
from mlproject.data.genome import Interval, name_some, read_bed
from mlproject.data.targets import read_targets
from mlproject.data.tfrecord import decode_example, encode_example, read_records, write_records
from mlproject.errors import InputError

SUBSETS = ("train", "valid", "test")
_MOST_NAMED = 30  # chromosomes, in words
_MANY_SHARDS = 32  # checking as many shows a bar
_CHECK = 2  # of what is remembered of a check: higher where one looks for more
_AGAIN = "copy the dataset again, or remove it and build it again"
_ONE_HOT_WORDS = ONE_HOT.astype(bool).view(np.uint32).ravel()  # four bools in one, taken at once


class Example(NamedTuple):
    """One window: base codes `[L]` uint8 (A C G T = 0 to 3, N = 4) and `target` `[bins, tracks]` float16."""

    sequence: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """What `statistics.json` says; lengths in bp except `target_length`, which counts bins of `pool_width`
    bp.

    `extras` keeps every other entry of the file.
    """

    num_targets: int
    seq_length: int
    target_length: int
    pool_width: int
    crop_bp: int = 0
    train_seqs: int = 0
    valid_seqs: int = 0
    test_seqs: int = 0
    extras: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Statistics":
        """Read and check the file.

        Raises:
          InputError: it is absent, not JSON, or an entry is missing or not a sensible number.
        """
        text = read_text(path, "statistics")
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"statistics {path}: is not JSON.") from None
        if not isinstance(raw, dict):
            raise InputError(f"statistics {path}: expected a JSON object, found {type(raw).__name__}.")
        values = {}
        cropped = "crop_bp" in raw
        for entry in fields(cls):
            if entry.name == "extras":
                continue
            required = entry.name in ("num_targets", "seq_length", "target_length", "pool_width")
            if entry.name not in raw:
                if required:
                    raise InputError(f"statistics {path}: has no entry {entry.name!r}.")
                continue
            value = raw.pop(entry.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < required:
                raise InputError(f"statistics {path}: {entry.name} is {value!r}, expected a whole number.")
            values[entry.name] = value
        statistics = cls(**values, extras=raw)
        bins, width, crop = statistics.target_length, statistics.pool_width, statistics.crop_bp
        covered = bins * width + 2 * crop
        if covered > statistics.seq_length or (cropped and covered < statistics.seq_length):
            raise InputError(
                f"statistics {path}: target_length {bins} x pool_width {width} + 2 x crop_bp {crop} is "
                f"{covered} bp, but seq_length is {statistics.seq_length}; one of the four is wrong."
            )
        return statistics

    def write(self, path: str | os.PathLike) -> None:
        """Write the file; `extras` become entries of their own."""
        values = asdict(self)
        extras = values.pop("extras")
        Path(path).write_text(json.dumps(values | extras, indent=2) + "\n", encoding="utf-8")

    def count(self, subset: str) -> int:
        """Windows of a subset."""
        return int(getattr(self, f"{subset}_seqs"))


@dataclass(frozen=True, eq=False)
class TrackDataset:
    """One organism of a dataset folder: where it is, what it holds, and where its shards are."""

    folder: Path
    organism: str
    statistics: Statistics
    targets: pd.DataFrame
    manifest: dict[str, dict[str, Any]]  # shard name -> sha256, bytes, records; empty for published data

    @property
    def path(self) -> Path:
        """The organism's own folder."""
        return self.folder / self.organism

    def shards(self, subset: str) -> list[Path]:
        """The subset's shards in the order of their numbers (2 before 10).

        Raises:
          InputError: unknown subset, no shards, or the manifest and the folder disagree.
        """
        if subset not in SUBSETS:
            raise InputError(f"subset {subset!r} is unknown; there are {', '.join(SUBSETS)}.")
        found = sorted(
            (self.path / "tfrecords").glob(f"{subset}-*.tfr"),
            key=lambda shard: [int(number) for number in re.findall(r"\d+", shard.name)],
        )
        names = {shard.name for shard in found}
        listed = {name for name in self.manifest if name.startswith(f"{subset}-")}
        if self.manifest and listed != names:
            wrong = min(listed ^ names)
            here, there = (
                ("manifest.json", "tfrecords/") if wrong in listed else ("tfrecords/", "manifest.json")
            )
            raise InputError(f"{self.path}: {wrong} is in {here} but not in {there}; {_AGAIN}.")
        if not found:
            raise InputError(f"{self.path / 'tfrecords'}: has no shard named {subset}-N.tfr.")
        return found

    def count(self, subset: str) -> int:
        """Windows of the subset, from `statistics.json`."""
        if subset not in SUBSETS:
            raise InputError(f"subset {subset!r} is unknown; there are {', '.join(SUBSETS)}.")
        return self.statistics.count(subset)

    def head_bins(self, bin_size: int = 128) -> int:
        """Bins per window when the stored bins are pooled to `bin_size` bp.

        Raises:
          InputError: the stored bins do not make up whole bins of `bin_size`.
        """
        width, length = self.statistics.pool_width, self.statistics.target_length
        if bin_size % width or length * width % bin_size:
            raise InputError(
                f"{self.path}: {length} bins of {width} bp cannot be pooled to whole bins of {bin_size} bp."
            )
        return length * width // bin_size

    def places(self, subset: str) -> list[Interval]:
        """Where the windows of a subset are, in the order of the records; empty where `sequences.bed` does not say.

        Raises:
          InputError: the file is damaged, or has another number of windows.
        """
        path = self.path / "sequences.bed"
        if not path.exists():
            return []
        regions = read_bed(path, {}, SUBSETS, other_chromosomes=True)
        found = [interval for interval, label in regions if label == subset]
        if len(found) != self.count(subset):
            raise InputError(
                f"{path}: has {len(found)} {subset} windows, statistics.json says {self.count(subset)}; {_AGAIN}."
            )
        return found

    def describe(self, subset: str) -> str:
        """The windows of a subset in words, such as `92 windows of 6,144 bp on chr1 (40), chr2 (52)`."""
        counts = Counter(chrom for chrom, _, _ in self.places(subset))
        words = f"{self.count(subset):,} windows of {self.statistics.seq_length:,} bp"
        some = [f"{chrom} ({count:,})" for chrom, count in counts.most_common(_MOST_NAMED)]
        if len(counts) > len(some):
            some.append(f"and {len(counts) - len(some)} other chromosomes")
        return f"{words} on {', '.join(some)}" if some else words

    @cached_property
    def digest(self) -> str:
        """sha256 over statistics, targets and manifest (or, without one, names and sizes of the shards)."""
        total = hashlib.sha256()
        for name in ("statistics.json", "targets.txt"):
            total.update((self.path / name).read_bytes())
        if self.manifest:
            total.update((self.path / "manifest.json").read_bytes())
        else:
            for shard in sorted((self.path / "tfrecords").glob("*.tfr")):
                with explained(f"{shard}: cannot be read"):
                    total.update(f"{shard.name} {shard.stat().st_size}\n".encode())
        return total.hexdigest()

    @cached_property
    def state(self) -> str:
        """sha256 that also changes when a shard is replaced by one of its size; for what is made of the windows.

        A manifest has the sha256 of each shard. Without one this is of their places, sizes and times of change, so
        that a copy has another.
        """
        if self.manifest:
            return self.digest
        total = hashlib.sha256(self.digest.encode())
        for shard in sorted((self.path / "tfrecords").glob("*.tfr")):
            with explained(f"{shard}: cannot be read"):
                found = shard.stat()
            total.update(f"{shard.resolve()} {found.st_size} {found.st_mtime_ns}\n".encode())
        return total.hexdigest()


def open_dataset(folder: str | os.PathLike, organism: str) -> TrackDataset:
    """Open `folder/organism` and check that its files agree with each other.

    Raises:
      InputError: the folder or organism is absent, a file is wrong, or rows of `targets.txt` are not
        `num_targets`.
    """
    check_organism(organism)
    folder = Path(folder)
    path = folder / organism
    with explained(f"data {folder}: cannot be read"):
        if not (path / "statistics.json").exists():
            there = sorted(entry.name for entry in folder.iterdir() if (entry / "statistics.json").exists())
            there = [name for name in there if not name.startswith(".")]
            if (folder / "statistics.json").exists():
                raise InputError(
                    f"data {folder}: is the folder of one organism; give its parent {folder.parent} as data "
                    f"and {folder.name} as the organism."
                )
            raise InputError(
                f"organism {organism!r} is not in {folder}; it has {', '.join(there) or 'no dataset'} "
                "(a dataset is a folder with statistics.json, targets.txt and tfrecords/)."
            )
    statistics = Statistics.read(path / "statistics.json")
    targets = read_targets(path / "targets.txt")
    if len(targets) != statistics.num_targets:
        raise InputError(
            f"{path}: targets.txt has {len(targets)} rows but num_targets of statistics.json "
            f"is {statistics.num_targets}."
        )
    manifest = _read_manifest(path / "manifest.json") if (path / "manifest.json").exists() else {}
    for subset in SUBSETS if manifest else ():
        total = sum(entry["records"] for name, entry in manifest.items() if name.startswith(f"{subset}-"))
        if total != statistics.count(subset):
            raise InputError(
                f"{path}: manifest.json counts {total} {subset} records, statistics.json "
                f"{statistics.count(subset)}; {_AGAIN}."
            )
    return TrackDataset(folder, organism, statistics, targets, manifest)


def check_organism(organism: str) -> None:
    """Refuse a name that is not that of a plain folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", organism):
        raise InputError(f"organism {organism!r}: use letters, digits, '_', '-' and '.'; it names a folder.")


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    text = read_text(path, "manifest")
    try:
        shards = json.loads(text)["shards"]
        for entry in shards.values():
            kinds = {name: type(entry[name]) for name in ("sha256", "bytes", "records")}
            if kinds != {"sha256": str, "bytes": int, "records": int}:
                raise ValueError(kinds)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: is damaged; {_AGAIN}.") from None
    return shards


def write_shard(path: str | os.PathLike, examples: Iterable[Example]) -> int:
    """Write one shard in the Basenji layout; returns the number of records."""
    return write_records(
        path,
        (
            encode_example(
                {
                    "sequence": _ONE_HOT_WORDS[np.minimum(sequence, 4)].tobytes(),
                    "target": np.ascontiguousarray(target, "<f2").tobytes(),
                }
            )
            for sequence, target in examples
        ),
    )


def read_shard(
    path: str | os.PathLike, statistics: Statistics, skip: Iterable[int] = ()
) -> Iterator[Example]:
    """The windows of one shard, in order; those whose number is in `skip` are passed over undecoded.

    Args:
      path: the shard, in either record layout.
      statistics: the dataset's sizes, which every record must have.
      skip: numbers of records, from 0, to leave out.

    Raises:
      InputError: the file is truncated or corrupt, or a record has other sizes; names the file.
    """
    skipped = set(skip)
    length, shape = statistics.seq_length, (statistics.target_length, statistics.num_targets)
    for number, record in enumerate(read_records(path)):
        if number in skipped:
            continue
        try:
            features = decode_example(record)
            sequence, target = features["sequence"], features["target"]
        except (ValueError, KeyError):
            raise InputError(f"{path}: record {number} has no features `sequence` and `target`.") from None
        if len(target) != 2 * shape[0] * shape[1]:
            raise InputError(
                f"{path}: target of record {number} has {len(target)} bytes; statistics.json says "
                f"{shape[0]} bins x {shape[1]} targets x 2 = {2 * shape[0] * shape[1]}."
            )
        codes = _sequence_codes(sequence, length)
        if codes is None:
            raise InputError(
                f"{path}: sequence of record {number} has {len(sequence)} bytes or other values, "
                f"neither {length} base codes nor a one-hot of {length} x 4 (seq_length of statistics.json)."
            )
        yield Example(codes, np.frombuffer(target, "<f2").reshape(shape))


def read_finite(dataset: TrackDataset, shard: Path, skip: Iterable[int] = ()) -> Iterator[Example]:
    """The windows of a shard of the dataset, but for the record numbers of `skip`.

    Raises:
      InputError: as `read_shard`; or a target is NaN or infinite: names the shard and the track.
    """
    for example in read_shard(shard, dataset.statistics, skip):
        # Exponents of ones only are infinite or NaN; comparing bits takes a tenth of the time of np.isfinite.
        if (example.target.view("<u2") & 0x7FFF).max() >= 0x7C00:
            row = dataset.targets.iloc[int(np.argmin(np.isfinite(example.target).all(axis=0)))]
            raise InputError(
                f"{shard}: the target of track {row['index']} ({row['identifier']}, {row['description']}) "
                "is NaN or infinite; rebuild the dataset without it."
            )
        yield example


def _sequence_codes(raw: memoryview, length: int) -> np.ndarray | None:
    if len(raw) == length:
        codes = np.frombuffer(raw, np.uint8)
        return codes if codes.max() <= 4 else None
    if len(raw) != 4 * length:
        return None
    hot = np.frombuffer(raw, np.uint8).reshape(length, 4)
    total = hot[:, 0] + hot[:, 1] + hot[:, 2] + hot[:, 3]
    if hot.max() > 1 or total.max() > 1:
        return None
    return hot[:, 1] + 2 * hot[:, 2] + 3 * hot[:, 3] + 4 * (1 - total)


def verify(
    dataset: TrackDataset, work_dir: str | os.PathLike = "work", subsets: Iterable[str] = SUBSETS
) -> None:
    """Check every shard once: complete, undamaged, with finite targets, as many windows as promised.

    Sizes are always compared. The full reading is remembered in `work_dir/verified.json` under the shard's
    size and time of change and the dataset's sizes, so that a second call is quick.

    Raises:
      InputError: names the shard.
    """
    for subset in subsets:
        if dataset.count(subset) == 0 and not any((dataset.path / "tfrecords").glob(f"{subset}-*.tfr")):
            continue
        counts = shard_counts(dataset, subset, work_dir, full=True)
        if sum(counts) != dataset.count(subset):
            raise miscounted(dataset, subset, counts)


def miscounted(dataset: TrackDataset, subset: str, counts: Sequence[int]) -> InputError:
    """What to say where the shards of a subset hold `counts` windows, which is not what was promised."""
    shards = sorted(zip(counts, dataset.shards(subset), strict=True), key=lambda pair: counts.count(pair[0]))
    return InputError(
        f"{dataset.path}: the {subset} shards hold {sum(counts)} windows, statistics.json says "
        f"{dataset.count(subset)}; a shard is missing, cut or not of this dataset "
        f"(windows per shard, odd ones first: {name_some([f'{shard.name} {n}' for n, shard in shards])})."
    )


def shard_counts(
    dataset: TrackDataset, subset: str, work_dir: str | os.PathLike = "work", full: bool = False
) -> list[int]:
    """Windows in each shard of a subset: from the manifest, or counted once and remembered.

    With `full`, shards of a manifest are read and compared with it too.

    Raises:
      InputError: a shard is truncated or corrupt, or has a NaN or infinite target; names it.
    """
    remembered = Path(work_dir) / "verified.json"
    try:
        known: dict[str, int] = json.loads(remembered.read_text())
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    sizes = dataset.statistics
    check = f"v{_CHECK} {sizes.seq_length} {sizes.target_length} {sizes.num_targets}"
    counts: list[int | str] = []  # or the key under which the count will be known
    todo: dict[str, Path] = {}
    for shard in dataset.shards(subset):
        with explained(f"{shard}: cannot be read"):
            state = shard.stat()
        entry = dataset.manifest.get(shard.name)
        if entry and state.st_size != entry["bytes"]:
            raise InputError(
                f"{shard}: is truncated or corrupt ({state.st_size} bytes, "
                f"the manifest says {entry['bytes']}); {_AGAIN}."
            )
        if entry and not full:
            counts.append(entry["records"])
            continue
        sha256 = entry["sha256"] if entry else ""
        key = f"{check} {shard.resolve()} {state.st_size} {state.st_mtime_ns} {sha256}"
        counts.append(key)
        if not isinstance(known.get(key), int):
            todo[key] = shard
    if todo:
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))  # hashing and decompression leave the GIL
        try:
            results = pool.map(lambda shard: _count_checked(dataset, shard), todo.values())
            hidden = len(todo) < _MANY_SHARDS
            for key, count in zip(
                todo, tqdm(results, f"check {subset}", len(todo), disable=hidden), strict=True
            ):
                known[key] = count
        finally:
            pool.shutdown(cancel_futures=True)
            with explained(f"work_dir {work_dir}: cannot be written"):
                write_whole(remembered, json.dumps(known, indent=0))
    return [known[count] if isinstance(count, str) else count for count in counts]


def _count_checked(dataset: TrackDataset, shard: Path) -> int:
    """Records of a shard that is whole, the manifest's where there is one, and has finite targets."""
    entry = dataset.manifest.get(shard.name)
    if entry and file_sha256(shard) != entry["sha256"]:
        raise InputError(
            f"{shard}: is truncated or corrupt (its sha256 is not that of the manifest); {_AGAIN}."
        )
    count = sum(1 for _ in read_finite(dataset, shard))
    if entry and count != entry["records"]:
        raise InputError(f"{shard}: has {count} records, the manifest says {entry['records']}; {_AGAIN}.")
    return count


def file_sha256(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    total = hashlib.sha256()
    with explained(f"{path}: cannot be read"), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()
