"""Train a Perceiver jointly on tracks and MPRA, and say what each brings to cell types without labels."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from mlproject import __version__, joint_evaluation, joint_grid, reporting, weights
from mlproject.data import demo_mpra
from mlproject.data.coverage import CoverageSource, open_coverage
from mlproject.data.joint import JointData, join
from mlproject.data.mpra import MpraColumns, log2_activity, read_mpra
from mlproject.data.mpra_split import split_mpra
from mlproject.errors import InputError
from mlproject.joint_grid import Training
from mlproject.joint_study import JointStudy, Trained, results_table
from mlproject.joint_training import MODALITIES
from mlproject.joint_trunk import JointTrunk, load_trunk
from mlproject.options import nearest
from mlproject.resuming import fingerprint, only_one
from mlproject.studies import Outcomes

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a Perceiver on tracks and MPRA together; comma lists of what can be swept make a grid of trainings."""

    modalities: tuple[str, ...] = ("both", "mpra")
    """What is trained on: tracks, mpra or both. Several: one training of each, so that they can be compared."""
    holdout_cell_type: tuple[str, ...] = ()
    """Cell type whose labels are hidden in training and validation. none: nobody's. Empty: demo_D for the demo."""
    seeds: tuple[int, ...] = (42, 123, 2025)
    """Seeds: of initial weights, windows, order, strands, masks and dropout."""
    num_track_train_samples: tuple[int, ...] = (2_000,)
    """Windows of the genome to train on; each has the coverage of every cell type."""
    num_mpra_train_samples: tuple[int, ...] = (0,)
    """Sequences with labels to train on, drawn by the seed. 0: all of the training split."""
    num_track_valid_samples: int = 16
    """Windows of the validation and of the test chromosomes."""
    mpra: str = "demo"
    """Table of sequences and activity (tab, comma or semicolon); demo: made-up ones."""
    mpra_fasta: str = ""
    """FASTA with the sequences, if the table has none; joined by label."""
    mpra_sequence: str = "sequence"
    """Column of the sequence."""
    mpra_activity: tuple[str, ...] = ("activity",)
    """Column of the activity; several are one for each cell type."""
    mpra_replicates: tuple[str, ...] = ()
    """Columns of replicates, whose mean is the activity."""
    mpra_spread: tuple[str, ...] = ()
    """Columns of the standard deviation over replicates, one for each of mpra_activity."""
    mpra_replicate_count: tuple[str, ...] = ()
    """Columns of the number of replicates. Without them mpra_spread is the standard error."""
    mpra_label: str = "label"
    """Column of the name."""
    mpra_chromosome: str = ""
    """Column of the chromosome. Empty: it is read from names such as chr8-100-200."""
    mpra_cell_type: str = "cell_type"
    """Column of the cell type, if there is one."""
    mpra_cell_type_name: str = ""
    """Cell type of a table without such a column."""
    mpra_log2: float | None = None
    """Predict log2(activity + this) in place of the activity."""
    mpra_valid: tuple[str, ...] = ()
    """Chromosomes of the sequences to validate on. Empty: a tenth of the sequences, by cluster of near-duplicates."""
    mpra_test: tuple[str, ...] = ()
    """Chromosomes of the sequences that are held out, likewise."""
    tracks: str = "demo"
    """Table of bigWigs (targets.txt, with a column cell_type or descriptions such as ATAC:K562); demo: made-up ones."""
    fasta: str = ""
    """Genome of the tracks."""
    track_names: str = ""
    """Which rows of the table: identifiers, patterns or indices. Empty: all; tracks of one cell type are averaged."""
    track_valid: tuple[str, ...] = ()
    """Chromosomes to validate coverage on."""
    track_test: tuple[str, ...] = ()
    """Chromosomes that are held out."""
    track_regions: str = ""
    """BED of the places that windows must lie in. Empty: whole chromosomes."""
    weights: str = ""
    """Enformer whose trunk embeddings stand in for letters, as in finetune; random: untrained. Empty: letters."""
    weights_dir: str = ""
    """Where the published weights are, in place of the variable ENFORMERBASELINE."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["published", "tiny"] = "tiny"
    """Sizes that are 0 below: published, or tiny, which trains in minutes on a laptop."""
    seq_len: int = 0
    """Longest window of tracks in bp."""
    mpra_len: int = 0
    """Longest MPRA sequence in bp."""
    d_model: tuple[int, ...] = (0,)
    """Channels of inputs and output queries."""
    d_latent: tuple[int, ...] = (0,)
    """Channels of a latent."""
    num_latents: tuple[int, ...] = (0,)
    """Latent vectors, which the sequence is read into."""
    num_blocks: tuple[int, ...] = (0,)
    """How often the self-attention layers are applied."""
    num_self_attention_layers: tuple[int, ...] = (0,)
    """Self-attention layers of a block."""
    num_cross_attn_heads: int = 0
    """Heads of cross-attention."""
    num_self_attn_heads: int = 0
    """Heads of self-attention."""
    widening_factor: int = 0
    """Channels of the hidden layer of a feed-forward block, as a multiple of its input."""
    num_bins: int = 0
    """Bins of log(1 + coverage), from min_cov to max_cov."""
    min_cov: float = 0.0
    """Lower end of the bins."""
    max_cov: float = 0.0
    """Upper end of the bins."""
    nucleotide_width: tuple[int, ...] = (0,)
    """Letters that the embedding of one sees: 1 as published, an odd number more for a convolution."""
    dropout: tuple[float, ...] = (0.0,)
    """Share of what each attention and feed-forward block adds that is dropped in training."""
    activity_weight: float = 1.0
    """Weight of the squared error of standardised activity in the loss."""
    nucleotide_weight: float = 3.0
    """Weight of the cross-entropy of hidden letters, which `generate` writes by. 0: that pass is left out."""
    coverage_weight: float = 1.0
    """Weight of the cross-entropy of hidden coverage."""
    augment: bool = True
    """Show sequences and windows on a strand drawn at random, and sequences at a place drawn at random."""
    epochs: int = 10
    """Epochs of steps_per_epoch steps; validation follows each."""
    steps_per_epoch: int = 100
    """Training steps of an epoch."""
    batch_size: int = 32
    """Measurements of a step."""
    track_batch_size: int = 16
    """Windows of a step, each in one cell type."""
    learning_rate: tuple[float, ...] = (2.0e-3,)
    """Learning rate of Adam after the warm-up; it falls along a cosine to a twentieth."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    weight_decay: float = 0.0
    """Share of weights, times learning_rate, that each step takes from them (AdamW)."""
    patience: int = 0
    """Epochs without a lower validation loss after which a training ends (0: never); the best one is kept."""
    checkpoint_seconds: float = 60.0
    """A training that is killed loses at most this much and one epoch."""
    work_dir: Path = Path("work")
    """Folder for the demo and the checkpoints of unfinished trainings."""
    experiment: str = "joint"
    """MLflow experiment."""


