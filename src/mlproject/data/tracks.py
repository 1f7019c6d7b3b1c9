"""FASTA, BED and bigWigs to a dataset in the Basenji layout (see `records`)."""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from mlproject.data.genome import Genome, Interval, name_some
from mlproject.data.records import SUBSETS, Example, Statistics, file_sha256, write_shard
from mlproject.data.signals import TRANSFORM_ORDER, SignalReader, check_bigwigs
from mlproject.data.targets import category, read_targets, write_targets
from mlproject.data.windows import Regions, Window, allowed_regions, place_windows, read_blacklist
from mlproject.errors import InputError

__all__ = ["build", "category", "locked", "read_targets"]

MOST_UNKNOWN = 0.5  # windows with a larger part of N are left out


class _Plan(NamedTuple):
    """What a worker needs to make any shard; sent to each worker once."""

    fasta: str
    work_dir: str
    targets: pd.DataFrame
    bigwigs: list[Path]
    blacklist: list[Interval]
    crop_bp: int
    bin_size: int
    min_std: float


class _Task(NamedTuple):
    subset: str
    number: int
    path: Path
    windows: list[Window]


class _Shard(NamedTuple):
    """What came of one task."""

    task: _Task
    kept: list[Window]
    with_n: int  # kept windows with at least one N
    dropped_n: int
    dropped_flat: int
    missing: np.ndarray  # [tracks] bp
    limited: np.ndarray  # [tracks] bins
    bytes: int
    sha256: str


