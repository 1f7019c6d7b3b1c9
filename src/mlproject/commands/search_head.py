"""Search for the head that a frozen trunk is best read with."""

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import optuna
import tensorflow as tf

from enformer_core.enformer import Enformer
from enformer_core.heads import ACTIVITY_HEADS, TRACK_HEADS
from mlproject import __version__, reporting
from mlproject.commands import finetune, train_head
from mlproject.data.construct_windows import held_out_fold, search_folds
from mlproject.data.published_h5 import is_prefix
from mlproject.data.records import TrackDataset
from mlproject.embeddings import trunk_embeddings, trunk_key
from mlproject.errors import InputError
from mlproject.options import command_line, shared
from mlproject.resuming import fingerprint, only_one
from mlproject.search import sampling, store
from mlproject.search.mirror import Mirror, by_run_name
from mlproject.search.running import Plan, left, run_trials
from mlproject.search.space import Bounds, Number, Space, parse_space
from mlproject.search.trials import ActivityTask, Budget, TracksTask
from mlproject.search.workers import Workers, count_for
from mlproject.studies import train_each

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Search sizes and training of a head on a frozen trunk: each trial is a training on stored embeddings.

    What is searched is written as one value, as choices 1,2,4, or as a range 0..0.5, 1e-5..1e-2:log or 16..64:16.
    """

    task: Literal["constructs", "tracks"] = "constructs"
    """What is predicted: the activity of constructs (as finetune), or tracks (as train_head)."""
    data: str = "demo"
    """Folder of build_constructs, or dataset folder of build_tracks (or PREFIX of h5 files); demo: made-up data."""
    organism: str = "human"
    """Of tracks: folder of the dataset."""
    weights: str = "random"
    """Trunk: a checkpoint folder, published, a PyTorch state dict, runs:/..., models:/..., or random."""
    weights_dir: str = ""
    """Where the published weights are, in place of the variable ENFORMERBASELINE."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of a random trunk; other weights have their own."""
    num_heads: str = "1,2,4"
    """Searched: heads of the attention layer; of tracks also 0, for none."""
    key_size: str = "16,32,64"
    """Searched: size of keys, for each head."""
    value_size: str = "16,32,64,128"
    """Searched: size of values, for each head."""
    hidden_size: str = "0,32,128"
    """Searched: channels of the hidden layer, 0 for none."""
    dropout: str = "0..0.5"
    """Searched: share of the head's channels that a training step leaves out."""
    learning_rate: str = "1e-5..1e-2:log"
    """Searched: learning rate of Adam."""
    weight_decay: str = "0,1e-4,1e-3,1e-2,1e-1"
    """Searched: decoupled weight decay of the head's matrices."""
    objective: Literal["pearson", "loss"] = "pearson"
    """What trials are compared by: validation Pearson r (higher) or loss (lower), at the epoch of the lowest loss."""
    trials: int = 20
    """Trials of the study, those of earlier commands included."""
    timeout: float = 0.0
    """Seconds after which no new trial begins (0: never)."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Who proposes trials: a tree-structured Parzen estimator, or chance."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Who ends trials early: the median of the others, Hyperband, or nobody."""
    published_first: bool = True
    """Begin with the heads that have been published, where the space has them."""
    trial_epochs: int = 10
    """Epochs of a trial (of constructs: for each validated fold)."""
    epochs: int = 20
    """Epochs of the best head, which is trained again; the one of the lowest validation loss is kept."""
    steps_per_epoch: int = 0
    """Training steps of an epoch. 0: as many as show each training window once."""
    batch_size: int = 4
    """Windows of a training step."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    held_out: str = ""
    """Of constructs: the fold that the search never sees. Empty: the last one."""
    window: int = 25_600
    """Of constructs: sequence of a window in bp, a multiple of 128."""
    samples: float = 8
    """Of constructs: windows of each, at offsets drawn without replacement; below 1: the share of all offsets."""
    stride: int = 1
    """Of constructs: distance between offsets that may be drawn, in bp."""
    loss: Literal["poisson", "poisson_multinomial"] = "poisson"
    """Of tracks: loss, as train_head has it."""
    reverse_complement: bool = False
    """Of tracks: show each training window on a strand drawn at random; keeps twice the embeddings."""
    eval_split: Literal["test", "valid"] = "test"
    """Of tracks: split that the best head is evaluated on."""
    seed: int = 42
    """Of the sampler, the heads' first weights, a random trunk, offsets, order of windows and dropout."""
    workers: int = 0
    """Processes that train trials, each on one core. 0: one for each core, fewer where memory is short."""
    storage: str = ""
    """Journal file or database URL that Optuna keeps the study in. Empty: OPTUNA_STORAGE, or a journal in work_dir."""
    study: str = ""
    """Name of the study in there. Empty: made of all that its trials depend on, so the same command goes on with it."""
    register: str = ""
    """Name in the model registry of which the best head becomes a version. Empty: none."""
    checkpoint_seconds: float = 60.0
    """A training that is killed loses at most this much and one epoch."""
    work_dir: Path = Path("work")
    """Folder for the demo, embeddings, the journal, fetched weights and the checkpoints of unfinished trainings."""
    experiment: str = "search_head"
    """MLflow experiment."""


