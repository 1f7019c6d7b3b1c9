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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from enformer_core.dna import ONE_HOT
from mlproject.data.targets import read_targets
from mlproject.data.tfrecord import decode_example, encode_example, read_records, write_records
from mlproject.errors import InputError

SUBSETS = ("train", "valid", "test")
_MANY_SHARDS = 32  # checking as many shows a bar
_ONE_HOT = ONE_HOT.astype(bool)


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
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"statistics {path}: cannot be read ({error.strerror}).") from None
        except (ValueError, RecursionError):
            raise InputError(f"statistics {path}: is not JSON.") from None
        if not isinstance(raw, dict):
            raise InputError(f"statistics {path}: expected a JSON object, found {type(raw).__name__}.")
        values = {}
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
        covered = statistics.target_length * statistics.pool_width + 2 * statistics.crop_bp
        if covered > statistics.seq_length:
            raise InputError(
                f"statistics {path}: target_length x pool_width + 2 x crop_bp is {covered} bp, "
                f"more than seq_length {statistics.seq_length}."
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
        listed = {name for name in self.manifest if name.startswith(f"{subset}-")}
        if self.manifest and listed != {shard.name for shard in found}:
            wrong = sorted(listed.symmetric_difference(shard.name for shard in found))
            raise InputError(
                f"{self.path}: manifest.json and tfrecords/ differ in {wrong[0]}; rebuild the dataset."
            )
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
                total.update(f"{shard.name} {shard.stat().st_size}\n".encode())
        return total.hexdigest()


def open_dataset(folder: str | os.PathLike, organism: str) -> TrackDataset:
    """Open `folder/organism` and check that its files agree with each other.

    Raises:
      InputError: the folder or organism is absent, a file is wrong, or rows of `targets.txt` are not
        `num_targets`.
    """
    folder = Path(folder)
    path = folder / organism
    if not (path / "statistics.json").is_file():
        if not folder.is_dir():
            raise InputError(f"data {folder}: there is no such folder.")
        there = sorted(entry.parent.name for entry in folder.glob("*/statistics.json"))
        there = [name for name in there if not name.startswith(".")]
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
    manifest: dict[str, dict[str, Any]] = {}
    if (path / "manifest.json").exists():
        try:
            manifest = json.loads((path / "manifest.json").read_text())["shards"]
            for subset in SUBSETS:
                total = sum(s["records"] for name, s in manifest.items() if name.startswith(f"{subset}-"))
                if total != statistics.count(subset):
                    raise InputError(
                        f"{path}: manifest.json counts {total} {subset} records, "
                        f"statistics.json {statistics.count(subset)}."
                    )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path / 'manifest.json'}: is damaged; rebuild the dataset.") from None
    return TrackDataset(folder, organism, statistics, targets, manifest)


def write_shard(path: str | os.PathLike, examples: Iterable[Example]) -> int:
    """Write one shard in the Basenji layout; returns the number of records."""
    return write_records(
        path,
        (
            encode_example(
                {
                    "sequence": _ONE_HOT[np.minimum(sequence, 4)].tobytes(),
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
        finite = np.isfinite(example.target)
        if not finite.all():
            row = dataset.targets.iloc[int(np.argmin(finite.all(axis=0)))]
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
    """Check every shard once: complete, undamaged, and with the number of windows that the dataset promises.

    Sizes are always compared. The full reading (sha256 where there is a manifest, decompression where not) is
    remembered in `work_dir/verified.json` by size and time of change, so that a second call is quick.

    Raises:
      InputError: names the shard.
    """
    for subset in subsets:
        if dataset.count(subset) == 0 and not any((dataset.path / "tfrecords").glob(f"{subset}-*.tfr")):
            continue
        counts = shard_counts(dataset, subset, work_dir, full=True)
        if sum(counts) != dataset.count(subset):
            raise InputError(
                f"{dataset.path}: the {subset} shards hold {sum(counts)} windows, statistics.json says "
                f"{dataset.count(subset)}; a shard is missing or cut."
            )


def shard_counts(
    dataset: TrackDataset, subset: str, work_dir: str | os.PathLike = "work", full: bool = False
) -> list[int]:
    """Windows in each shard of a subset: from the manifest, or counted once and remembered.

    With `full`, shards of a manifest are also compared with their sha256.

    Raises:
      InputError: a shard is truncated or corrupt; names it.
    """
    remembered = Path(work_dir) / "verified.json"
    try:
        known: dict[str, int] = json.loads(remembered.read_text())
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    counts: list[int | str] = []  # or the key under which the count will be known
    todo: dict[str, Path] = {}
    for shard in dataset.shards(subset):
        state = shard.stat()
        entry = dataset.manifest.get(shard.name)
        if entry and state.st_size != entry["bytes"]:
            raise InputError(
                f"{shard}: is truncated or corrupt ({state.st_size} bytes, "
                f"the manifest says {entry['bytes']})."
            )
        if entry and not full:
            counts.append(int(entry["records"]))
            continue
        key = f"{shard.resolve()} {state.st_size} {state.st_mtime_ns} {entry['sha256'] if entry else ''}"
        counts.append(key)
        if key not in known:
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
            remembered.parent.mkdir(parents=True, exist_ok=True)
            unfinished = remembered.with_name(f"{remembered.name}.{os.getpid()}")
            unfinished.write_text(json.dumps(known, indent=0))
            os.replace(unfinished, remembered)
    return [known[count] if isinstance(count, str) else count for count in counts]


def _count_checked(dataset: TrackDataset, shard: Path) -> int:
    """Records of a shard that is whole: its sha256 is the manifest's, or every record of it can be read."""
    entry = dataset.manifest.get(shard.name)
    if not entry:
        return sum(1 for _ in read_finite(dataset, shard))
    if file_sha256(shard) != entry["sha256"]:
        raise InputError(f"{shard}: is truncated or corrupt (its sha256 is not that of the manifest).")
    return int(entry["records"])


def file_sha256(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()
