"""Train a new track head on a trunk that stays as it is."""

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from enformer_core.enformer import BIN_SIZE_BP, Enformer
from enformer_core.heads import TRACK_HEADS, TrackHeadConfig
from enformer_core.track_model import TrackModel
from mlproject import baselines, reporting, weights
from mlproject.data.head_dataset import open_head_dataset
from mlproject.data.published_h5 import is_prefix
from mlproject.data.records import TrackDataset
from mlproject.data.targets import as_rows
from mlproject.embeddings import trunk_embeddings, trunk_key
from mlproject.errors import InputError
from mlproject.evaluation import mean_over_tracks
from mlproject.head_training import HeadTrainer, StoredWindows, loss_function
from mlproject.resuming import StepCheckpoints, fingerprint, fit_keeping_best, only_one
from mlproject.signal_tables import SignalSample, sample_name, table_name, windows_of
from mlproject.studies import TRAINING_REGIONS, Outcomes, train_each
from mlproject.training import Schedule

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a new track head on a frozen trunk, from embeddings that are computed once."""

    data: str = "demo"
    """Dataset folder in the Basenji layout, PREFIX of published PREFIX.N.h5 files, or demo: made-up data."""
    organism: str = "human"
    """Folder of the dataset; the head gets its name. Of h5 files: what to call the head."""
    valid_files: int = 0
    """Of h5 files, how many are the validation split, from the first on. 0: a fifth, as published."""
    test_files: int = 0
    """Of h5 files, how many are the test split, the next ones. 0: none, so that eval_split must be valid."""
    weights: str = "random"
    """Trunk: a checkpoint folder, published, a PyTorch state dict, runs:/..., models:/..., or random."""
    weights_dir: str = ""
    """Where the published weights are, in place of the variable ENFORMERBASELINE."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of a random trunk; other weights have their own."""
    head: Literal["linear", "hidden", "attention"] = "linear"
    """Layers before softplus: a linear one, a hidden and a linear one, or attention beside the embedding."""
    hidden_size: int = 0
    """Channels of a hidden layer. 0: what head says."""
    num_heads: int = 0
    """Heads of the attention layer. 0: what head says."""
    key_size: int = 64
    """Size of the attention layer's keys, for each head."""
    value_size: int = 64
    """Size of the attention layer's values, for each head."""
    dropout: float = 0.0
    """Share of what each layer of the head reads, the embedding too, that is dropped in training."""
    loss: Literal["poisson", "poisson_multinomial"] = "poisson"
    """Poisson for each bin, or for each track's total, with a multinomial for where in the window it lies."""
    total_weight: float = 0.2
    """Of poisson_multinomial: weight of the totals beside where they lie."""
    epochs: int = 20
    """Epochs of steps_per_epoch steps; validation follows each, and the best one is kept."""
    steps_per_epoch: int = 400
    """Training steps of an epoch."""
    batch_size: int = 4
    """Windows of a training step."""
    learning_rate: float = 5.0e-4
    """Learning rate of Adam after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    weight_decay: float = 0.0
    """Share of the head's weights, times learning_rate, that each step takes from them (AdamW)."""
    patience: int = 0
    """Epochs without a lower validation loss after which a training ends (0: never)."""
    reverse_complement: bool = False
    """Show each training window on a strand drawn at random; keeps twice the embeddings."""
    seeds: tuple[int, ...] = (42,)
    """Seeds: of the head's first weights, a random trunk (the first seed) and the order of windows."""
    cache: Literal["on", "off"] = "on"
    """Whether embeddings are computed once and kept in work_dir, or computed in every step."""
    eval_split: Literal["test", "valid"] = "test"
    """Split of the final evaluation, whole: test or valid."""
    checkpoint_seconds: float = 60.0
    """A training that is killed loses at most this much and one epoch."""
    work_dir: Path = Path("work")
    """Folder for the demo, embeddings, fetched weights and the checkpoints of unfinished trainings."""
    experiment: str = "train_head"
    """MLflow experiment."""


