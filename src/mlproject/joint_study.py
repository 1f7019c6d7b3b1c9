"""The trainings of `joint`, each a child run with its tables, pictures and model; and the pair for `generate`."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from enformer_core.perceiver import PerceiverConfig
from mlproject import joint_evaluation, joint_grid, joint_models, reporting
from mlproject.data import demo_mpra
from mlproject.data.coverage import CoverageWindows
from mlproject.data.genome import name_some
from mlproject.data.joint import JointData
from mlproject.joint_grid import Training
from mlproject.joint_training import Examples, JointTrainer, Weights
from mlproject.joint_trunk import JointTrunk
from mlproject.resuming import StepCheckpoints, fit_keeping_best
from mlproject.signal_tables import sample_name
from mlproject.studies import TRAINING_REGIONS, Outcomes, train_each
from mlproject.tracking.registry import fetch_checkpoint
from mlproject.training import Schedule

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

FINAL_SHARE = 0.05  # of the learning rate, at the last step


class Trained(NamedTuple):
    """What is wanted of a child run that is done: its ID, final numbers, and r by cell type where it saw MPRA."""

    run: str
    metrics: dict[str, float]
    comparison: pd.DataFrame | None


class JointStudy:
    """A study that is being trained: the command's run, its data, and what trainings of one configuration share.

    Args:
        options: of `joint`.
        run: of the command.
        data: what is trained on.
        study: its hash.
        trunk: what sequences enter as, in place of letters.
    """

    def __init__(
        self, options: Any, run: "Run", data: JointData, study: str, trunk: JointTrunk | None = None
    ):
        self.options, self.run, self.data, self.study, self.trunk = options, run, data, study, trunk
        # seeds of one configuration follow each other
        self.trainer = functools.lru_cache(maxsize=2)(self._trainer)
        self._train_windows = functools.lru_cache(maxsize=1)(self._draw_train)
        self._held_out_windows = functools.lru_cache(self._draw_held_out)
        self._said: set[str] = set()  # notes, each once
        self._baselines: dict[tuple, dict[str, np.ndarray]] = {}

    def train(self, trainings: Sequence[Training]) -> Outcomes[Trained]:
        """Trains what is not done yet."""
        by_name = {training.name: training for training in trainings}
        settings = {training.setting: name.split("-")[1] for name, training in by_name.items()}
        for setting, digits in settings.items():
            if setting:
                print(f"{digits}: {setting}", flush=True)
        return train_each(
            self.run,
            list(by_name),
            lambda child, name, folder, label: self._train(child, by_name[name], folder, label),
            lambda child: Trained(
                child.id,
                metrics := child.metrics(),
                child.table("comparison") if "test/sequences" in metrics else None,
            ),
            what="training",
            study=self.study,
            folder=self.options.work_dir / "joint" / self.study,
            params=lambda name: self._params(by_name[name]),
            said=lambda trained: reporting.numbers_line(trained.metrics),
            batch_size=self.options.batch_size,
            or_less=", a smaller --track_batch_size or a smaller model",
        )

    def _params(self, training: Training) -> dict[str, Any]:
        """Parameters of a child: columns in which the runs of studies differ."""
        shared = ("preset", "epochs", "steps_per_epoch", "batch_size", "track_batch_size")
        config = self._config(training)
        sizes = {name: getattr(config, name) for name in joint_grid.SIZES}
        own = {name: value for name, value in training.values.items() if name != "seeds"}
        options = {name: getattr(self.options, name) for name in shared} | self._sources(training)
        found = {**own, **sizes, **options, "seed": training.seed, "setting": training.setting}
        unused = {
            "mpra": ("num_track_train_samples", "track_batch_size"),
            "tracks": ("num_mpra_train_samples", "batch_size"),
        }.get(training.modalities, ())
        return {name: value for name, value in found.items() if name not in unused}

    def _sources(self, training: Training) -> dict[str, str]:
        """Where the examples of a training are from, by modality."""
        used = ("mpra", "tracks") if training.modalities == "both" else (training.modalities,)
        return {
            name: getattr(self.options, name) if name in used else joint_grid.NONE
            for name in ("mpra", "tracks")
        }

    def _trainer(self, config: PerceiverConfig, modalities: str) -> JointTrainer:
        options = self.options
        return JointTrainer(
            config,
            self.data,
            modalities=modalities,
            mpra_batch_size=options.batch_size,
            track_batch_size=options.track_batch_size,
            weights=Weights(options.activity_weight, options.nucleotide_weight, options.coverage_weight),
            augment=options.augment and self.trunk is None,
            clip_norm=options.clip_norm,
            weight_decay=options.weight_decay,
            trunk=self.trunk,
        )

    def _config(self, training: Training, **units: float) -> PerceiverConfig:
        channels = self.trunk.channels if self.trunk is not None else 0
        given = {**dataclasses.asdict(self.options), "trunk_channels": channels}
        return joint_grid.configuration(training, self.data, self.options.preset, given, **units)

    def _draw_train(self, count: int, seed: int) -> CoverageWindows:
        assert self.data.tracks is not None
        return self._noted(self.data.tracks.train(count, seed))

    def _draw_held_out(self, subset: str) -> CoverageWindows:
        assert self.data.tracks is not None
        return self._noted(self.data.tracks.held_out(subset, self.options.num_track_valid_samples))

    def _noted(self, windows: CoverageWindows) -> CoverageWindows:
        """The same; what is worth knowing of them is printed, once."""
        for note in windows.notes:
            if note not in self._said:
                self._said.add(note)
                print(note, flush=True)
        return windows

    def _train(self, child: "Run", training: Training, folder: Path, label: str) -> None:
        """Trains, or goes on with it, and keeps what came of it."""
        began = time.perf_counter()
        options, data = self.options, self.data
        used = [source for source in self._sources(training).values() if source != joint_grid.NONE]
        child.use_dataset(name="joint", digest=data.digest, source=", ".join(used), context="training")
        rows: tuple[Any, Any] = (None, None)
        mean, sd = 0.0, 1.0
        if training.modalities != "tracks":
            assert data.mpra is not None
            rows = joint_grid.labels(training, data)
            mean, sd = joint_grid.label_scale(training, data)
        windows: tuple[Any, Any] = (None, None)
        if training.modalities != "mpra":
            windows = (
                self._train_windows(training.values["num_track_train_samples"], training.seed),
                self._held_out_windows("valid"),
            )
        examples = Examples(*rows, *windows)
        child.tag({TRAINING_REGIONS: self._trained_on(examples)})
        if self.trunk is not None and self.trunk.tracks is not None and windows[0] is not None:
            for part in (*windows, self._held_out_windows("test")):
                self.trunk.tracks.fill(part.codes)
        config = self._config(training, mean=mean, sd=sd)
        trainer = self.trainer(config, training.modalities)
        saved = StepCheckpoints(
            folder, trainer.model.variables, trainer.optimizer, options.checkpoint_seconds
        )
        start = saved.restore()
        if start:
            print(f"{label}: goes on after step {start}", flush=True)
        else:
            trainer.reset(training.seed)
        result = fit_keeping_best(
            trainer.step,
            trainer.batches(examples, training.seed, start),
            Schedule(
                options.epochs,
                options.steps_per_epoch,
                options.warmup_steps,
                training.values["learning_rate"],
                FINAL_SHARE,
            ),
            child.log,
            saved,
            measure=lambda: trainer.measure(examples),
            losses=child.series("validation/loss")[: start // options.steps_per_epoch],
            patience=options.patience,
            flush=child.flush,
            seed=training.seed,
            start=start,
            label=label,
        )
        best = saved.restore_best()
        found = trainer.measure(examples)
        numbers = {name.replace("validation/", "best/"): value for name, value in found.items()}
        child.summarize({**numbers, "best/step": best, "seconds/train": result.seconds})
        child.summarize(self._evaluate(child, trainer, training, examples))
        self._keep_model(child, trainer)
        child.summarize({"seconds/total": time.perf_counter() - began})

    def _trained_on(self, examples: Examples) -> str:
        words = []
        if examples.train_rows is not None:
            assert self.data.mpra is not None
            cells = [
                self.data.cell_types[cell] for cell in np.unique(self.data.mpra.cell[examples.train_rows])
            ]
            sequences = len(np.unique(self.data.mpra.table.sequence[examples.train_rows]))
            words.append(f"{sequences:,} MPRA sequences, measured in {name_some(cells, 30)}")
        if examples.train_windows is not None:
            count, length = examples.train_windows.codes.shape
            chromosomes = name_some(np.unique(examples.train_windows.chrom), 30)
            words.append(f"{count:,} windows of {length:,} bp on {chromosomes}")
        return "; ".join(words)

    def _evaluate(
        self, child: "Run", trainer: JointTrainer, training: Training, examples: Examples
    ) -> dict[str, float]:
        """Keeps tables and pictures of what is held out, and returns the final numbers."""
        numbers: dict[str, float] = {}
        hidden = training.hidden(self.data)
        if examples.train_rows is not None:
            assert self.data.mpra is not None
            mpra, train = self.data.mpra, examples.train_rows
            test = mpra.rows("test")
            labelled = [int(cell) for cell in np.unique(mpra.cell[train])]
            predicted = trainer.predict_activity(test)
            table = joint_evaluation.activity_table(mpra, test, predicted, hidden, labelled)
            is_hidden = (table["labels"] == "hidden").to_numpy()
            of_cells = {}
            if hidden in trainer.model.config.seen and is_hidden.any():  # else that mean is the prediction
                of_cells = {cell: trainer.predict_activity(test[is_hidden], cell) for cell in labelled}
            table[joint_evaluation.MEAN_OF_CELLS] = joint_evaluation.mean_of_cells(of_cells, is_hidden)
            key = (train.tobytes(), hidden)
            if key not in self._baselines:
                self._baselines[key] = joint_evaluation.baselines(mpra, train, test)
            table = table.assign(**self._baselines[key])
            comparison = joint_evaluation.compare_cell_types(table, list(joint_evaluation.PREDICTORS))
            child.keep_table("predictions", table)
            # a name may be there twice, and a cell type have no measurement: the sample itself has what is predicted
            if trainer.exports and (sample := trainer.sample_table(test)) is not None:
                child.keep_parquet(sample_name("activity"), sample)
            child.keep_table("comparison", comparison)
            with tempfile.TemporaryDirectory() as temporary:
                title = f"{training.modalities}, seed {training.seed}: held-out sequences"
                child.keep(reporting.write_prediction_figure(table, title, Path(temporary, "activity.png")))
            numbers |= joint_evaluation.activity_numbers(comparison)
            if trainer.uses_letters and not is_hidden.all():
                letters, base = trainer.letter_losses(test[~is_hidden])
                numbers |= {"nucleotides/loss": letters, "nucleotides/base_composition": base}
            numbers["test/sequences"] = float(len(np.unique(mpra.table.sequence[test])))
        if examples.valid_windows is not None:
            assert self.data.tracks is not None
            loss, found = trainer.measure_coverage(self._held_out_windows("test"))
            numbers |= joint_evaluation.coverage_numbers(loss, found, self.data.tracks.cells, hidden)
        return numbers

    def _keep_model(self, child: "Run", trainer: JointTrainer) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            trainer.save(Path(temporary))
            child.keep(Path(temporary, "checkpoint"))
            if not trainer.exports:
                return
            child.log_model(
                Path(temporary, "saved_model"),
                name="model",
                input_shape=(-1, trainer.model.config.mpra_len, 4),
                output_shapes={"activity": (-1, len(self.data.cell_types))},
            )

    def keep_pair(self, trainings: Sequence[Training], done: dict[str, Trained]) -> dict[str, str]:
        """Keeps the models that `generate` works with; where there is one seed alone, a judge is trained first.

        Returns:
            Why that failed, by the judge's name; nothing where it did not.
        """
        results = results_table(trainings, done)
        if self.trunk is not None:
            print("generate takes models that read letters: none is kept for it with --weights", flush=True)
            return {}
        if results.empty or (group := joint_models.best_setting(results)) is None:
            return {}
        names = list(results[results["group"] == group]["name"])
        by_name = {training.name: training for training in trainings}
        if len(names) == 1:
            judge = by_name[names[0]].with_seed((by_name[names[0]].seed + 1) % 2**31)
            print(
                f"one seed: a model of seed {judge.seed} is trained too, to judge what generate writes",
                flush=True,
            )
            outcomes = self.train([judge])
            if outcomes.failed:
                return outcomes.failed
            by_name[judge.name], done = judge, {**done, **outcomes.done}
            names.append(judge.name)
        pair = dict(zip((joint_models.GENERATOR, joint_models.JUDGE), names, strict=False))
        print(
            f"\nkept for generate in runs:/{self.run.id}: {pair[joint_models.GENERATOR]}, judged by "
            f"{pair[joint_models.JUDGE]}",
            flush=True,
        )
        with tempfile.TemporaryDirectory() as temporary:
            checkpoints = {}
            for role, name in pair.items():
                Path(temporary, role).mkdir()
                checkpoints[role] = fetch_checkpoint(f"runs:/{done[name].run}", Path(temporary, role))
            grammar = None
            if self.options.mpra == "demo":
                grammar = demo_mpra.demo_joint_inputs(self.options.work_dir) / demo_mpra.GRAMMAR
            models = joint_models.write_models(
                Path(temporary),
                checkpoints,
                {role: (by_name[name], done[name].run, done[name].comparison) for role, name in pair.items()},
                self.data,
                grammar,
                writes=self.options.nucleotide_weight > 0,
            )
            self.run.keep(models)
        return {}


def results_table(trainings: Sequence[Training], done: Mapping[str, Trained]) -> pd.DataFrame:
    """A row for each training done: name, group (setting and modalities), what it was, and its metrics."""
    return pd.DataFrame(
        [
            {
                "name": training.name,
                "group": f"{training.setting} {training.modalities}",
                "setting": training.setting,
                "modalities": training.modalities,
                "seed": training.seed,
                "holdout_cell_type": training.values["holdout_cell_type"],
                **done[training.name].metrics,
            }
            for training in trainings
            if training.name in done
        ]
    )