# What may differ between two commands that continue the same study: a training is known by its own values.
_NOT_OF_THE_STUDY = (
    *joint_grid.SWEPT,
    *("mpra", "mpra_fasta", "tracks", "fasta", "track_names", "track_regions"),
    *("weights", "weights_dir", "download", "work_dir", "experiment", "checkpoint_seconds"),
)
_DEMO_HOLDOUT = "demo_D"
_SPLIT_SEED = 0  # which sequences are held out: the same in every study
# Changes with what a model is or its numbers mean: trainings of another one are no part of the study.
_MODEL = 2


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    for name in joint_grid.SWEPT:
        found = getattr(options, name)
        if (name != "holdout_cell_type" and not found) or len(set(found)) != len(found):
            raise InputError(f"--{name}: found {','.join(map(str, found))!r}; give at least one, each once")
    for name in options.modalities:
        if name not in MODALITIES:
            raise InputError(
                f"--modalities: found {name!r}{nearest(name, MODALITIES)}; it can be {', '.join(MODALITIES)}"
            )
    for seed in options.seeds:
        if not 0 <= seed < 2**31:
            raise InputError(f"--seeds: found {seed}; it must be from 0 to {2**31 - 1}")
    at_least_1 = "num_track_valid_samples epochs steps_per_epoch batch_size track_batch_size"
    not_negative = (
        "warmup_steps clip_norm weight_decay patience nucleotide_weight min_cov max_cov learning_rate "
        "num_mpra_train_samples seq_len mpra_len num_bins widening_factor checkpoint_seconds"
    )
    for least, names in ((1, f"{at_least_1} num_track_train_samples"), (0, not_negative)):
        for name in names.split():
            found = getattr(options, name)
            for value in found if isinstance(found, tuple) else (found,):
                if not value >= least:
                    raise InputError(f"--{name}: found {value}; it must be {least} or more")
    for weight, other, what in (
        ("activity_weight", "tracks", "labels"),
        ("coverage_weight", "mpra", "tracks"),
    ):
        found = getattr(options, weight)
        if set(options.modalities) != {other} and not found > 0:
            raise InputError(
                f"--{weight}: found {found:g}; it must be above 0, or choose --modalities {other}, without {what}"
            )
    _check_demo(options)
    if options.weights or options.weights_dir or options.download:
        weights.check(options.weights, options.weights_dir, options.download)
    _grid(options, open_data(options))