# What may differ between two commands that continue the same study.
_NOT_OF_THE_STUDY = (
    "data",
    "weights",
    "weights_dir",
    "download",
    "preset",
    "seeds",
    "work_dir",
    "experiment",
    "checkpoint_seconds",
)
_WINDOWS_SHOWN = 3
_TRACKS_SHOWN = 2


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    for name in ("epochs", "steps_per_epoch", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: found {getattr(options, name)}; it must be 1 or more")
    for name in (
        "warmup_steps",
        "learning_rate",
        "clip_norm",
        "weight_decay",
        "patience",
        "total_weight",
        "hidden_size",
        "num_heads",
        "valid_files",
        "test_files",
        "checkpoint_seconds",
    ):
        if not getattr(options, name) >= 0:
            raise InputError(f"--{name}: found {getattr(options, name)}; it cannot be negative")
    for seed in options.seeds:
        if not 0 <= seed < 2**31:
            raise InputError(f"--seeds: found {seed}; it must be from 0 to {2**31 - 1}")
    if not options.seeds or len(set(options.seeds)) != len(options.seeds):
        raise InputError(
            f"--seeds: found {','.join(map(str, options.seeds))!r}; give at least one, each once"
        )
    weights.check(options.weights, options.weights_dir, options.download)
    _head(options, num_tracks=1)
    of_h5 = is_prefix(options.data)
    _refuse_unused(options, of_h5)
    if of_h5 and options.eval_split == "test" and not options.test_files:
        raise InputError(
            "--eval_split test: needs --test_files, as h5 files have no test split; or give valid"
        )
    open_data(options, say=lambda line: None)


def _refuse_unused(options: Options, of_h5: bool) -> None:
    """Refuses options that would do nothing, where they are not what they are by default."""
    has_attention = _head(options, num_tracks=1).num_heads > 0
    attention = f"--head attention, or --num_heads; found --head {options.head}"
    h5_files = f"published h5 files; found --data {options.data}"
    for name, used, of in (
        ("valid_files", of_h5, h5_files),
        ("test_files", of_h5, h5_files),
        ("key_size", has_attention, attention),
        ("value_size", has_attention, attention),
        ("total_weight", options.loss != "poisson", f"--loss poisson_multinomial; found {options.loss}"),
        ("preset", options.weights == "random", f"--weights random; found {options.weights}"),
    ):
        if not used and getattr(options, name) != getattr(Options, name):
            raise InputError(f"--{name}: is for {of}")


def run(options: Options, run: "Run") -> int:
    """Trains what is missing of the study: one head for each seed.

    Returns:
        0, or 1 when a seed failed; the others have run all the same.
    """
    began = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    dataset = open_data(options)
    enformer = load_trunk(options, dataset)
    study = _study(options, dataset, trunk_key(enformer))
    run.rename(f"train_head {study[:8]}")
    with only_one(options.work_dir / "train_head" / f"{study}.lock"):
        run.take_over({"grid": study})
        outcomes = _train_seeds(options, run, dataset, enformer, study)
    _report(options, run, study, outcomes)
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 1 if outcomes.failed else 0


# --- what goes in -------------------------------------------------------------------------------------------------


def open_data(options: Options, say: Callable[[str], None] = print) -> TrackDataset:
    """The dataset, read once from end to end; `say` as `import_h5` takes it."""
    return open_head_dataset(
        options.data,
        options.organism,
        options.work_dir,
        valid_files=options.valid_files,
        test_files=options.test_files,
        eval_split=options.eval_split,
        say=say,
    )


def load_trunk(options: Options, dataset: TrackDataset) -> Enformer:
    """The trunk at the dataset's lengths."""
    statistics = dataset.statistics
    try:
        return weights.load_trunk(
            options.weights,
            weights_dir=options.weights_dir,
            download=options.download,
            work_dir=options.work_dir,
            random=lambda: weights.untrained(
                options.preset, statistics.seq_length, options.seeds[0], dataset.head_bins()
            ),
            sequence_length=statistics.seq_length,
            target_length=dataset.head_bins(),
        )
    except ValueError as error:
        raise InputError(f"{dataset.path / 'statistics.json'}: {error}") from error


def _head(options: Options, num_tracks: int) -> TrackHeadConfig:
    chosen = {
        **TRACK_HEADS[options.head],
        **{name: size for name in ("hidden_size", "num_heads") if (size := getattr(options, name))},
    }
    try:
        return TrackHeadConfig(
            num_tracks,
            key_size=options.key_size,
            value_size=options.value_size,
            dropout=options.dropout,
            **chosen,
        )
    except ValueError as error:
        raise InputError(f"--{error}") from None


def _study(options: Options, dataset: TrackDataset, trunk: str) -> str:
    """A hash of all that the numbers depend on: the same command finds its own runs again by it."""
    chosen = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_OF_THE_STUDY
    }
    return fingerprint({**chosen, "dataset": dataset.digest, "trunk": trunk})


# --- training -----------------------------------------------------------------------------------------------------


class _Trained(NamedTuple):
    """What is wanted of a child run that is done: its ID, final numbers and table of tracks."""

    run_id: str
    metrics: dict[str, float]
    tracks: pd.DataFrame


