"""Train the eight Enformer variants over seeds and compare them track by track."""

import dataclasses
import gc
import itertools
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import tensorflow as tf

from enformer_core import checkpoints, initial
from enformer_core.enformer import VARIANTS, EnformerConfig, preset, variant
from mlproject import __version__, precision, reporting
from mlproject.bench import Bench
from mlproject.data.batches import training_batches
from mlproject.data.demo import demo_dataset
from mlproject.data.records import TrackDataset, open_dataset, verify
from mlproject.data.targets import as_rows
from mlproject.errors import InputError, OutOfMemory, Stopped, one_line
from mlproject.evaluation import mean_over_tracks
from mlproject.options import nearest
from mlproject.resuming import StepCheckpoints, fingerprint, fit_resumably, only_one
from mlproject.signal_tables import SignalSample, sample_name, table_name
from mlproject.studies import TRAINING_REGIONS
from mlproject.training import Batch, Schedule, TrainResult

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the eight Enformer variants (Komlós encoding x rotary positions x rank-1 values) over seeds."""

    data: str = "demo"
    """Dataset folder in the Basenji layout (DATA/ORGANISM/statistics.json, ...), or demo: made-up data, built here."""
    organisms: tuple[str, ...] = ("human",)
    """Folders of the dataset to train on, in turn; each gets a head of its own. The first one names the results."""
    variants: tuple[str, ...] = VARIANTS
    """Variants to train: any of vanilla, komlos, rope, rank1, komlos_rope, komlos_rank1, rope_rank1, all."""
    seeds: tuple[int, ...] = (42, 123, 2025)
    """Seeds: of initial weights, order of examples, augmentation and dropout."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of the model: full (1536 channels, 11 layers), quarter (384 channels) or tiny (seconds on a laptop)."""
    family: Literal["enformer", "ecozoi"] = "enformer"
    """enformer, or ecozoi: attention as the published ablation code really built it."""
    epochs: int = 20
    """Epochs of steps_per_epoch steps; validation follows each."""
    steps_per_epoch: int = 5
    """Training steps of an epoch."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly."""
    learning_rate: float = 5.0e-4
    """Learning rate of Adam after the warm-up."""
    batch_size: int = 1
    """Windows of a training step."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of training steps: float32, or bfloat16 (variables, sums of normalisations and heads stay float32)."""
    recompute: Literal["auto", "always", "never"] = "auto"
    """Whether steps compute activations again for the gradients: less memory, more time; auto: for long input."""
    reverse_complement: bool = False
    """Show each training window on a strand drawn at random."""
    max_shift: int = 0
    """Shift each training sequence by up to this many bp either way."""
    eval_steps: int = 256
    """Batches of the final evaluation, exactly; a smaller split is evaluated whole, and no window counts twice."""
    eval_split: Literal["test", "valid"] = "test"
    """Split of the final evaluation: test or valid."""
    valid_steps: int = 16
    """Batches of the validation split that are evaluated after each epoch."""
    checkpoint_seconds: float = 10.0
    """A training that is killed loses at most this much and one epoch."""
    work_dir: Path = Path("work")
    """Folder for the demo data and the checkpoints of unfinished trainings."""
    experiment: str = "ablation"
    """MLflow experiment."""


# What may differ between two commands that continue the same grid.
_NOT_OF_THE_GRID = ("data", "variants", "seeds", "recompute", "work_dir", "experiment", "checkpoint_seconds")


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    for name in options.variants:
        if name not in VARIANTS:
            raise InputError(
                f"--variants: found {name!r}{nearest(name, VARIANTS)}; it can be {', '.join(VARIANTS)}"
            )
    for seed in options.seeds:
        if not 0 <= seed < 2**31:
            raise InputError(f"--seeds: found {seed}; it must be from 0 to {2**31 - 1}")
    for name in ("variants", "seeds", "organisms"):
        chosen = getattr(options, name)
        if not chosen or len(set(chosen)) != len(chosen):
            raise InputError(f"--{name}: found {','.join(map(str, chosen))!r}; give at least one, each once")
    for name in ("epochs", "steps_per_epoch", "batch_size", "eval_steps", "valid_steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: found {getattr(options, name)}; it must be 1 or more")
    for name in ("warmup_steps", "learning_rate", "clip_norm", "max_shift", "checkpoint_seconds"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name}: found {getattr(options, name)}; it cannot be negative")
    _open(options)
    precision.require(options.precision)