SEARCHED = ("num_heads", "key_size", "value_size", "hidden_size", "dropout", "learning_rate", "weight_decay")

# What the trials of a study depend on, besides the data and the trunk.
_OF_THE_STUDY = (
    *SEARCHED,
    "task",
    "organism",
    "objective",
    "sampler",
    "pruner",
    "published_first",
    "trial_epochs",
    "steps_per_epoch",
    "batch_size",
    "clip_norm",
    "held_out",
    "window",
    "samples",
    "stride",
    "loss",
    "reverse_complement",
    "seed",
)
_OF_TASK = {
    "constructs": ("held_out", "window", "samples", "stride"),
    "tracks": ("organism", "loss", "reverse_complement", "eval_split"),
}


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    space = _space(options)
    for name in ("trials", "trial_epochs", "epochs"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: found {getattr(options, name)}; it must be 1 or more")
    for name in ("timeout", "workers", "steps_per_epoch", "checkpoint_seconds"):
        if not getattr(options, name) >= 0:
            raise InputError(f"--{name}: found {getattr(options, name)}; it cannot be negative")
    if not 0 <= options.seed < 2**31:
        raise InputError(f"--seed: found {options.seed}; it must be from 0 to {2**31 - 1}")
    for task, names in _OF_TASK.items():
        for name in names:
            if task != options.task and getattr(options, name) != getattr(Options, name):
                raise InputError(f"--{name}: is for --task {task}; found {options.task}")
    if options.task == "tracks" and is_prefix(options.data) and options.eval_split == "test":
        raise InputError(f"--data {options.data}: h5 files have no test split; give --eval_split valid")
    if options.task == "constructs":
        finetune.check(some := _finetune_options(options, space.some()))
        held_out_fold(finetune.open_data(some)[1].constructs, options.held_out)
    else:
        train_head.check(_train_head_options(options, space.some()))
    store.open_storage(store.address(options.storage, options.work_dir))


def run(options: Options, run: "Run") -> int:
    """Runs what is missing of the study, then trains its best head on the full budget.

    Returns:
        0, or 1 when no trial is complete or the best head failed.
    """
    began = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    logs = options.work_dir / "search_head" / "logs"
    # first, because they import TensorFlow while the trunk is loaded
    with contextlib.closing(Workers(options.workers or count_for(options.trials), logs)) as workers:
        failed = _run(options, run, workers)
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 1 if failed else 0


def _run(options: Options, run: "Run", workers: Workers) -> bool:
    """What `run` does with workers that are there; whether something has failed."""
    subject = _subject(options)
    space = _space(options)
    settings = {
        **{name: getattr(options, name) for name in _OF_THE_STUDY},
        "data": subject.digest[:16],
        "trunk": trunk_key(subject.enformer),
        "version": __version__,
    }
    name = options.study or f"search_head-{fingerprint(settings)}"
    run.rename(f"search_head {name.removeprefix('search_head-')[:8]}")
    run.use_dataset(
        name=Path(options.data).name, digest=subject.digest, source=options.data, context="search"
    )
    storage = store.address(options.storage, options.work_dir)
    with only_one(store.lock_path(storage, name, options.work_dir)), store.explained(storage):
        study = store.open_study(
            storage,
            name,
            direction="maximize" if options.objective == "pearson" else "minimize",
            settings=settings,
            sampler=sampling.NumberedSampler(options.sampler, options.seed),
            pruner=sampling.pruner(options.pruner, options.trial_epochs * subject.parts),
        )
        identity = study.user_attrs[store.IDENTITY]
        if given_up := store.give_up_stale(study, alone=not store.is_url(storage)):
            print(f"{len(given_up)} trials were under way when a command was killed; they are done again")
        # the runs of commands that are at this study too stay as they are
        (run.tag if store.others_at_work(study) else run.take_over)({"grid": identity})
        how = sampling.settings(options.sampler, options.pruner, options.seed)
        kept = {"study": name, "storage": store.without_password(storage), **how}
        run.keep_text("study.json", json.dumps(kept, indent=2) + "\n")
        plan = Plan(
            options.trials,
            options.timeout,
            options.objective,
            _budget(options),
            options.work_dir / "search_head" / identity,
            _presets(options) if options.published_first else {},
        )
        with contextlib.closing(Mirror(run, identity, study)) as mirror:
            _search(options, study, mirror, workers, subject, space, plan)
            workers.close()  # their memory and cores are for what follows
            found = store.counts(study)
            if store.others_at_work(study):
                print("other commands are at trials of this study: the last one to end trains the best head")
                return False
            if not found.complete:
                print(f"none of {found.all} trials is complete: there is no best head")
                return True
            return bool(_finish(options, run, study, mirror, subject, space, identity))


# --- what goes in -------------------------------------------------------------------------------------------------


def _space(options: Options) -> Space:
    heads_from = 1 if options.task == "constructs" else 0
    bounds = {
        "num_heads": Bounds(True, heads_from, 1025),
        "key_size": Bounds(True, 1, 65_537),
        "value_size": Bounds(True, 1, 65_537),
        "hidden_size": Bounds(True, 0, 65_537),
        "dropout": Bounds(False, 0, 1),
        "learning_rate": Bounds(False, 0, above_least=True),
        "weight_decay": Bounds(False, 0),
    }
    return parse_space({name: getattr(options, name) for name in SEARCHED}, bounds)


def _presets(options: Options) -> dict[str, dict[str, Number]]:
    """The heads that people use, as a value for each option, by name."""
    plain = {"hidden_size": 0, "dropout": 0.0, "weight_decay": 0.0}
    if options.task == "constructs":
        training = {"learning_rate": finetune.Options.learning_rate}
        return {
            name: {**plain, **training, **{size: getattr(head, size) for size in SEARCHED[:3]}}
            for name, head in ACTIVITY_HEADS.items()
        }
    sizes = {"key_size": train_head.Options.key_size, "value_size": train_head.Options.value_size}
    training = {"learning_rate": train_head.Options.learning_rate}
    return {
        name: {**plain, **training, **head, **(sizes if head["num_heads"] else {})}
        for name, head in TRACK_HEADS.items()
    }


class _Subject(NamedTuple):
    """What is searched on: data and trunk, what fills the embeddings, what a trial is and how the best is trained."""

    enformer: Enformer
    digest: str
    parts: int
    fill: Callable[[], ActivityTask | TracksTask]
    """Computes the embeddings that are missing."""
    command: str
    """What trains such a head alone."""
    chosen: Callable[[dict[str, Number]], Any]
    """Its options for a head of these parameters on the full budget."""
    train: Callable[["Run", Any, Path, str], None]
    """Trains as these options say, in a child run."""


def _subject(options: Options) -> _Subject:
    return _on_constructs(options) if options.task == "constructs" else _on_tracks(options)


def _budget(options: Options) -> Budget:
    return Budget(
        options.trial_epochs,
        options.steps_per_epoch,
        options.batch_size,
        options.clip_norm,
        options.seed,
        options.checkpoint_seconds,
    )


def _on_constructs(options: Options) -> _Subject:
    some = _finetune_options(options, _space(options).some())
    _, windows = finetune.open_data(some)
    final = held_out_fold(windows.constructs, options.held_out)
    folds = tuple(search_folds(windows.constructs, final.name))
    enformer = finetune.load_trunk(some)

    def fill() -> ActivityTask:
        finetune.tuner(some, enformer, windows, to_train=False)
        return ActivityTask(windows, folds, trunk_embeddings(options.work_dir, enformer), _budget(options))

    def chosen(params: dict[str, Number]) -> finetune.Options:
        return dataclasses.replace(_finetune_options(options, params), folds=(final.name,))

    def train(child: "Run", chosen: finetune.Options, folder: Path, label: str) -> None:
        tuner = finetune.tuner(chosen, enformer, windows)
        finetune.train_child(chosen, child, tuner, final, folder, label)

    return _Subject(enformer, windows.digest, len(folds), fill, "finetune", chosen, train)


def _on_tracks(options: Options) -> _Subject:
    some = _train_head_options(options, _space(options).some())
    dataset = train_head.open_data(some)
    enformer = train_head.load_trunk(some, dataset)

    def fill() -> TracksTask:
        stored = train_head.trainer(some, dataset, enformer, to_train=False).stored
        assert stored is not None  # there is no cache=off here
        strands = options.reverse_complement
        return TracksTask(dataset, stored, options.loss, some.total_weight, strands, _budget(options))

    def chosen(params: dict[str, Number]) -> train_head.Options:
        return _train_head_options(options, params, dataset)

    def train(child: "Run", chosen: train_head.Options, folder: Path, label: str) -> None:
        trainer = train_head.trainer(chosen, dataset, enformer)
        train_head.train_child(chosen, child, trainer, options.seed, folder, label)

    return _Subject(enformer, dataset.digest, 1, fill, "train_head", chosen, train)


def _finetune_options(options: Options, params: dict[str, Number]) -> finetune.Options:
    return shared(finetune.Options, options, trainable="head", **params)


def _train_head_options(
    options: Options, params: dict[str, Number], dataset: TrackDataset | None = None
) -> train_head.Options:
    steps = options.steps_per_epoch
    if not steps:
        steps = -(-dataset.count("train") // options.batch_size) if dataset else 1
    # a head without attention chooses none
    sizes = {"key_size": train_head.Options.key_size, "value_size": train_head.Options.value_size}
    changed = {**sizes, **params, "seeds": (options.seed,), "steps_per_epoch": steps}
    return shared(train_head.Options, options, head="linear", **changed)


# --- the search ---------------------------------------------------------------------------------------------------


def _search(
    options: Options,
    study: optuna.Study,
    mirror: Mirror,
    workers: Workers,
    subject: _Subject,
    space: Space,
    plan: Plan,
) -> None:
    mirror.follow_all()
    found = store.counts(study)
    if not left(study, plan):
        print(
            f"all {found.all} trials were done before" if not found.running else "no trial is left to begin"
        )
        return
    if found.ended:
        print(f"{found.ended} trials were done before")
    if absent := [name for name, params in plan.first.items() if not space.holds(params)]:
        print(f"published heads that the search space does not have: {', '.join(absent)}")
    began = time.perf_counter()
    workers.begin(subject.fill())
    filled = time.perf_counter()
    run_trials(study, workers, space, mirror, plan)
    ended = time.perf_counter()
    mirror.follow_all()
    mirror.run.summarize({"seconds/embeddings": filled - began, "seconds/trials": ended - filled})


# --- what comes out -----------------------------------------------------------------------------------------------


_MOST_SHOWN = 5  # trials in the table that is printed


def _finish(
    options: Options,
    run: "Run",
    study: optuna.Study,
    mirror: Mirror,
    subject: _Subject,
    space: Space,
    identity: str,
) -> dict[str, str]:
    """Keeps tables and figures of the study, trains its best head and says what was found; returns what failed."""
    best = study.best_trial
    params = space.of(best.params)
    found = store.counts(study)
    table = reporting.search_summary(study)
    run.keep_table("trials", table)
    objective = "validation Pearson r" if options.objective == "pearson" else "validation loss"
    with tempfile.TemporaryDirectory() as temporary:
        for path in reporting.write_search_figures(study, objective, Path(temporary)):
            run.keep(path)
    counted = f"{found.complete} trials complete, {found.pruned} pruned, {found.failed} failed"
    mirror.describe(objective, params, counted)
    print(f"\n{counted}; the best by {objective}:\n{reporting.search_text(table, _MOST_SHOWN)}\n")
    sometimes = space.conditional
    how = run.share_comparison(
        identity,
        group="",
        colors=by_run_name(study, reporting.trial_colors(study)),
        metrics=["objective"],
        params=[name for name in space.searched if name not in sometimes],
        columns=[name for name in space.searched if name in sometimes],
        series=("validation/pearson", "validation/loss"),
        tags=("state", store.ORIGIN),
        ascending=options.objective == "loss",
    )
    # with all that may differ from one command to the next: another budget is another training
    budget = f"{best.number}, {options.epochs} epochs{', valid' * (options.eval_split == 'valid')}"
    outcomes = train_each(
        run,
        [budget],
        lambda child, name, folder, label: subject.train(child, subject.chosen(params), folder, label),
        lambda child: child,
        what="best",
        study=identity,
        folder=options.work_dir / "search_head" / identity,
        params=lambda name: {"best": best.number, **params, "epochs": options.epochs},
        said=lambda child: "trained again",
        batch_size=options.batch_size,
    )
    for why in outcomes.failed.values():
        print(f"the best head, of trial {best.number}, was not trained again: {why}")
    for child in outcomes.done.values():
        chosen = dataclasses.replace(subject.chosen(params), experiment=subject.command)
        _offer(options, run, child, command_line(subject.command, chosen))
    print(f"\nTo compare the trials (start the UI first where a command stands above the address):\n{how}")
    if options.weights == "random":
        print("The trunk has random weights: this says nothing of a pretrained Enformer.")
    return outcomes.failed


def _offer(options: Options, run: "Run", child: "Run", words: str) -> None:
    """Says how good the best head is on what was held out, and how to use it; registers it where that is asked for."""
    held_out = {
        name: value for name, value in child.metrics().items() if name.startswith(("pearson/", "spearman/"))
    }
    run.summarize(held_out)
    numbers = [f"{name[8:]} {value:.3f}" for name, value in held_out.items() if name.startswith("pearson/")]
    where = "the validation split, which chose it" if options.eval_split == "valid" else "what was held out"
    print(f"\nThe best head on {where}, Pearson r: {', '.join(numbers)}")
    print(f"To train it again, or otherwise: {words}")
    own = options.data != "demo"
    if options.task == "constructs":
        command = f"predict_constructs --weights runs:/{child.id}{f' --data {options.data}' * own}"
    else:
        command = f"predict --weights runs:/{child.id}{' --regions BED --fasta FASTA' * own}"
    print(f"To predict with it: python -m mlproject {command}")
    if not options.register:
        print("To register it: the same command with --register NAME")
        return
    tags = {"search": run.id, "weights": options.weights, "data": options.data}
    name, at, alias = options.register.partition("@")
    version = child.register("model", name, tags, [alias] if at else [])
    print(
        f"Registered as version {version} of {name}: models:/{options.register if at else f'{name}/{version}'}"
    )