def _train_seeds(
    options: Options, run: "Run", dataset: TrackDataset, enformer: Enformer, study: str
) -> Outcomes[_Trained]:
    @functools.cache
    def shared() -> HeadTrainer:
        """Made for the first seed that is not done, then used for all."""
        return trainer(options, dataset, enformer)

    return train_each(
        run,
        [str(seed) for seed in options.seeds],
        lambda child, seed, folder, label: train_child(options, child, shared(), int(seed), folder, label),
        lambda child: _Trained(child.id, child.metrics(), child.table(f"tracks_{dataset.organism}")),
        what="seed",
        study=study,
        folder=options.work_dir / "train_head" / study,
        params=lambda seed: _params(options, int(seed)),
        said=lambda trained: f"pearson/mean {trained.metrics.get('pearson/mean', math.nan):.4f}",
        batch_size=options.batch_size,
    )


# Options of a child that are worth a column beside its seed.
_SHARED_PARAMS = (
    "data",
    "organism",
    "weights",
    "head",
    "loss",
    "epochs",
    "steps_per_epoch",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "reverse_complement",
)


def _params(options: Options, seed: int) -> dict[str, Any]:
    """Parameters of a child: columns in which the runs of studies differ."""
    head = dataclasses.asdict(_head(options, num_tracks=1))
    sizes = {name: head[name] for name in ("hidden_size", "num_heads", "dropout")}
    return {"seed": seed, **{name: getattr(options, name) for name in _SHARED_PARAMS}, **sizes}


def trainer(
    options: Options, dataset: TrackDataset, enformer: Enformer, *, to_train: bool = True
) -> HeadTrainer:
    """What trains as the options say, with its embeddings computed, where they are kept, and compiled if `to_train`.

    The trunk's own heads are taken off.

    Raises:
        InputError: embeddings or targets cannot be kept.
    """
    stored = None
    if options.cache == "on":
        stored = StoredWindows(
            trunk_embeddings(options.work_dir, enformer),
            options.work_dir / "targets" / dataset.state[:16],
            dataset,
            list(dict.fromkeys(["train", "valid", options.eval_split])),
            options.reverse_complement,
        )
    model = TrackModel(enformer, _head(options, dataset.statistics.num_targets), dataset.organism)
    model.tracks[dataset.organism] = as_rows(dataset.targets)
    made = HeadTrainer(
        model,
        dataset,
        loss=loss_function(options.loss, options.total_weight),
        batch_size=options.batch_size,
        clip_norm=options.clip_norm,
        weight_decay=options.weight_decay,
        reverse_complement=options.reverse_complement,
        stored=stored,
        work_dir=options.work_dir,
    )
    made.fill()
    if to_train:
        made.compile()
    return made


