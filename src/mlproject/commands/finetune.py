"""Fine-tune a trunk on constructs and their measured activity, fold by fold."""

import dataclasses
import functools
import math
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.enformer import BIN_SIZE_BP, Enformer
from enformer_core.heads import ACTIVITY_HEADS, ActivityHeadConfig
from mlproject import __version__, baselines, reporting, weights
from mlproject.data.construct_windows import ConstructWindows, Fold, plan_folds
from mlproject.data.demo_constructs import open_constructs
from mlproject.data.similarity import recorded_leaks
from mlproject.embeddings import trunk_embeddings
from mlproject.errors import InputError
from mlproject.evaluation import compare_predictors, construct_table, pearson_and_spearman
from mlproject.resuming import StepCheckpoints, fingerprint, only_one
from mlproject.studies import TRAINING_REGIONS, Outcomes, train_each
from mlproject.training import Schedule
from mlproject.tuning import Tuner, train_fold

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Fine-tune a trunk on constructs: trunk + activity head, mean squared error, held-out constructs."""

    data: str = "demo"
    """Constructs: the folder that build_constructs made, or a table like the one in it; demo: made-up ones."""
    weights: str = "random"
    """Trunk to start from: a checkpoint folder, published, a PyTorch state dict, runs:/..., models:/..., or random."""
    weights_dir: str = ""
    """Where the published weights are, in place of the variable ENFORMERBASELINE."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of a random trunk; other weights have their own."""
    head: Literal["single_64_64", "single_64_128", "multi_64_64"] = "single_64_64"
    """Attention of the activity head: heads, key size and value size as published (multi: four heads)."""
    num_heads: int = 0
    """Attention heads of the activity head. 0: what head says."""
    key_size: int = 0
    """Size of its keys, for each head. 0: what head says."""
    value_size: int = 0
    """Size of its values, for each head. 0: what head says."""
    hidden_size: int = 0
    """Channels of a hidden layer of the activity head, applied to each bin after attention. 0: none, as published."""
    dropout: float = 0.0
    """Share of what each layer of the activity head after attention reads that is dropped in training."""
    trainable: str = "all"
    """What moves beside the activity head: all of the trunk, nothing (head), or the last N transformer blocks (N)."""
    lora_rank: int = 0
    """Rank of low-rank adapters that move in place of the weights of those blocks. 0: the weights move."""
    norm_averages: Literal["fixed", "moving"] = "fixed"
    """BatchNorm averages: fixed, or moving with the batches (only with trainable=all)."""
    window: int = 25_600
    """Sequence of a window in bp, a multiple of 128."""
    samples: float = 8
    """Windows of each construct, at offsets drawn without replacement; below 1: the share of all offsets."""
    stride: int = 1
    """Distance between offsets that may be drawn, in bp."""
    epochs: int = 10
    """Epochs of steps_per_epoch steps; validation follows each."""
    steps_per_epoch: int = 20
    """Training steps of an epoch. 0: as many as show each training window once."""
    batch_size: int = 4
    """Windows of a training step."""
    learning_rate: float = 1.0e-4
    """Learning rate of Adam after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    weight_decay: float = 0.0
    """Share of weights that move, times learning_rate, that each step takes from them (AdamW)."""
    patience: int = 5
    """Epochs without a lower validation loss after which a training ends (0: never); the best one is kept."""
    folds: tuple[str, ...] = ()
    """Folds to hold out in turn, of constructs built with num_folds. Empty: all of them."""
    seed: int = 42
    """Of offsets, the head's first weights, a random trunk, order of windows and dropout."""
    cache: Literal["on", "off"] = "on"
    """With trainable=head: whether trunk embeddings are computed once and kept in work_dir."""
    checkpoint_seconds: float = 60.0
    """A training that is killed loses at most this much and one epoch."""
    work_dir: Path = Path("work")
    """Folder for the demo, embeddings, fetched weights and the checkpoints of unfinished trainings."""
    experiment: str = "finetune"
    """MLflow experiment."""


