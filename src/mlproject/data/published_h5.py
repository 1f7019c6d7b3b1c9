"""The published fine-tuning code's tracks, PREFIX.0.h5, PREFIX.1.h5, ..., as a dataset in the Basenji layout.

    input     [n, L, 4] one-hot, order A C G T; N is a row of 0.25 (or of zeros)
    outcome   [n, bins, tracks] signal
    PREFIX.bed  chrom, start, end of each window, in order; where it is there it tells how much the splits overlap

Source: make_track_dataset_h5.py of github.com/mauranolab/finetune-enformer (doi:10.1101/2025.02.04.636130). Training
there takes the first fifth of the files to validate, at least one. Nothing names the tracks. With a cutoff it runs out
of sites, and its last files are empty: `input` is then (0,). A file is made with all its windows first, zeros, which
are then filled one by one: of one that was killed the rest is zeros, which is N.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from mlproject.data.files import explained, new_folder
from mlproject.data.genome import Interval, name_some, read_bed
from mlproject.data.records import SUBSETS, Example, Statistics, check_organism, file_sha256, write_shard
from mlproject.data.shards import MOST_UNKNOWN
from mlproject.data.targets import write_targets
from mlproject.errors import InputError

_CHUNK = 32  # windows that are read at a time
_VALIDATION = 0.2


def is_prefix(data: str) -> bool:
    """Whether `data` is the PREFIX of such files, of which the first ones may be missing."""
    return os.path.isdir(Path(data).parent) and not os.path.isdir(data) and bool(_numbered(data))


def import_h5(
    prefix: str,
    organism: str,
    work_dir: Path,
    *,
    valid_files: int = 0,
    test_files: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """The dataset folder made of the files, in `work_dir`, where it is kept for the next time.

    Args:
      prefix: of the files.
      organism: name of the dataset's subfolder.
      work_dir: where to.
      valid_files: files of the validation split, the first ones; 0 for a fifth of them, as published, at least one.
      test_files: files of the test split, the next ones.
      say: gets one line where windows of the splits overlap, files are empty, or windows are left out because they
        are more than half N.

    Raises:
      InputError: a split has no windows left, a file is missing, cut short or damaged, its arrays do not fit, a
        sequence is no one-hot DNA, or a signal is NaN, infinite or below 0; names the file and the window.
    """
    check_organism(organism)
    paths = _files(prefix, say)
    valid = valid_files or max(1, int(_VALIDATION * len(paths)))
    if valid + test_files >= len(paths):
        raise InputError(
            f"data {prefix}: {valid} files to validate and {test_files} to test leave none of {len(paths)} to train; "
            "give fewer valid_files and test_files."
        )
    shapes = [_shapes(path) for path in paths]
    for path, found in zip(paths, shapes, strict=True):
        if found[1:] != shapes[0][1:]:
            raise InputError(
                f"{path}: windows are {found[1:]}, those of {paths[0]} {shapes[0][1:]} "
                "(bp, bins, tracks); they must be alike."
            )
    _, length, bins, tracks = shapes[0]
    width, crop = _geometry(paths[0], length, bins)
    subsets = ["valid"] * valid + ["test"] * test_files + ["train"] * (len(paths) - valid - test_files)
    places = _places(prefix, [shape[0] for shape in shapes])
    _say_overlap(prefix, subsets, places, say)
    digest = hashlib.sha256(b"2")  # of what is made of the same files
    for path, subset in zip(paths, subsets, strict=True):
        state = path.stat()
        digest.update(f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {subset}\n".encode())
    digest.update(f"{places}\n".encode())
    final = work_dir / "h5" / digest.hexdigest()[:16] / organism
    with explained(f"work_dir {work_dir}: cannot be written", (OSError,)), new_folder(final) as partial:
        if partial is None:
            _say_left_out(prefix, Statistics.read(final / "statistics.json"), say)
            return final.parent
        (partial / "tfrecords").mkdir()
        manifest: dict[str, Any] = {}
        windows: list[str] = []
        counts = {f"{subset}_seqs": 0 for subset in SUBSETS}
        numbers = dict.fromkeys(SUBSETS, 0)
        of_n: list[str] = []
        for path, subset, (count, *_), own in zip(paths, subsets, shapes, places, strict=True):
            name = f"{subset}-{numbers[subset]}.tfr"
            shard = partial / "tfrecords" / name
            kept: list[int] = []
            if not write_shard(shard, _examples(path, count, kept)):
                shard.unlink(missing_ok=True)
                of_n.append(path.name)
                continue
            numbers[subset] += 1
            counts[f"{subset}_seqs"] += len(kept)
            entry = {"sha256": file_sha256(shard), "bytes": shard.stat().st_size, "records": len(kept)}
            manifest[name] = entry
            windows += [
                f"{own[row].chrom}\t{own[row].start}\t{own[row].end}\t{subset}\n" for row in kept if own
            ]
        left_out = sum(shape[0] for shape in shapes) - sum(counts.values())
        extras = {"dropped": {"mostly N": left_out}, "files_of_n": of_n}
        statistics = Statistics(tracks, length, bins, width, crop, **counts, extras=extras)
        _say_left_out(prefix, statistics, say)
        for subset in set(subsets):
            if not counts[f"{subset}_seqs"]:
                raise InputError(
                    f"data {prefix}: no {subset} window is left, as all of them are more than half N; make the files "
                    "again, or give other valid_files and test_files."
                )
        statistics.write(partial / "statistics.json")
        write_targets(partial / "targets.txt", unnamed_targets(tracks))
        if windows:
            (partial / "sequences.bed").write_text("".join(windows))
        (partial / "manifest.json").write_text(json.dumps({"shards": manifest}, indent=2) + "\n")
    return final.parent


def _say_left_out(prefix: str, statistics: Statistics, say: Callable[[str], None]) -> None:
    left_out, of_n = statistics.extras["dropped"]["mostly N"], statistics.extras["files_of_n"]
    if left_out:
        total = left_out + sum(statistics.count(subset) for subset in SUBSETS)
        whole = f", all of {name_some(of_n)} among them" if of_n else ""
        say(
            f"{prefix}: {left_out} of {total} windows are more than half N and left out{whole}; a making of the "
            "files that was killed leaves such."
        )


def _files(prefix: str, say: Callable[[str], None]) -> list[Path]:
    """PREFIX.0.h5 and so on, in the order of their numbers, of which none may be missing, but for empty last ones."""
    found = _numbered(prefix)
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise InputError(
            f"data {prefix}: {prefix}.{missing[0]}.h5 is missing; there is {prefix}.{max(found)}.h5."
        )
    paths = [found[number] for number in sorted(found)]
    empty = []
    while paths and _is_empty(paths[-1]):
        empty.append(paths.pop().name)
    if empty:
        say(f"{prefix}: passed over, as no windows are in them: {name_some(empty[::-1])}.")
    if len(paths) < 2:
        raise InputError(
            f"data {prefix}: has {'one file' if paths else 'no file'} with windows; expected two or more, to train "
            "and to validate."
        )
    return paths


def _is_empty(path: Path) -> bool:
    """Whether a file is whole and has no windows: the arrays of no site are (0,)."""
    with _opened(path) as file, _readable(path):
        arrays = [file.get(name) for name in ("input", "outcome")]
        return all(isinstance(array, h5py.Dataset) and (array.shape or [1])[0] == 0 for array in arrays)


def _numbered(prefix: str) -> dict[int, Path]:
    """The files of a prefix by their numbers."""
    folder, stem = Path(prefix).parent, Path(prefix).name
    numbers = {
        path: re.fullmatch(r"\.(0|[1-9][0-9]{0,5})\.h5", path.name[len(stem) :])
        for path in folder.glob("*.h5")
    }
    return {int(match[1]): path for path, match in numbers.items() if match and path.name.startswith(stem)}


def _shapes(path: Path) -> tuple[int, int, int, int]:
    """Windows, bp, bins and tracks of a file."""
    with _opened(path) as file, _readable(path):
        for name in ("input", "outcome"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise InputError(
                    f"{path}: has no dataset {name!r}; it has {', '.join(file) or 'none'}. Make it again."
                )
            if len(file[name].shape or ()) != 3:
                raise InputError(f"{path}: {name!r} is {file[name].shape}, expected 3 axes.")
            if file[name].dtype.kind not in "fiub":
                raise InputError(f"{path}: {name!r} is of {file[name].dtype}, expected numbers.")
        (windows, length, letters), (others, bins, tracks) = file["input"].shape, file["outcome"].shape
    if letters != 4 or windows != others or not min(windows, length, bins, tracks):
        raise InputError(
            f"{path}: input is {(windows, length, letters)} and outcome {(others, bins, tracks)}; "
            "expected (n, bp, 4) and (n, bins, tracks)."
        )
    return windows, length, bins, tracks


def _opened(path: Path) -> h5py.File:
    with _readable(path):
        return h5py.File(path, "r")


def _readable(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turns what HDF5 raises for a damaged file into an `InputError`."""
    damaged = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
    return explained(f"{path}: is cut short or damaged; copy it or make it again", damaged)