def build(
    output: str | os.PathLike,
    organism: str,
    fasta: str | os.PathLike,
    regions_bed: str | os.PathLike | None,
    targets_path: str | os.PathLike,
    *,
    sequence_length: int,
    crop_bp: int | None = None,
    target_length: int | None = None,
    bin_size: int = 128,
    stride: int = 0,
    blacklist: str | os.PathLike | None = None,
    min_std: float = 0.0,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    split_column: bool = False,
    max_train: int = 0,
    max_valid: int = 0,
    max_test: int = 0,
    seed: int = 0,
    examples_per_shard: int = 32,
    workers: int = 1,
    work_dir: str | os.PathLike = "work",
    progress: bool = False,
) -> Statistics:
    """Make the dataset `output/organism`, whole or not at all.

    Everything is checked before any work, built in a hidden folder beside the final one, flushed and renamed.
    The result does not depend on `workers`; a worker holds one shard in memory.

    Args:
      output: dataset folder; may hold other organisms.
      organism: name of the subfolder.
      fasta: sequence; N become rows of zeros, windows with more than half N are left out and counted.
      regions_bed: regions that targets must lie in; None for all of every chromosome.
      targets_path: table of tracks; relative files are relative to its folder.
      sequence_length: bp per window.
      crop_bp: bp at either end without target; or give `target_length`.
      target_length: bins per window, in the window's centre.
      bin_size: bp per bin.
      stride: bp from window to window; 0 for the length of the target.
      blacklist: BED; windows whose target is more than half blacklisted are left out, in the others
        blacklisted positions are kept within plus and minus the window's median of the track.
      min_std: leave out windows where every track's standard deviation over bins is below this.
      valid, test: chromosomes of these subsets; all others are train.
      split_column: the fourth BED column says train, valid or test instead.
      max_train, max_valid, max_test: most windows placed per subset, chosen by the seed; 0 for all.
      seed: order of the windows, and which are kept under a limit.
      examples_per_shard: windows placed per shard (dropped ones leave a shard shorter).
      workers: processes.
      work_dir: for the index and decompressed copy of the FASTA.
      progress: show a bar.

    Returns:
      The statistics as written. Extras: transform_order, dropped (reason to windows), windows_with_n,
      missing_bp and limited_bins (per track), seed.

    Raises:
      InputError: something in the inputs is wrong, a subset would be empty, or another dataset is in the way.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", organism):
        raise InputError(f"organism {organism!r}: use letters, digits, '_', '-' and '.'; it names a folder.")
    crop_bp = _geometry(sequence_length, crop_bp, target_length, bin_size)
    stride = stride or sequence_length - 2 * crop_bp
    _at_least(1, stride=stride, examples_per_shard=examples_per_shard, workers=workers)
    limits = {"train": max_train, "valid": max_valid, "test": max_test}
    _at_least(0, **{f"max_{subset}": limit for subset, limit in limits.items()}, seed=seed, min_std=min_std)
    targets = read_targets(targets_path)
    bigwigs = [Path(targets_path).parent / name for name in targets["file"]]
    genome = Genome(fasta, work_dir)
    lengths = genome.lengths
    genome.close()
    regions = allowed_regions(regions_bed, lengths, split_column, valid, test)
    chroms = {interval.chrom for interval, _ in regions}
    black = read_blacklist(blacklist, lengths)
    _check_signal(bigwigs, targets, lengths, chroms, fasta)
    options = {
        "organism": organism, "sequence_length": sequence_length, "crop_bp": crop_bp, "bin_size": bin_size,
        "stride": stride, "min_std": min_std, "valid": sorted(valid), "test": sorted(test),
        "split_column": split_column, "limits": limits, "seed": seed,
        "examples_per_shard": examples_per_shard,
        "fasta": _identity(fasta), "regions": _identity(regions_bed), "blacklist": _identity(blacklist),
        "targets": hashlib.sha256(Path(targets_path).read_bytes()).hexdigest(),
        "bigwigs": hashlib.sha256(json.dumps([_identity(p) for p in bigwigs]).encode()).hexdigest(),
    }  # fmt: skip
    final = Path(output) / organism
    if final.exists():
        return _existing(final, options)
    placement = place_windows(
        regions,
        lengths,
        sequence_length=sequence_length,
        crop_bp=crop_bp,
        stride=stride,
        valid=valid,
        test=test,
        labelled=split_column,
        blacklist=Regions(black),
        limits=limits,
        seed=seed,
    )
    plan = _Plan(str(fasta), str(work_dir), targets, bigwigs, black, crop_bp, bin_size, min_std)
    created = not Path(output).exists()
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {output}: cannot be made ({error.strerror}).") from None
    try:
        with locked(Path(output)):
            if final.exists():  # another process was first
                return _existing(final, options)
            for leftover in Path(output).glob(f".{organism}.partial-*"):  # of a build that was killed
                shutil.rmtree(leftover)
            partial = Path(output) / f".{organism}.partial-{uuid.uuid4().hex[:8]}"
            (partial / "tfrecords").mkdir(parents=True)
            try:
                tasks = _tasks(placement.windows, examples_per_shard, partial)
                shards = _make_shards(tasks, plan, workers, progress)
                statistics = _statistics(shards, placement.dropped, targets, options, sequence_length)
                _finish(partial, shards, statistics, targets, options)
                os.replace(partial, final)
                _sync(Path(output))
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    finally:
        if created and not any(Path(output).iterdir()):
            Path(output).rmdir()
    return statistics


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; others who ask wait. Nothing is left behind, even after a kill."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise InputError(f"{name} is {value}, expected {least} or more.")


def _geometry(sequence_length: int, crop_bp: int | None, target_length: int | None, bin_size: int) -> int:
    if bin_size < 1 or sequence_length < bin_size or sequence_length % bin_size:
        raise InputError(f"sequence_length is {sequence_length}, expected a multiple of bin_size {bin_size}.")
    if (crop_bp is None) == (target_length is None):
        raise InputError("give one of crop_bp and target_length.")
    if crop_bp is None:
        assert target_length is not None
        crop_bp, rest = divmod(sequence_length - target_length * bin_size, 2)
        if rest or crop_bp < 0 or target_length < 1:
            raise InputError(
                f"target_length is {target_length}: {target_length} bins of {bin_size} bp do not lie in "
                f"the centre of {sequence_length} bp."
            )
    target_bp = sequence_length - 2 * crop_bp
    if crop_bp < 0 or target_bp < bin_size or target_bp % bin_size:
        raise InputError(
            f"crop_bp is {crop_bp}: {sequence_length} - 2 x {crop_bp} = {target_bp} bp of target, "
            f"expected a positive multiple of bin_size {bin_size}."
        )
    return crop_bp


def _check_signal(bigwigs, targets, lengths, chroms: set[str], fasta) -> None:
    found = check_bigwigs(bigwigs, list(targets["identifier"]))
    for path, sizes in zip(bigwigs, found, strict=True):
        for chrom in sorted(chroms):
            if chrom not in sizes:
                raise InputError(
                    f"chromosome {chrom} is in the regions but not in bigWig {path}, which has "
                    f"{name_some(sizes)}; the names must match "
                    "(or give regions on the chromosomes that every bigWig has)."
                )
            if sizes[chrom] != lengths[chrom]:
                raise InputError(
                    f"chromosome {chrom} is {lengths[chrom]} bp in {fasta} and {sizes[chrom]} bp in bigWig "
                    f"{path}: they are of different genomes."
                )


def _identity(path) -> list | None:
    if path is None:
        return None
    state = os.stat(path)
    return [Path(path).name, state.st_size, state.st_mtime_ns]


def _existing(final: Path, options: dict[str, Any]) -> Statistics:
    try:
        made_with = json.loads((final / "build.json").read_text())
        complete = (final / "manifest.json").exists()
    except (OSError, ValueError):
        made_with, complete = {}, False
    if not complete:
        raise InputError(
            f"{final}: exists and was not made by build_tracks; choose another output or remove it."
        )
    wrong = [name for name in options if made_with.get(name) != json.loads(json.dumps(options[name]))]
    if wrong:
        raise InputError(
            f"{final}: exists and was built with another {wrong[0]}; choose another output or remove it."
        )
    return Statistics.read(final / "statistics.json")


def _tasks(windows: list[Window], per_shard: int, folder: Path) -> list[_Task]:
    tasks = []
    for subset in SUBSETS:
        own = [window for window in windows if window.subset == subset]
        for number, at in enumerate(range(0, len(own), per_shard)):
            path = folder / "tfrecords" / f"placed-{subset}-{number}"
            tasks.append(_Task(subset, number, path, own[at : at + per_shard]))
    return tasks


_state: dict[str, Any] = {}  # of this worker process: the plan and its open files


def _open_plan(plan: _Plan) -> None:
    black: dict[str, list[Interval]] = {}
    for interval in plan.blacklist:
        black.setdefault(interval.chrom, []).append(interval)
    _state.update(
        plan=plan,
        genome=Genome(plan.fasta, plan.work_dir),
        reader=SignalReader(plan.targets, plan.bigwigs),
        blacklist={chrom: Regions(intervals) for chrom, intervals in black.items()},
    )


def _make_shard(task: _Task) -> _Shard:
    plan, genome, reader = _state["plan"], _state["genome"], _state["reader"]
    reader.missing[:] = 0
    reader.limited[:] = 0
    with_n = dropped_n = dropped_flat = 0
    known: list[tuple[Window, np.ndarray]] = []
    for window in task.windows:
        codes = genome.codes(Interval(window.chrom, window.start, window.end))
        unknown = int(np.count_nonzero(codes == 4))
        if unknown > MOST_UNKNOWN * len(codes):
            dropped_n += 1
            continue
        with_n += unknown > 0
        known.append((window, codes))
    examples: list[Example] = []
    kept: list[Window] = []
    for group in _stretches(known):
        first, last = group[0][0], group[-1][0]
        black = _state["blacklist"].get(first.chrom)
        target = reader.read(
            first.chrom,
            [window.start + plan.crop_bp for window, _ in group],
            first.end - first.start - 2 * plan.crop_bp,
            plan.bin_size,
            black.within(first.chrom, first.start, last.end) if black else (),
        )
        flat = (target.astype(np.float32).std(axis=1) < plan.min_std).all(axis=-1)
        for (window, codes), values, is_flat in zip(group, target, flat, strict=True):
            if is_flat:
                dropped_flat += 1
                with_n -= bool((codes == 4).any())
            else:
                kept.append(window)
                examples.append(Example(codes, values))
    if examples:
        write_shard(task.path, examples)
    size, digest = (task.path.stat().st_size, file_sha256(task.path)) if examples else (0, "")
    return _Shard(
        task,
        kept,
        with_n,
        dropped_n,
        dropped_flat,
        reader.missing.copy(),
        reader.limited.copy(),
        size,
        digest,
    )


def _stretches(known: list[tuple[Window, np.ndarray]]) -> Iterator[list[tuple[Window, np.ndarray]]]:
    """Neighbouring windows of one chromosome, to be read together."""
    group: list[tuple[Window, np.ndarray]] = []
    for item in known:
        window = item[0]
        last = group[-1][0] if group else window
        apart = window.start - last.start
        if group and not (window.chrom == last.chrom and 0 < apart <= 2 * (last.end - last.start)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _make_shards(tasks: list[_Task], plan: _Plan, workers: int, progress: bool) -> list[_Shard]:
    done: list[_Shard] = []
    total = sum(len(task.windows) for task in tasks)
    with tqdm(total=total, desc="build_tracks", unit="window", disable=not progress) as bar:
        if workers == 1 or len(tasks) == 1:
            _open_plan(plan)
            try:
                for task in tasks:
                    done.append(_make_shard(task))
                    bar.update(len(task.windows))
            finally:
                _state["genome"].close()
                _state.clear()
            return done
        # spawn, not fork: TensorFlow may have threads in this process
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _open_plan, (plan,))
        try:
            for future in as_completed([pool.submit(_make_shard, task) for task in tasks]):
                done.append(future.result())
                bar.update(len(done[-1].task.windows))
        except BrokenProcessPool:
            raise InputError(
                "a worker of the build died: a bigWig crashes the reader, or memory ran out; "
                "try workers=1 or fewer examples_per_shard."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return sorted(done, key=lambda shard: (SUBSETS.index(shard.task.subset), shard.task.number))


def _statistics(
    shards: list[_Shard], dropped: dict[str, int], targets: pd.DataFrame, options, sequence_length: int
) -> Statistics:
    counts = {name: sum(len(s.kept) for s in shards if s.task.subset == name) for name in SUBSETS}
    dropped = dropped | {
        "mostly N": sum(shard.dropped_n for shard in shards),
        "below min_std": sum(shard.dropped_flat for shard in shards),
    }
    for subset, count in counts.items():
        if not count:
            raise InputError(
                f"no {subset} window is left: of those placed, {dropped['mostly N']} were mostly N and "
                f"{dropped['below min_std']} below min_std {options['min_std']:g}."
            )
    return Statistics(
        num_targets=len(targets),
        seq_length=sequence_length,
        target_length=(sequence_length - 2 * options["crop_bp"]) // options["bin_size"],
        pool_width=options["bin_size"],
        crop_bp=options["crop_bp"],
        train_seqs=counts["train"],
        valid_seqs=counts["valid"],
        test_seqs=counts["test"],
        extras={
            "transform_order": TRANSFORM_ORDER,
            "dropped": dropped,
            "windows_with_n": sum(shard.with_n for shard in shards),
            "missing_bp": np.sum([shard.missing for shard in shards], axis=0).tolist(),
            "limited_bins": np.sum([shard.limited for shard in shards], axis=0).tolist(),
            "seed": options["seed"],
        },
    )


def _finish(
    folder: Path, shards: list[_Shard], statistics: Statistics, targets: pd.DataFrame, options
) -> None:
    """Give the shards their final numbers and write the files about them, the manifest last."""
    manifest: dict[str, dict[str, Any]] = {}
    rows = []
    numbers = dict.fromkeys(SUBSETS, 0)
    for shard in shards:
        subset = shard.task.subset
        rows += [f"{w.chrom}\t{w.start}\t{w.end}\t{w.subset}\n" for w in shard.kept]
        if shard.kept:
            name = f"{subset}-{numbers[subset]}.tfr"
            numbers[subset] += 1
            os.replace(shard.task.path, shard.task.path.with_name(name))
            manifest[name] = {"sha256": shard.sha256, "bytes": shard.bytes, "records": len(shard.kept)}
    statistics.write(folder / "statistics.json")
    write_targets(folder / "targets.txt", targets)
    (folder / "sequences.bed").write_text("".join(rows))
    (folder / "build.json").write_text(json.dumps(options, indent=2) + "\n")
    (folder / "manifest.json").write_text(json.dumps({"shards": manifest}, indent=2) + "\n")
    for name in ("statistics.json", "targets.txt", "sequences.bed", "build.json", "manifest.json"):
        _sync(folder / name)
    _sync(folder / "tfrecords")
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