# What may differ between two commands that continue the same study.
_NOT_OF_THE_STUDY = (
    "data",
    "weights",
    "weights_dir",
    "download",
    "folds",
    "work_dir",
    "experiment",
    "checkpoint_seconds",
)


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    for name in ("epochs", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: found {getattr(options, name)}; it must be 1 or more")
    not_negative = "steps_per_epoch warmup_steps learning_rate clip_norm weight_decay patience lora_rank"
    for name in not_negative.split():
        if not getattr(options, name) >= 0:
            raise InputError(f"--{name}: found {getattr(options, name)}; it cannot be negative")
    if not 0 <= options.seed < 2**31:
        raise InputError(f"--seed: found {options.seed}; it must be from 0 to {2**31 - 1}")
    if options.window % BIN_SIZE_BP or options.window < BIN_SIZE_BP:
        raise InputError(f"--window: found {options.window}; it must be a multiple of {BIN_SIZE_BP} bp")
    weights.check(options.weights, options.weights_dir, options.download)
    if options.weights != "random" and options.preset != Options.preset:
        raise InputError(f"--preset: is for --weights random; found {options.weights}")
    _head(options)
    blocks = _moving_blocks(options)
    if options.lora_rank and blocks == 0:
        raise InputError(
            "--lora_rank: adapters are part of the trunk, and --trainable head leaves it as it is"
        )
    if options.norm_averages == "moving" and (blocks is not None or options.lora_rank):
        raise InputError("--norm_averages moving: needs --trainable all without --lora_rank")
    _, windows = open_data(options)
    if below := [construct for construct in windows.constructs if construct.activity < 0]:
        print(
            f"{len(below)} constructs have an activity below 0 ({below[0].name} {below[0].activity:g}), which a "
            "softplus cannot reach; shift or transform the table if that is more than noise"
        )


def run(options: Options, run: "Run") -> int:
    """Trains what is missing of the study, then pools what was held out.

    Returns:
        0, or 1 when a fold failed; the others have run all the same.
    """
    began = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    folds, windows = open_data(options)
    enformer = load_trunk(options)
    study = _study(options, windows, enformer)
    run.rename(f"finetune {study[:8]}")
    with only_one(options.work_dir / "finetune" / f"{study}.lock"):
        run.take_over({"grid": study})
        outcomes = _train_folds(options, run, folds, windows, enformer, study)
    _report(options, run, study, outcomes)
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 1 if outcomes.failed else 0


# --- what goes in -------------------------------------------------------------------------------------------------


def open_data(options: Options) -> tuple[list[Fold], ConstructWindows]:
    """The folds to hold out in turn, and the windows."""
    constructs = open_constructs(options.data, options.work_dir)
    folds = plan_folds(constructs, options.folds)
    windows = ConstructWindows(
        constructs, options.window, samples=options.samples, stride=options.stride, seed=options.seed
    )
    return folds, windows


def load_trunk(options: Options) -> Enformer:
    """The trunk at the length of the windows.

    Raises:
        InputError: it cannot be had, or has fewer blocks than are to move.
    """
    enformer = weights.load_trunk(
        options.weights,
        weights_dir=options.weights_dir,
        download=options.download,
        work_dir=options.work_dir,
        random=lambda: weights.untrained(options.preset, options.window, options.seed),
        sequence_length=options.window,
        target_length=None,
    )
    layers = enformer.config.num_transformer_layers
    if (blocks := _moving_blocks(options)) is not None and blocks > layers:
        raise InputError(f"--trainable: found {blocks}; the trunk has {layers} transformer blocks")
    return enformer


def _head(options: Options) -> ActivityHeadConfig:
    chosen = {
        name: getattr(options, name)
        for name in ("num_heads", "key_size", "value_size", "hidden_size", "dropout")
        if getattr(options, name)
    }
    try:
        return dataclasses.replace(ACTIVITY_HEADS[options.head], **chosen)
    except ValueError as error:
        raise InputError(f"--{error}") from None


def _moving_blocks(options: Options) -> int | None:
    """How many of the last transformer blocks move; None: the whole trunk does."""
    if options.trainable in ("all", "head"):
        return None if options.trainable == "all" else 0
    if not re.fullmatch("[1-9][0-9]{0,3}", options.trainable):
        raise InputError(
            f"--trainable: found {options.trainable!r}; it can be all, head, or a number of transformer blocks"
        )
    return int(options.trainable)


def _study(options: Options, windows: ConstructWindows, enformer: Enformer) -> str:
    """A hash of all that the numbers depend on: the same command finds its own runs again by it."""
    chosen = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_OF_THE_STUDY
    }
    chosen["constructs"] = windows.digest
    chosen["enformer"] = [checkpoints.digest(enformer.variables), dataclasses.asdict(enformer.config)]
    chosen["version"] = __version__
    return fingerprint(chosen)


# --- training -----------------------------------------------------------------------------------------------------


class _Trained(NamedTuple):
    """What is wanted of a child run that is done: final numbers, held-out windows and constructs."""

    metrics: dict[str, float]
    windows: pd.DataFrame
    constructs: pd.DataFrame