def _geometry(path: Path, length: int, bins: int) -> tuple[int, int]:
    """Width of a bin and the bp at either end without one: bins fill the window, or are of 128 bp in its centre."""
    width, rest = divmod(length, bins)
    if not rest and width <= 128 and not 128 % width:
        return width, 0
    crop, rest = divmod(length - bins * 128, 2)
    if rest or crop < 0:
        raise InputError(
            f"{path}: {bins} bins do not divide {length} bp, and bins of 128 bp do not lie in their centre."
        )
    return 128, crop


def _places(prefix: str, counts: list[int]) -> list[list[Interval]]:
    """The windows of each file, as PREFIX.bed has them; empty where it is not there."""
    path = Path(f"{prefix}.bed")
    if not path.exists():
        return [[] for _ in counts]
    regions = [interval for interval, _ in read_bed(path, {}, other_chromosomes=True)]
    if len(regions) != sum(counts):
        raise InputError(
            f"{path}: has {len(regions)} windows, the h5 files {sum(counts)}; they are of different builds. Remove "
            f"{path.name} to go on without it."
        )
    ends = np.cumsum(counts)
    return [regions[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _say_overlap(
    prefix: str, subsets: list[str], places: list[list[Interval]], say: Callable[[str], None]
) -> None:
    """Says how many windows that are held out overlap a training window, which makes their numbers too good."""
    starts: dict[str, list[Interval]] = {}
    for subset, own in zip(subsets, places, strict=True):
        for place in own if subset == "train" else []:
            starts.setdefault(place.chrom, []).append(place)
    merged = {chrom: _merged(intervals) for chrom, intervals in starts.items()}
    held = [p for subset, own in zip(subsets, places, strict=True) if subset != "train" for p in own]
    if not held:
        return
    overlapping = sum(_overlaps(place, merged.get(place.chrom)) for place in held)
    if overlapping:
        say(
            f"{prefix}.bed: {overlapping} of {len(held)} windows held out overlap a training window; "
            "their numbers say too much. Datasets of build_tracks are split by chromosome."
        )


def _merged(intervals: list[Interval]) -> np.ndarray:
    """Starts and ends of the union, `[n, 2]`, ascending."""
    ordered = np.array(sorted((i.start, i.end) for i in intervals))
    ends = np.maximum.accumulate(ordered[:, 1])
    first = np.concatenate([[True], ordered[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([ordered[first, 0], ends[last]], 1)


def _overlaps(place: Interval, merged: np.ndarray | None) -> bool:
    if merged is None:
        return False
    at = int(np.searchsorted(merged[:, 1], place.start, side="right"))
    return at < len(merged) and merged[at, 0] < place.end


def _examples(path: Path, count: int, kept: list[int]) -> Iterator[Example]:
    """The windows that are not more than half N; their rows are added to `kept`."""
    with (
        _opened(path) as file,
        tqdm(total=count, desc=path.name, unit="window", disable=None, leave=False) as bar,
    ):
        for start in range(0, count, _CHUNK):
            with _readable(path):
                sequences, targets = (file[name][start : start + _CHUNK] for name in ("input", "outcome"))
            codes = _codes(sequences)
            unknown = np.count_nonzero(codes == 4, axis=1)
            for row in range(len(codes)):
                bar.update()
                if codes[row].max() > 4:
                    raise InputError(f"{path}: the input of window {start + row} is no one-hot DNA.")
                if unknown[row] > MOST_UNKNOWN * codes.shape[1]:
                    continue
                with np.errstate(over="ignore"):
                    target = targets[row].astype(np.float16)
                if not np.isfinite(target).all() or target.min() < 0:
                    raise InputError(
                        f"{path}: the outcome of window {start + row} has a value that is NaN, infinite "
                        "(in float16) or below 0; leave such windows out."
                    )
                kept.append(start + row)
                yield Example(codes[row], target)


def _codes(sequences: np.ndarray) -> np.ndarray:
    """Base codes `[n, L]` of one-hot `[n, L, 4]`: N for rows of 0.25 or 0, 5 for what is none of these."""
    base = sequences.argmax(-1).astype(np.uint8)
    least, most = sequences.min(-1), sequences.max(-1)
    one_hot = (most == 1) & (least == 0) & (sequences.sum(-1) == 1)
    unknown = (least == most) & ((most == 0) | (most == np.float16(0.25)))
    return np.where(one_hot, base, np.where(unknown, 4, 5)).astype(np.uint8)


def unnamed_targets(tracks: int) -> pd.DataFrame:
    """A table, as of `read_targets`, of tracks of which nothing is known but their order."""
    return pd.DataFrame(
        {
            "index": range(tracks),
            "genome": 0,
            "identifier": [f"outcome_{track}" for track in range(tracks)],
            "file": "unknown",
            "clip": np.nan,
            "clip_soft": np.nan,
            "scale": 1.0,
            "sum_stat": "mean",
            "strand_pair": pd.Series([pd.NA] * tracks, dtype="Int64"),
            "description": "",
            "category": "OTHER",
        }
    )