# Options of files, which the demo has of its own.
_OF_FILES = {
    "mpra": (
        *("mpra_fasta", "mpra_sequence", "mpra_activity", "mpra_replicates", "mpra_spread"),
        *("mpra_replicate_count", "mpra_label", "mpra_chromosome", "mpra_cell_type", "mpra_cell_type_name"),
    ),
    "tracks": ("fasta", "track_valid", "track_test", "track_regions"),
}


def _check_demo(options: Options) -> None:
    """Refuses options that would not be read, because the demo is."""
    usual = {field.name: field.default for field in dataclasses.fields(Options)}
    for source, names in _OF_FILES.items():
        for name in names:
            found = getattr(options, name)
            if getattr(options, source) == "demo" and found != usual[name]:
                words = ",".join(found) if isinstance(found, tuple) else found
                raise InputError(
                    f"--{name}: found {words!r} with --{source} demo, which has its own; give --{source} TABLE, or "
                    f"leave --{name} out"
                )


def run(options: Options, run: "Run") -> int:
    """Trains what is missing of the grid, then compares what was held out.

    Returns:
        0, or 1 when a training failed; the others have run all the same.
    """
    began = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    data = open_data(options, say=True)
    trainings = _grid(options, data)
    trunk = None
    if options.weights:
        trunk = load_trunk(
            options.weights,
            weights_dir=options.weights_dir,
            download=options.download,
            work_dir=options.work_dir,
            data=data,
            seq_len=joint_grid.size(options.preset, "seq_len", options.seq_len),
        )
    study = _study(options, data, trunk)
    run.rename(f"joint {study[:8]}")
    with only_one(options.work_dir / "joint" / f"{study}.lock"):
        run.take_over({"grid": study})
        trainer = JointStudy(options, run, data, study, trunk)
        outcomes = trainer.train(trainings)
        _report(run, trainings, study, outcomes)
        failed = outcomes.failed | trainer.keep_pair(trainings, outcomes.done)
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 1 if failed else 0


# --- what goes in -------------------------------------------------------------------------------------------------