def _train_folds(
    options: Options, run: "Run", folds: list[Fold], windows: ConstructWindows, enformer: Enformer, study: str
) -> Outcomes[_Trained]:
    by_name = {fold.name: fold for fold in folds}

    @functools.cache
    def shared() -> Tuner:
        """Made for the first fold that is not done, then used for all."""
        return tuner(options, enformer, windows)

    def said(trained: _Trained) -> str:
        found = trained.metrics.get("pearson/constructs", math.nan)
        return f"pearson/constructs {found:.4f} of {len(trained.constructs)}"

    return train_each(
        run,
        list(by_name),
        lambda child, name, folder, label: train_child(
            options, child, shared(), by_name[name], folder, label
        ),
        lambda child: _Trained(child.metrics(), child.table("predictions"), child.table("constructs")),
        what="fold",
        study=study,
        folder=options.work_dir / "finetune" / study,
        params=lambda name: _params(options, by_name[name]),
        said=said,
        batch_size=options.batch_size,
        or_less=", or train less of the trunk (--trainable, --lora_rank)",
    )


# Options of a child that are worth a column beside its fold.
_SHARED_PARAMS = (
    "data",
    "weights",
    "trainable",
    "lora_rank",
    "norm_averages",
    "window",
    "samples",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "seed",
)


def _params(options: Options, fold: Fold) -> dict[str, Any]:
    """Parameters of a child: columns in which the runs of studies differ."""
    head = _head(options)
    return {
        "fold": fold.name,
        **{name: getattr(options, name) for name in _SHARED_PARAMS},
        **dataclasses.asdict(head),
    }


def tuner(options: Options, enformer: Enformer, windows: ConstructWindows, *, to_train: bool = True) -> Tuner:
    """What trains as the options say, with its embeddings computed, where they are kept, and compiled if `to_train`.

    Raises:
        InputError: `lora_rank` does not fit the trunk, or embeddings cannot be kept.
    """
    blocks = _moving_blocks(options)
    embeddings = None
    if blocks == 0 and options.cache == "on":
        embeddings = trunk_embeddings(options.work_dir, enformer)
    try:
        made = Tuner(
            enformer,
            _head(options),
            windows,
            moving_blocks=blocks,
            lora_rank=options.lora_rank,
            fixed_norms=options.norm_averages == "fixed",
            batch_size=options.batch_size,
            clip_norm=options.clip_norm,
            weight_decay=options.weight_decay,
            embeddings=embeddings,
        )
    except ValueError as error:
        raise InputError(f"--lora_rank: {error}") from None
    made.fill_embeddings()
    if to_train:
        made.compile()
    return made