def run(options: Options, run: "Run") -> int:
    """Trains what is missing of the grid, then writes its tables, figures and comparison.

    Returns:
        0, or 1 when a variant failed; the others have run all the same.
    """
    began = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    datasets, config = _open(options)
    grid = _grid(options, datasets)
    run.rename(f"ablation {grid[:8]}")
    with only_one(options.work_dir / "ablation" / f"{grid}.lock"):
        run.take_over({"grid": grid})
        outcomes = _train_grid(options, run, datasets, config, grid)
    _report(options, run, datasets, outcomes, grid)
    steps = sum(outcome.seconds_in_steps for outcome in outcomes)
    run.summarize({"seconds/total": time.perf_counter() - began, "seconds/in_steps": steps})
    return 1 if any(outcome.failure for outcome in outcomes) else 0


# --- what goes in -------------------------------------------------------------------------------------------------


def _open(options: Options) -> tuple[dict[str, TrackDataset], EnformerConfig]:
    """The datasets, read once from end to end, and the configuration of `vanilla` on them."""
    folder = demo_dataset(options.work_dir) if options.data == "demo" else Path(options.data).resolve()
    datasets = {organism: open_dataset(folder, organism) for organism in options.organisms}
    for dataset in datasets.values():
        for subset in {"train", "valid", options.eval_split}:
            dataset.shards(subset)
        dataset.places(options.eval_split)
    config = _configuration(options, datasets)
    for dataset in datasets.values():
        verify(dataset, options.work_dir)
    return datasets, config


def _configuration(options: Options, datasets: Mapping[str, TrackDataset]) -> EnformerConfig:
    lengths = {
        name: (dataset.statistics.seq_length, dataset.head_bins()) for name, dataset in datasets.items()
    }
    if len(set(lengths.values())) > 1:
        found = "; ".join(f"{name} {length} bp, {bins} bins" for name, (length, bins) in lengths.items())
        raise InputError(f"--organisms: one model needs windows of one size, found {found}; build them alike")
    sequence_length, bins = next(iter(lengths.values()))
    try:
        return preset(
            options.preset,
            heads={name: dataset.statistics.num_targets for name, dataset in datasets.items()},
            sequence_length=sequence_length,
            target_length=bins,
        )
    except ValueError as error:
        raise InputError(f"{next(iter(datasets.values())).path / 'statistics.json'}: {error}") from error


def _grid(options: Options, datasets: Mapping[str, TrackDataset]) -> str:
    """A hash of all that the numbers of a grid depend on: the same command finds its own runs again by it."""
    chosen = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_OF_THE_GRID
    }
    chosen["datasets"] = {name: dataset.digest for name, dataset in datasets.items()}
    chosen["version"] = __version__
    return fingerprint(chosen)


# --- training -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Outcome:
    """What one child run ended with: final numbers and the track table of each organism, or a failure."""

    variant: str
    seed: int
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    tracks: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    failure: str = ""
    seconds_in_steps: float = 0.0


def _train_grid(
    options: Options, run: "Run", datasets: Mapping[str, TrackDataset], config: EnformerConfig, grid: str
) -> list[_Outcome]:
    outcomes = []
    total = len(options.variants) * len(options.seeds)
    steps = f"{options.epochs} epochs x {options.steps_per_epoch} steps"
    print(
        f"grid {grid}: {len(options.variants)} variants x {len(options.seeds)} seeds, {steps} each",
        flush=True,
    )
    for name in options.variants:
        chosen = variant(config, name, options.family)
        bench = None  # built for the first seed that is not done, then used for all
        gc.collect()  # traced functions hold the model of the variant before in a cycle
        for seed in options.seeds:
            outcome = _Outcome(name, seed)
            outcomes.append(outcome)
            label = f"[{len(outcomes)}/{total}] {name} seed {seed}"
            key = {"grid": grid, "variant": name, "seed": str(seed)}
            params = _params(options, chosen, name, seed)
            try:
                with run.child(f"{name}-{seed}", key=key, params=params) as child:
                    # With the run in its name: a run that is new has no history that a checkpoint could continue.
                    folder = options.work_dir / "ablation" / grid / f"{name}-{seed}-{child.id}"
                    if not child.done:
                        bench = bench or _bench(options, datasets, chosen)
                        outcome.seconds_in_steps = _train_child(options, child, bench, seed, folder, label)
                    outcome.metrics = child.metrics()
                    outcome.tracks = {organism: child.table(f"tracks_{organism}") for organism in datasets}
                shutil.rmtree(folder, ignore_errors=True)
                state = "was done before" if child.done else f"{outcome.metrics['seconds/total']:.1f} s"
                print(f"{label}: pearson/mean {outcome.metrics.get('pearson/mean', math.nan):.4f} ({state})")
            except Stopped as stopped:
                raise Stopped(
                    f"{stopped} in {name} seed {seed}; the same command goes on from there"
                ) from None
            except tf.errors.ResourceExhaustedError as error:
                raise OutOfMemory(
                    f"{label}: out of memory with --preset {options.preset} --batch_size {options.batch_size} "
                    f"({one_line(error)}); choose a smaller one or --recompute always, what is trained already is kept"
                ) from None
            except InputError:  # what the user can mend would fail the other runs too
                raise
            except Exception as error:
                outcome.metrics, outcome.tracks = {}, {}
                outcome.failure = one_line(error)
                print(f"{label}: FAILED: {outcome.failure}")
            sys.stdout.flush()
    return outcomes