def open_data(options: Options, say: bool = False) -> JointData:
    """Tracks and MPRA, as far as the modalities ask for them; with `say`, what is worth knowing of them is printed.

    Raises:
        InputError: a file is absent or wrong, or both have no cell type in common.
    """
    table = split = source = None
    mpra_len, seq_len = (
        joint_grid.size(options.preset, name, getattr(options, name)) for name in ("mpra_len", "seq_len")
    )
    if set(options.modalities) != {"tracks"}:
        columns = MpraColumns(
            sequence=options.mpra_sequence,
            activity=options.mpra_activity,
            replicates=options.mpra_replicates,
            spread=options.mpra_spread,
            replicate_count=options.mpra_replicate_count,
            label=options.mpra_label,
            cell_type=options.mpra_cell_type,
            chromosome=options.mpra_chromosome,
        )
        path: Path | str = options.mpra
        if options.mpra == "demo":
            path = demo_mpra.demo_joint_inputs(options.work_dir) / "mpra.tsv"
            columns = MpraColumns(replicates=("activity_rep1", "activity_rep2"))
        table = read_mpra(
            path,
            columns,
            fasta=options.mpra_fasta or None,
            cell_type=options.mpra_cell_type_name,
            max_length=mpra_len,
        )
        if options.mpra_log2 is not None:
            table = log2_activity(table, options.mpra_log2)
        split = split_mpra(
            table, seed=_SPLIT_SEED, valid_chromosomes=options.mpra_valid, test_chromosomes=options.mpra_test
        )
    if set(options.modalities) != {"mpra"}:
        source = _open_tracks(options)
    if say:
        notes = [note for part in (table, split, source) if part is not None for note in part.notes]
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
    return join(table, split, source, mpra_len=mpra_len, seq_len=seq_len)


def _open_tracks(options: Options) -> CoverageSource:
    if options.tracks == "demo":
        if options.mpra != "demo" and set(options.modalities) != {"tracks"}:
            raise InputError(
                f"--tracks: found demo beside --mpra {options.mpra}; give --tracks TABLE and --fasta GENOME, or choose "
                "--modalities mpra"
            )
        demo = demo_mpra.demo_joint_inputs(options.work_dir)
        return _named(
            open_coverage,
            demo / "genome.fa",
            demo / "targets.txt",
            valid=[demo_mpra.VALID],
            test=[demo_mpra.TEST],
            work_dir=options.work_dir,
            tracks=options.track_names,
        )
    if not options.fasta:
        raise InputError(
            f"--fasta: found nothing; --tracks {options.tracks} needs the genome that they are on"
        )
    for name in ("track_valid", "track_test"):
        if not getattr(options, name):
            raise InputError(f"--{name}: found nothing; name at least one chromosome of {options.fasta}")
    return _named(
        open_coverage,
        options.fasta,
        options.tracks,
        valid=options.track_valid,
        test=options.track_test,
        regions=options.track_regions or None,
        work_dir=options.work_dir,
        tracks=options.track_names,
    )


_OPTIONS_OF = {"--tracks:": "--track_names:", "valid names": "--track_valid:", "test names": "--track_test:"}
_OPTIONS_OF |= {"bed ": "--track_regions "}


def _named(opened: Callable[..., CoverageSource], *arguments: Any, **options: Any) -> CoverageSource:
    """What the call gives; an InputError names the options of this command."""
    try:
        return opened(*arguments, **options)
    except InputError as error:
        for words, name in _OPTIONS_OF.items():
            if str(error).startswith(words):
                raise InputError(f"{name}{str(error).removeprefix(words)}") from None
        raise


def _study(options: Options, data: JointData, trunk: JointTrunk | None) -> str:
    """A hash of all that numbers depend on beside what is swept: the same command finds its own runs again by it."""
    chosen = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_OF_THE_STUDY
    }
    digest = trunk.digest if trunk is not None else ""
    return fingerprint(
        {**chosen, "data": data.digest, "trunk": digest, "model": _MODEL, "version": __version__}
    )


def _grid(options: Options, data: JointData) -> list[Training]:
    """The trainings that are asked for, refused where one cannot be.

    Raises:
        InputError: names the option.
    """
    hidden = options.holdout_cell_type
    if not hidden:
        of_demo = options.mpra == options.tracks == "demo" and data.mpra is not None
        hidden = (_DEMO_HOLDOUT,) if of_demo else (joint_grid.NONE,)
    for name in hidden:
        joint_grid.check_hidden(name, options.modalities, data)
    lists = {name: getattr(options, name) for name in joint_grid.SWEPT} | {"holdout_cell_type": hidden}
    trainings = joint_grid.combinations(lists)
    for training in trainings:
        joint_grid.configuration(training, data, options.preset, dataclasses.asdict(options))
        if training.modalities != "tracks":
            joint_grid.labels(training, data)
        if training.modalities != "mpra":
            _check_room(training, data, options.num_track_valid_samples)
    return trainings