def train_child(
    options: Options, child: "Run", trainer: HeadTrainer, seed: int, folder: Path, label: str
) -> None:
    """Trains a head from one seed, or goes on with it, and keeps what came of it.

    The run keeps series of the losses, tables and a picture of how well tracks are predicted, final numbers, the head
    alone, the checkpoint and the model.

    Args:
        options: those that the trainer was made with.
        child: its own run, new or to go on with.
        trainer: for one seed after another; left with the head of the epoch of the lowest validation loss.
        seed: of the head's first weights, the order of windows and dropout.
        folder: for the checkpoints of a training under way, of this run alone; the caller removes it afterwards.
        label: what to call the training in a line.

    Raises:
        Stopped: SIGTERM or Ctrl-C; the same call goes on from there.
        Diverged: a loss became NaN or infinite.
    """
    began = time.perf_counter()
    dataset, steps = trainer.dataset, options.steps_per_epoch
    child.use_dataset(
        name=f"{Path(options.data).name}/{dataset.organism}",
        digest=dataset.digest,
        source=str(dataset.path),
        context="training",
    )
    child.tag({TRAINING_REGIONS: dataset.describe("train")})
    saved = StepCheckpoints(
        folder, trainer.model.head.variables, trainer.optimizer, options.checkpoint_seconds
    )
    trainer.reset(seed)
    start = saved.restore()
    if start:
        print(f"{label}: goes on after step {start}", flush=True)

    def measure() -> dict[str, float]:
        found = trainer.evaluate("valid")
        return {"validation/loss": found.loss, "validation/pearson": mean_over_tracks(found.pearson_r)}

    result = fit_keeping_best(
        trainer.step,
        trainer.batches(seed, start),
        Schedule(options.epochs, steps, options.warmup_steps, options.learning_rate),
        child.log,
        saved,
        measure=measure,
        losses=child.series("validation/loss")[: start // steps],
        patience=options.patience,
        flush=child.flush,
        seed=seed,
        start=start,
        label=label,
    )
    child.summarize({"seconds/train": result.seconds, "best/step": saved.restore_best()})
    child.summarize(_keep_evaluation(options, child, trainer))
    with tempfile.TemporaryDirectory() as temporary:
        trainer.save(Path(temporary), options.weights)
        for name in ("head", "checkpoint"):
            child.keep(Path(temporary, name))
        bins, tracks = dataset.head_bins(), dataset.statistics.num_targets
        child.log_model(
            Path(temporary, "saved_model"),
            name="model",
            input_shape=(-1, dataset.statistics.seq_length, 4),
            output_shapes={dataset.organism: (-1, bins, tracks)},
        )
    child.summarize({"seconds/total": time.perf_counter() - began})


# --- what comes out -----------------------------------------------------------------------------------------------


def _keep_evaluation(options: Options, child: "Run", trainer: HeadTrainer) -> dict[str, float]:
    """Evaluates the whole split, keeps tables, signal and figure and returns the final numbers."""
    dataset, split = trainer.dataset, options.eval_split
    sample = SignalSample(dataset, split, dataset.count(split))
    found = trainer.evaluate(split, sample.see)
    child.keep_parquet(table_name(dataset.organism), sample.table())
    child.keep_parquet(sample_name(dataset.organism), sample.sequence_table())
    tables, numbers = reporting.track_results(
        dataset.targets, found.pearson_r, found.r2, found.n, organism=dataset.organism
    )
    others = baselines.track_baselines(dataset, split)
    table = tables[f"tracks_{dataset.organism}"]
    for name, other in others.items():
        table[f"pearson_r_{name}"] = other
        numbers[f"pearson/{name}"] = mean_over_tracks(other)
    for name, frame in tables.items():
        child.keep_table(name, frame)
    _keep_figure(child, trainer, "valid", trainer.evaluate("valid").pearson_r)
    return {**numbers, f"{split}/loss": found.loss, f"{split}/windows": dataset.count(split)}


def _keep_figure(child: "Run", trainer: HeadTrainer, split: str, pearson_r: np.ndarray) -> None:
    """Draws predicted against measured signal: the tracks of the best and of the median r, in the first windows."""
    dataset = trainer.dataset
    order = np.argsort(np.nan_to_num(pearson_r, nan=-2))[::-1]
    known = max(1, int(np.count_nonzero(~np.isnan(pearson_r))))
    shown = list(dict.fromkeys([int(order[0]), int(order[known // 2])]))[:_TRACKS_SHOWN]
    predicted, measured = trainer.predict(split, _WINDOWS_SHOWN)
    windows = windows_of(dataset, split)[: len(predicted)]
    panels = []
    for track in shown:
        row = dataset.targets.iloc[track]
        name = f"{row['identifier']} {row['description']}".strip()
        label = f"{name}, r = {pearson_r[track]:.2f} over all {split} windows"
        for window, signal, truth in zip(windows, predicted, measured, strict=True):
            signals = (signal[:, track], None, truth[:, track])
            panels.append(reporting.SignalPanel(label, window.chrom, window.start, BIN_SIZE_BP, *signals))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "windows.png")
        child.keep(reporting.write_signal_figure(panels, f"{dataset.organism}: {split} windows", path))


def _report(options: Options, run: "Run", study: str, outcomes: Outcomes[_Trained]) -> None:
    """The study's numbers over its seeds, in the store and in words."""
    for seed, why in outcomes.failed.items():
        print(f"failed: seed {seed}: {why}")
    done = list(outcomes.done.values())
    if not done:
        return
    categories = reporting.category_summary(done[0].tracks)["category"]
    # first what the comparison is ordered by
    names = [f"pearson/{name}" for name in ("mean", *categories, *baselines.OF_TRACKS)]
    values = {name: [trained.metrics.get(name, math.nan) for trained in done] for name in names}
    run.summarize({name: float(np.mean(found)) for name, found in values.items()})
    print(f"\nPearson r on the {options.eval_split} split, a mean over tracks; mean and sd over seeds")
    print(reporting.numbers_text({name.removeprefix("pearson/"): found for name, found in values.items()}))
    how = run.share_comparison(
        study,
        group="seed",
        colors=reporting.variant_colors(list(outcomes.done)),
        metrics=names,
        params=("head", "loss", "learning_rate"),
        series=("loss", "validation/loss", "validation/pearson"),
    )
    print(f"\nTo compare the seeds (start the UI first where a command stands above the address):\n{how}")
    print("\nTo predict with what was trained:")
    for seed, trained in outcomes.done.items():
        print(f"seed {seed}: python -m mlproject predict --weights runs:/{trained.run_id}")
    if options.weights == "random":
        print("The trunk has random weights: this says nothing of a pretrained Enformer.")