# Options of a child that are worth a column beside its variant.
_SHARED_PARAMS = (
    "data",
    "preset",
    "epochs",
    "steps_per_epoch",
    "warmup_steps",
    "learning_rate",
    "batch_size",
    "clip_norm",
    "precision",
    "reverse_complement",
    "max_shift",
)


def _params(options: Options, config: EnformerConfig, name: str, seed: int) -> dict[str, Any]:
    """Parameters of a child: columns in which the runs of grids differ."""
    return {
        "variant": name,
        "seed": seed,
        **{field: getattr(config, field) for field in ("encoding", "positions", "values", "family")},
        **{field: getattr(options, field) for field in _SHARED_PARAMS},
        "organisms": ",".join(options.organisms),
    }


def _bench(options: Options, datasets: Mapping[str, TrackDataset], config: EnformerConfig) -> Bench:
    return Bench(
        config,
        datasets,
        batch_size=options.batch_size,
        clip_norm=options.clip_norm,
        precision=options.precision,
        recompute=options.recompute,
        loss_names={organism: _prefix("loss", organism, options) for organism in datasets},
    )


def _train_child(options: Options, child: "Run", bench: Bench, seed: int, folder: Path, label: str) -> float:
    """Trains one variant from one seed, or goes on with it, and keeps what came of it; returns seconds in steps."""
    began = time.perf_counter()
    bench.seconds_evaluating = 0.0
    for organism, dataset in bench.datasets.items():
        name = f"{Path(options.data).name}/{organism}"
        child.use_dataset(name=name, digest=dataset.digest, source=str(dataset.path), context="training")
    regions = [f"{organism}: {dataset.describe('train')}" for organism, dataset in bench.datasets.items()]
    child.tag({TRAINING_REGIONS: "; ".join(regions)})
    saved = StepCheckpoints(folder, bench.model.variables, bench.optimizer, options.checkpoint_seconds)
    start = saved.restore()
    if start:
        print(f"{label}: goes on after step {start}", flush=True)
    else:
        initial.initialize(bench.model, seed)
        bench.optimizer.reset()
    result = _fit(options, child, bench, saved, seed, start, label)
    summary = _keep_evaluation(options, child, bench)
    steps = result.seconds + bench.seconds_evaluating
    child.summarize(
        {**summary, "seconds/train": result.seconds, "seconds/evaluate": bench.seconds_evaluating}
    )
    _keep_model(child, bench)
    child.summarize({"seconds/total": time.perf_counter() - began})
    return steps


def _fit(
    options: Options, child: "Run", bench: Bench, saved: StepCheckpoints, seed: int, start: int, label: str
) -> TrainResult:
    schedule = Schedule(options.epochs, options.steps_per_epoch, options.warmup_steps, options.learning_rate)

    def validate(step: int) -> None:
        for organism, found in bench.evaluate("valid", options.valid_steps).items():
            child.log(
                step,
                {f"{_prefix('validation', organism, options)}/pearson": mean_over_tracks(found.pearson_r)},
            )

    return fit_resumably(
        bench.step,
        _in_turn(options, bench.datasets, seed, start),
        schedule,
        child.log,
        saved,
        flush=child.flush,
        validate=validate,
        seed=seed,
        start=start,
        label=label,
    )


