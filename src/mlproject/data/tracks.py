"""FASTA, BED and bigWigs to a dataset in the Basenji layout (see `records`)."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mlproject.data.files import explained, identity, new_folder
from mlproject.data.genome import Genome, name_some
from mlproject.data.records import SUBSETS, Statistics, check_organism, open_dataset, shard_counts
from mlproject.data.shards import Plan, Shard, Task, make_shards
from mlproject.data.signals import TRANSFORM_ORDER, check_bigwigs
from mlproject.data.targets import read_targets, write_targets
from mlproject.data.windows import Regions, Window, allowed_regions, place_windows, read_blacklist
from mlproject.errors import InputError


class Inputs(NamedTuple):
    """What `check` found good: all that `build` needs."""

    final: Path
    plan: Plan
    windows: list[Window]
    dropped: dict[str, int]  # reason to windows that were not placed
    sequence_length: int
    examples_per_shard: int
    options: dict[str, Any]  # as `build.json` keeps them


def check(
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
    work_dir: str | os.PathLike = "work",
) -> Inputs:
    """Check everything that a build of the dataset `output/organism` needs, and place its windows.

    Nothing is written but the index and copy of the FASTA in `work_dir`.

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
      work_dir: for the index and decompressed copy of the FASTA.

    Raises:
      InputError: something in the inputs is wrong, a subset would be empty, or another dataset is in the way.
    """
    check_organism(organism)
    if not str(output):
        raise InputError("output is empty, expected the folder of the dataset.")
    crop_bp = _geometry(sequence_length, crop_bp, target_length, bin_size)
    stride = stride or sequence_length - 2 * crop_bp
    _at_least(1, stride=stride, examples_per_shard=examples_per_shard)
    limits = {"train": max_train, "valid": max_valid, "test": max_test}
    _at_least(0, **{f"max_{subset}": limit for subset, limit in limits.items()}, seed=seed, min_std=min_std)
    targets = read_targets(targets_path)
    bigwigs = [Path(targets_path).parent / name for name in targets["file"]]
    genome = Genome(fasta, work_dir)
    lengths = genome.lengths
    genome.close()
    regions = allowed_regions(regions_bed, lengths, split_column, valid, test)
    black = read_blacklist(blacklist, lengths)
    _check_signal(bigwigs, targets, lengths, {interval.chrom for interval, _ in regions}, fasta, regions_bed)
    options = {
        "organism": organism, "sequence_length": sequence_length, "crop_bp": crop_bp, "bin_size": bin_size,
        "stride": stride, "min_std": min_std, "valid": sorted(valid), "test": sorted(test),
        "split_column": split_column, "limits": limits, "seed": seed,
        "examples_per_shard": examples_per_shard,
        "fasta": identity(fasta), "regions": identity(regions_bed), "blacklist": identity(blacklist),
        "targets": hashlib.sha256(Path(targets_path).read_bytes()).hexdigest(),
        "bigwigs": hashlib.sha256(json.dumps([identity(p) for p in bigwigs]).encode()).hexdigest(),
    }  # fmt: skip
    final = Path(output) / organism
    with explained(f"output {output}: cannot be read"):
        if final.exists():
            _existing(final, options)
    placement = place_windows(
        regions,
        lengths,
        sequence_length=sequence_length,
        crop_bp=crop_bp,
        stride=stride,
        valid=valid,
        test=test,
        labelled=split_column,
        blacklist=Regions(black, str(blacklist)),
        limits=limits,
        seed=seed,
    )
    plan = Plan(str(fasta), str(work_dir), targets, bigwigs, black, crop_bp, bin_size, min_std)
    return Inputs(final, plan, *placement, sequence_length, examples_per_shard, options)


def build(inputs: Inputs, *, workers: int = 1, progress: bool = False) -> Statistics:
    """Make the dataset, whole or not at all, or find that it is already there.

    It is built in a hidden folder beside the final one, flushed and renamed. The result does not depend on
    `workers`; a worker holds one shard in memory.

    Args:
      inputs: from `check`.
      workers: processes.
      progress: show a bar.

    Returns:
      The statistics as written. Extras: transform_order, dropped (reason to windows), windows_with_n,
      missing_bp and limited_bins (per track), seed.

    Raises:
      InputError: a value is NaN or infinite, a subset ends empty, the output cannot be written, or another
        dataset is in the way.
    """
    _at_least(1, workers=workers)
    final, options = inputs.final, inputs.options
    output = final.parent
    with explained(f"output {output}: cannot be written"), new_folder(final) as partial:
        if partial is None:
            return _existing(final, options)
        (partial / "tfrecords").mkdir()
        tasks = _tasks(inputs.windows, inputs.examples_per_shard, partial)
        shards = make_shards(tasks, inputs.plan, workers, progress)
        statistics = _statistics(shards, inputs)
        _finish(partial, shards, statistics, inputs.plan.targets, options)
    return statistics


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


def _check_signal(bigwigs, targets, lengths, chroms: set[str], fasta, regions_bed) -> None:
    found = check_bigwigs(bigwigs, list(targets["identifier"]))
    for path, sizes in zip(bigwigs, found, strict=True):
        for chrom in sorted(chroms):
            if chrom not in sizes:
                where, what = f"BED {regions_bed}", "leave its regions out of the BED"
                if regions_bed is None:
                    where = f"FASTA {fasta}, of which every chromosome is used,"
                    what = "give regions, a BED on the chromosomes that every bigWig has"
                raise InputError(
                    f"chromosome {chrom} is in {where} but not in bigWig {path}, which has "
                    f"{name_some(sizes)}; the names must match (or {what})."
                )
            if sizes[chrom] != lengths[chrom]:
                raise InputError(
                    f"chromosome {chrom} is {lengths[chrom]} bp in {fasta} and {sizes[chrom]} bp in bigWig "
                    f"{path}: they are of different genomes."
                )


def _existing(final: Path, options: dict[str, Any]) -> Statistics:
    """The statistics of the dataset that is there, if it is whole and was made with these options."""
    try:
        made_with = json.loads((final / "build.json").read_text())
        complete = isinstance(made_with, dict) and (final / "manifest.json").exists()
    except (OSError, ValueError):
        complete = False
    if not complete:
        raise InputError(
            f"{final}: exists and was not made by build_tracks; choose another output or remove it."
        )
    wrong = [name for name in options if made_with.get(name) != json.loads(json.dumps(options[name]))]
    if wrong:
        raise InputError(
            f"{final}: exists and was built with another {wrong[0]}; choose another output or remove it."
        )
    dataset = open_dataset(final.parent, final.name)
    for subset in SUBSETS:
        shard_counts(dataset, subset)
    return dataset.statistics


def _tasks(windows: list[Window], per_shard: int, folder: Path) -> list[Task]:
    tasks = []
    for subset in SUBSETS:
        own = [window for window in windows if window.subset == subset]
        for number, at in enumerate(range(0, len(own), per_shard)):
            path = folder / "tfrecords" / f"placed-{subset}-{number}"
            tasks.append(Task(subset, number, path, own[at : at + per_shard]))
    return tasks


def _statistics(shards: list[Shard], inputs: Inputs) -> Statistics:
    options, counts = inputs.options, {}
    for subset in SUBSETS:
        own = [shard for shard in shards if shard.task.subset == subset]
        counts[subset] = sum(len(shard.kept) for shard in own)
        if not counts[subset]:
            raise InputError(
                f"no {subset} window is left: of those placed, {sum(s.dropped_n for s in own)} were mostly N "
                f"and {sum(s.dropped_flat for s in own)} below min_std {options['min_std']:g}."
            )
    dropped = inputs.dropped | {
        "mostly N": sum(shard.dropped_n for shard in shards),
        "below min_std": sum(shard.dropped_flat for shard in shards),
    }
    return Statistics(
        num_targets=len(inputs.plan.targets),
        seq_length=inputs.sequence_length,
        target_length=(inputs.sequence_length - 2 * options["crop_bp"]) // options["bin_size"],
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
    folder: Path, shards: list[Shard], statistics: Statistics, targets: pd.DataFrame, options
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