def _check_room(training: Training, data: JointData, held_out: int) -> None:
    assert data.tracks is not None
    for subset, name, count in (
        ("train", "num_track_train_samples", training.values["num_track_train_samples"]),
        ("valid", "num_track_valid_samples", held_out),
        ("test", "num_track_valid_samples", held_out),
    ):
        try:
            data.tracks.source.check_room(subset, count, data.tracks.length)
        except InputError as error:
            raise InputError(f"--seq_len {data.tracks.length}, --{name} {count}: {error}") from None


# --- what comes out -----------------------------------------------------------------------------------------------

# The columns of results that people compare; a child run has all of its numbers.
_COLUMNS = ("name", "setting", "modalities", "seed")


def _report(run: "Run", trainings: list[Training], study: str, outcomes: Outcomes[Trained]) -> None:
    """Tables and pictures of all trainings, what joint training brings, and the same in words."""
    for name, why in outcomes.failed.items():
        print(f"failed: {name}: {why}")
    if not outcomes.done:
        return
    results = results_table(trainings, outcomes.done)
    numbers = [name for name in results if "/" in name and not name.startswith("seconds/")]
    held_out = {"pearson/activity": "sequences", "pearson/coverage": "windows"}
    what = [words for name, words in held_out.items() if name in results]
    run.keep_table("results", results[[*_COLUMNS, *numbers]])
    with tempfile.TemporaryDirectory() as temporary:
        run.keep(
            reporting.write_joint_figure(
                results, f"Held-out {' and '.join(what) or 'sequences'}", Path(temporary, "joint.png")
            )
        )
    print("\nHeld-out Pearson r, means over cell types; mean and sd over seeds")
    print(reporting.joint_text(results))
    own = [name for name in reporting.JOINT_NUMBERS if name in results]
    summary = {
        f"{name}/{modalities}": float(part[name].mean())
        for name in own
        for modalities, part in results.groupby("modalities")
    }
    differences = joint_evaluation.paired_differences(results, own, "both", "mpra")
    if not differences.empty:
        run.keep_table("differences", differences)
        print(f"\nWhat tracks add to MPRA:\n{reporting.differences_text(differences, 'both', 'mpra')}")
        for row in differences.itertuples():
            if not row.setting:
                summary |= {
                    f"gain/{row.number.partition('/')[2]}{end}": getattr(row, name)
                    for end, name in (("", "difference"), ("_low", "low"), ("_high", "high"))
                }
    run.summarize(summary)
    first = next(
        (trained.comparison for trained in outcomes.done.values() if trained.comparison is not None), None
    )
    if first is not None:
        name = next(name for name, trained in outcomes.done.items() if trained.comparison is first)
        print(f"\n{name}, by cell type: Pearson r (95% interval over clusters of near-duplicates)")
        print(reporting.cell_types_text(first, joint_evaluation.PREDICTORS))
    how = run.share_comparison(
        study,
        group="modalities",
        colors=reporting.variant_colors(list(dict.fromkeys(results["modalities"]))),
        metrics=[
            name
            for name in (
                "pearson/activity_hidden",
                "pearson/activity",
                "pearson/coverage",
                "spearman/activity",
                "pearson/kmers",
                "pearson/gc",
                "best/nucleotide_gain",
            )
            if name in results
        ],
        params=("holdout_cell_type", "d_model", "num_latents", "learning_rate"),
        series=(
            "validation/loss",
            "validation/activity_pearson",
            "validation/coverage_pearson",
            "validation/nucleotide_gain",
        ),
        others="Activity, coverage, baselines and letters",
    )
    print(f"\nTo compare the trainings (start the UI first where a command stands above the address):\n{how}")