def _keep_evaluation(options: Options, child: "Run", bench: Bench) -> dict[str, float]:
    """Evaluates, keeps the tables and some of the signal, and returns the final numbers."""
    windows = options.eval_steps * options.batch_size
    samples = {
        organism: SignalSample(dataset, options.eval_split, windows)
        for organism, dataset in bench.datasets.items()
    }
    see = {organism: sample.see for organism, sample in samples.items()}
    # Losses come from the store, for a training that was stopped in its last epoch or after it.
    summary: dict[str, float] = {}
    for organism, found in bench.evaluate(options.eval_split, options.eval_steps, see).items():
        targets = bench.datasets[organism].targets
        tables, numbers = reporting.track_results(
            targets,
            found.pearson_r,
            found.r2,
            found.n,
            organism=organism,
            prefix=_prefix("pearson", organism, options),
        )
        for name, table in tables.items():
            child.keep_table(name, table)
        child.keep_parquet(table_name(organism), samples[organism].table())
        child.keep_parquet(sample_name(organism), samples[organism].sequence_table())
        summary |= numbers
        losses = child.series(_prefix("loss", organism, options))[-options.steps_per_epoch :]
        summary[f"{_prefix('final', organism, options)}/train_loss"] = (
            float(np.mean(losses)) if losses else math.nan
        )
    return summary


def _keep_model(child: "Run", bench: Bench) -> None:
    config = bench.model.config
    with tempfile.TemporaryDirectory() as temporary:
        bench.model.tracks = {name: as_rows(dataset.targets) for name, dataset in bench.datasets.items()}
        checkpoints.save(Path(temporary, "checkpoint"), bench.model)
        child.keep(Path(temporary, "checkpoint"))
        saved_model = Path(temporary, "saved_model")
        bench.predictor.save(saved_model)
        child.log_model(
            saved_model,
            name="model",
            input_shape=(-1, config.sequence_length, 4),
            output_shapes={head: (-1, config.num_bins, tracks) for head, tracks in config.heads.items()},
        )


def _in_turn(
    options: Options, datasets: Mapping[str, TrackDataset], seed: int, start: int
) -> Iterator[Batch]:
    """Endless training batches, one organism after the other, each with the name of its head; already at step start."""
    streams = []
    for position, (organism, dataset) in enumerate(datasets.items()):
        done = (start + len(datasets) - 1 - position) // len(datasets)
        batches = training_batches(
            dataset,
            batch_size=options.batch_size,
            seed=seed,
            reverse_complement=options.reverse_complement,
            max_shift=options.max_shift,
            start=done,
            work_dir=options.work_dir,
        )
        streams.append(_named(organism, batches))
    for position in itertools.count(start):
        yield next(streams[position % len(streams)])


def _named(head: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield {"head": head, **batch}


# --- what comes out -----------------------------------------------------------------------------------------------


def _report(
    options: Options, run: "Run", datasets: Mapping[str, TrackDataset], outcomes: list[_Outcome], grid: str
) -> None:
    for organism in datasets:
        results = pd.DataFrame([_row(outcome, organism, options) for outcome in outcomes])
        tracks = {(o.variant, o.seed): o.tracks[organism] for o in outcomes if not o.failure}
        with tempfile.TemporaryDirectory() as temporary:
            for path in reporting.write_grid(results, tracks, organism, Path(temporary)):
                run.keep(path)
        print(
            f"\n{organism}: Pearson r on the {options.eval_split} split, a mean over tracks; mean and sd over seeds"
        )
        print(reporting.results_text(results))
    colors = reporting.variant_colors(options.variants)
    best = max((o.metrics.get("pearson/mean", -math.inf) for o in outcomes), default=-math.inf)
    run.summarize({"best/pearson_mean": best})
    how = run.share_comparison(grid, colors=colors)
    print(
        f"\nTo compare the runs of grid {grid} (start the UI first where a command stands above the address):\n{how}"
    )


def _row(outcome: _Outcome, organism: str, options: Options) -> dict[str, Any]:
    prefix = _prefix("pearson", organism, options) + "/"
    found = {
        name.removeprefix(prefix): value for name, value in outcome.metrics.items() if name.startswith(prefix)
    }
    found.pop("nan_tracks", None)
    return {
        "variant": outcome.variant,
        "seed": outcome.seed,
        "train_loss": outcome.metrics.get(f"{_prefix('final', organism, options)}/train_loss", math.nan),
        "pearson_mean": found.pop("mean", math.nan),
        **found,
        "failure": outcome.failure or None,
    }


def _prefix(name: str, organism: str, options: Options) -> str:
    """`pearson` for the first organism, which grids are compared by; `pearson_mouse` for another."""
    return name if organism == options.organisms[0] else f"{name}_{organism}"
