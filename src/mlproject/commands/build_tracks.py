"""Make a dataset of tracks from a FASTA, a BED of allowed regions and a table of bigWigs."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlproject.data import demo, tracks
from mlproject.data.records import SUBSETS, TrackDataset, open_dataset
from mlproject.data.tracks import Inputs, build
from mlproject.errors import InputError

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

_MOST_ROWS = 24  # of the table of tracks that is printed


@dataclass(frozen=True)
class Options:
    """Make a dataset of tracks; with no options, from the demo's FASTA and bigWigs."""

    output: str = "work/tracks"
    """Folder of the dataset; the organism becomes a folder in it, whole or not at all."""
    organism: str = "human"
    """Name of that folder, and later of the model's head."""
    fasta: str = ""
    """FASTA of the genome: plain, gzip or bgzip. Empty, together with targets: the demo's."""
    targets: str = ""
    """Table of tracks, one bigWig per row; relative files are relative to its folder. Empty: the demo's."""
    regions: str = ""
    """BED of regions that targets must lie in. Empty: every chromosome of the FASTA."""
    blacklist: str = ""
    """BED of regions whose signal is not to be trusted."""
    sequence_length: int = 196_608
    """Sequence per window in bp, a multiple of bin_size."""
    crop_bp: int = 40_960
    """Sequence at either end of a window that targets do not cover, in bp."""
    bin_size: int = 128
    """Width of a target bin in bp."""
    stride: int = 0
    """Distance from one window to the next in bp. 0: the length of the target, so that targets just touch."""
    valid: tuple[str, ...] = ()
    """Chromosomes of the validation windows. The demo has its own."""
    test: tuple[str, ...] = ()
    """Chromosomes of the test windows; every chromosome not named here or in valid is for training."""
    split_column: bool = False
    """The fourth column of regions says train, valid or test, instead of chromosomes."""
    max_train: int = 0
    """Most training windows to place, drawn by the seed. 0: all."""
    max_valid: int = 0
    """Most validation windows to place. 0: all."""
    max_test: int = 0
    """Most test windows to place. 0: all."""
    min_std: float = 0.0
    """Leave out windows in which the standard deviation over bins is below this in every track."""
    seed: int = 0
    """Orders the windows, and chooses among them where a most is given."""
    examples_per_shard: int = 32
    """Windows per TFRecord file; a worker holds one file in memory."""
    workers: int = 0
    """Processes. 0: one per processor core. The dataset is the same whatever the number."""
    work_dir: str = "work"
    """Folder for the index of the FASTA, its decompressed copy, and the demo."""


def check(options: Options) -> None:
    """Refuse options and inputs of which no dataset can be made, before there is a run."""
    _inputs(options)


def run(options: Options, run: "Run") -> int:
    """Build the dataset, or find that it is already there, and print what it holds."""
    inputs = _inputs(options)
    folder = inputs.final
    there = folder.exists()
    build(inputs, workers=options.workers or min(os.cpu_count() or 1, 16), progress=True)
    dataset = open_dataset(options.output, options.organism)
    print(f"{folder}: is already there, nothing to do." if there else f"{folder}: done.")
    print(summary(dataset))
    statistics = dataset.statistics
    run.summarize({f"windows/{subset}": statistics.count(subset) for subset in SUBSETS})
    run.use_dataset(
        name=options.organism, digest=dataset.digest[:16], source=str(folder), context="build_tracks"
    )
    for name in ("statistics.json", "targets.txt", "sequences.bed", "manifest.json", "build.json"):
        run.keep(folder / name, "dataset")
    return 0


def _inputs(options: Options) -> Inputs:
    """The checked inputs of the build; those of the demo are made at their first use."""
    if options.workers < 0:
        raise InputError(f"workers is {options.workers}, expected 0 or more.")
    fasta, targets = options.fasta, options.targets
    valid, test = options.valid, options.test
    if not fasta and not targets:
        if options.organism not in demo.CHROMOSOMES:
            raise InputError(
                f"organism {options.organism!r} is not in the demo, which has {', '.join(demo.CHROMOSOMES)}; "
                "give fasta and targets."
            )
        raw = demo.demo_inputs(options.work_dir) / options.organism
        fasta, targets = str(raw / "genome.fa"), str(raw / "targets.txt")
        if not options.split_column:
            valid = valid or (demo.VALID[options.organism],)
            test = test or (demo.TEST[options.organism],)
    elif not fasta or not targets:
        given, other = ("fasta", "targets") if fasta else ("targets", "fasta")
        raise InputError(f"{given} is given and {other} is not; give both, or neither for the demo.")
    return tracks.check(
        options.output,
        options.organism,
        fasta,
        options.regions or None,
        targets,
        sequence_length=options.sequence_length,
        crop_bp=options.crop_bp,
        bin_size=options.bin_size,
        stride=options.stride,
        blacklist=options.blacklist or None,
        min_std=options.min_std,
        valid=valid,
        test=test,
        split_column=options.split_column,
        max_train=options.max_train,
        max_valid=options.max_valid,
        max_test=options.max_test,
        seed=options.seed,
        examples_per_shard=options.examples_per_shard,
        work_dir=options.work_dir,
    )


def summary(dataset: TrackDataset) -> str:
    """What a dataset holds, as lines of text."""
    statistics, extras = dataset.statistics, dataset.statistics.extras
    shards = dataset.manifest.values()
    megabytes = sum(shard["bytes"] for shard in shards) / 1e6
    lines = [
        "windows          " + ", ".join(f"{subset} {statistics.count(subset)}" for subset in SUBSETS),
        f"of               {statistics.seq_length} bp, {statistics.target_length} bins of "
        f"{statistics.pool_width} bp, {statistics.num_targets} tracks",
        "left out         " + ", ".join(f"{why} {n}" for why, n in extras.get("dropped", {}).items()),
        f"with N           {extras.get('windows_with_n', 0)} windows",
        f"size             {megabytes:.1f} MB in {len(shards)} shards",
        "",
        f"{'track':>5}  {'identifier':<24} {'category':<9} {'sum_stat':<11} "
        f"{'missing bp':>12} {'limited bins':>12}",
    ]
    missing = np.asarray(extras.get("missing_bp", [0] * statistics.num_targets))
    limited = np.asarray(extras.get("limited_bins", [0] * statistics.num_targets))
    for row, track in enumerate(dataset.targets.itertuples()):
        if row == _MOST_ROWS and statistics.num_targets > _MOST_ROWS + 1:
            rest = slice(row, None)
            lines.append(
                f"{'...':>5}  {statistics.num_targets - row} more tracks{'':<30}"
                f"{missing[rest].sum():>21} {limited[rest].sum():>12}"
            )
            break
        lines.append(
            f"{row:>5}  {track.identifier:<24.24} {track.category:<9} {track.sum_stat:<11} "
            f"{missing[row]:>12} {limited[row]:>12}"
        )
    return "\n".join(lines)