def train_child(options: Options, child: "Run", tuner: Tuner, fold: Fold, folder: Path, label: str) -> None:
    """Trains with one fold held out, or goes on with it, and keeps what came of it.

    The run keeps series of the losses, tables and a picture of what was held out, final numbers, the checkpoint and the
    model.

    Args:
        options: those that the tuner was made with.
        child: its own run, new or to go on with.
        tuner: for one fold after another; left as it predicts at the epoch of the lowest validation loss.
        fold: what to train on, to validate on and to hold out.
        folder: for the checkpoints of a training under way, of this run alone; the caller removes it afterwards.
        label: what to call the training in a line.

    Raises:
        Stopped: SIGTERM or Ctrl-C; the same call goes on from there.
        Diverged: a loss became NaN or infinite.
    """
    began = time.perf_counter()
    windows = tuner.windows
    child.use_dataset(
        name=Path(options.data).name, digest=windows.digest, source=options.data, context="training"
    )
    child.tag({TRAINING_REGIONS: windows.describe(fold.train)})
    saved = StepCheckpoints(folder, tuner.training_variables, tuner.optimizer, options.checkpoint_seconds)
    tuner.reset(options.seed)
    start = saved.restore()
    if start:
        print(f"{label}: goes on after step {start}", flush=True)
    steps = options.steps_per_epoch or -(-len(windows.in_folds(fold.train)) // options.batch_size)
    result = train_fold(
        tuner,
        fold,
        Schedule(options.epochs, steps, options.warmup_steps, options.learning_rate),
        saved,
        child.log,
        losses=child.series("validation/loss")[: start // steps],
        patience=options.patience,
        flush=child.flush,
        seed=options.seed,
        start=start,
        label=label,
    )
    best = saved.restore_best()
    tuner.finish()
    child.summarize({"seconds/train": result.seconds, "best/step": best})
    child.summarize(_keep_predictions(child, tuner, fold))
    with tempfile.TemporaryDirectory() as temporary:
        tuner.save(Path(temporary))
        child.keep(Path(temporary, "checkpoint"))
        child.log_model(
            Path(temporary, "saved_model"),
            name="model",
            input_shape=(-1, options.window, 4),
            output_shapes={"activity": (-1, 1)},
        )
    child.summarize({"seconds/total": time.perf_counter() - began})


# --- what comes out -----------------------------------------------------------------------------------------------

_RIDGES = {f"ridge_{name}": f"ridge on {name}" for name in baselines.FEATURES}
_PREDICTORS = {"predicted": "fine-tuned", **_RIDGES}


def _keep_predictions(child: "Run", tuner: Tuner, fold: Fold) -> dict[str, float]:
    """Predicts the held-out constructs, keeps tables and figure and returns the final numbers."""
    windows = tuner.windows
    rows = windows.in_folds(fold.test)
    table = windows.table(rows).assign(predicted=tuner.predict(rows))
    constructs = construct_table(table)
    activity = np.array([construct.activity for construct in windows.constructs])
    known = np.array([construct.fold not in fold.test for construct in windows.constructs])
    clusters = [construct.cluster for construct in windows.constructs]
    for name, features in baselines.FEATURES.items():
        predicted = baselines.ridge_predictions(features(windows.constructs), activity, known, clusters)
        constructs[f"ridge_{name}"] = predicted[~known]
    child.keep_table("predictions", table)
    child.keep_parquet("sample_activity", tuner.sequence_table(rows))
    child.keep_table("constructs", constructs)
    _keep_figure(child, constructs, f"fold {fold.name} held out")
    loss = float(((table["predicted"] - table["activity"]) ** 2).mean())
    return {"test/loss": loss, "test/constructs": len(constructs), **_final_numbers(table, constructs)}


def _final_numbers(table: pd.DataFrame, constructs: pd.DataFrame) -> dict[str, float]:
    """Pearson and Spearman r: of constructs (means over offsets), of windows, and of both baselines."""
    of = {
        "constructs": (constructs, "predicted"),
        "windows": (table, "predicted"),
        **{name: (constructs, name) for name in _RIDGES},
    }
    numbers: dict[str, float] = {}
    for name, (frame, column) in of.items():
        r = pearson_and_spearman(frame["activity"].to_numpy(), frame[column].to_numpy())
        numbers |= {f"pearson/{name}": r[0], f"spearman/{name}": r[1]}
    return numbers


def _keep_figure(run: "Run", constructs: pd.DataFrame, title: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        run.keep(reporting.write_activity_figure(constructs, title, Path(temporary, "activity.png")))


def _share(run: "Run", study: str, folds: list[str]) -> str:
    """How to open a view of the study's folds in the UI."""
    return run.share_comparison(
        study,
        group="fold",
        colors=reporting.variant_colors(folds),
        metrics=[
            f"{kind}/{name}"
            for name in ("constructs", "windows", *_RIDGES)
            for kind in ("pearson", "spearman")
        ],
        params=("trainable", "lora_rank", "num_heads", "learning_rate"),
        series=("loss", "validation/loss"),
        others="Spearman, windows and baselines",
    )


def _report(options: Options, run: "Run", study: str, outcomes: Outcomes[_Trained]) -> None:
    """Pools what every fold held out: tables, figure, intervals, and the same in words."""
    for fold, why in outcomes.failed.items():
        print(f"failed: fold {fold}: {why}")
    done = list(outcomes.done.values())
    if not done:
        return
    table = pd.concat([trained.windows for trained in done], ignore_index=True)
    constructs = pd.concat([trained.constructs for trained in done], ignore_index=True)
    comparison = compare_predictors(constructs, list(_PREDICTORS))
    run.keep_table("predictions", table)
    run.keep_table("constructs", constructs)
    run.keep_table("comparison", comparison)
    held_out = f"{len(done)} fold{'s' * (len(done) > 1)} held out"
    _keep_figure(run, constructs, held_out)
    ends = comparison.iloc[0]
    run.summarize(
        {
            **_final_numbers(table, constructs),
            **{
                f"{kind}/constructs_{end}": ends[f"{kind}_{end}"]
                for kind in ("pearson", "spearman")
                for end in ("low", "high")
            },
            "pearson/constructs_within_folds": ends["pearson_within"],
        }
    )
    clusters = comparison["clusters"][0]
    print(
        f"\n{len(constructs)} constructs in {clusters} clusters, {held_out}; r of all together (95% interval)"
    )
    print(reporting.comparison_text(comparison.assign(predictor=list(_PREDICTORS.values()))))
    if shared := recorded_leaks(Path(options.data)):
        held = {fold: share for fold, share in shared.items() if fold in outcomes.done}
        words = ", ".join(f"{share:.0%} of {fold}" for fold, share in held.items())
        print(f"Of a held-out payload's 31-mers, one payload of another fold has, in the mean: {words}")
    how = _share(run, study, list(outcomes.done))
    print(f"\nTo compare the folds (start the UI first where a command stands above the address):\n{how}")
    if options.weights == "random":
        print("The trunk began with random weights: this says nothing of a pretrained Enformer.")
