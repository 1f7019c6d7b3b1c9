"""Give the best model of a study, or another, a name that it can be served by."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from enformer_core import checkpoints
from enformer_core.saved_model import Predictor
from mlproject import __version__, reporting, telling
from mlproject.errors import InputError, reason
from mlproject.promotion import CHALLENGER, CHAMPION, who
from mlproject.reproducing import (
    Reproduced,
    check_reproduced,
    reproduce_activity,
    reproduce_cell_types,
    reproduce_tracks,
    saved_model_predictions,
)
from mlproject.serving.about import about_of
from mlproject.studies import TRAINING_REGIONS

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


_SERVED = "served"  # what the model is called among those of its run
_EXAMPLE = "ACGTTGCAAGCTTCGA" * 8  # padded with N where the model takes more, cut where it takes less


@dataclasses.dataclass(frozen=True)
class Options:
    """Make a model a version of a registered one: of a study its best, of a run its own, or a checkpoint folder."""

    model: str = ""
    """ID of the run of a study or of one training, or a checkpoint folder. Empty: the last finished study."""
    rule: str = ""
    """Of a study: "best METRIC", such as "best pearson/CAGE", among its trainings. Empty: as its model card chooses."""
    name: str = "enformer"
    """Registered model of which it becomes a version."""
    alias: str = ""
    """Alias that leads to the version from now on. Empty: of a new version challenger, or champion where none is."""
    unchecked: bool = False
    """Register it although its run has kept no sample on which to check that it predicts what was measured."""
    experiment: str = ""
    """MLflow experiment with the study; the run lands there too. Empty: the last of any, and `register`."""


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What is to be registered."""

    checkpoint: str
    """Folder or address."""
    run_id: str = ""
    """Of the training that made it; empty for a folder."""
    description: str = ""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)


def check(options: Options) -> None:
    """Refuses what cannot be registered, before a run exists.

    Raises:
        InputError: one line that names the option, what was found and what to do.
    """
    from mlproject.tracking import reading, registry  # takes seconds to import

    registry.check_name(options.name)
    if options.alias:
        registry.check_alias(options.alias)
    words = options.rule.split()
    if options.rule and (len(words) != 2 or words[0] != "best"):
        raise InputError(
            f'--rule: found {options.rule!r}; expected "best METRIC", such as "best pearson/CAGE"'
        )
    if options.rule and options.model and Path(options.model).is_dir():
        raise InputError(f"--rule: is for a study; found the folder {options.model}")
    if options.experiment and not reading.experiment_exists(options.experiment):
        raise InputError(f"--experiment: no experiment {options.experiment!r} in the store")
    _choose(options)


def run(options: Options, run: "Run") -> int:
    """Exports the model, checks it, logs it as a served one, and registers that."""
    from mlproject.tracking import registered, registry
    from mlproject.tracking.runs import find_run
    from mlproject.tracking.sequence_models import fetch_sequence_model, log_sequence_model

    chosen = _choose(options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(chosen.checkpoint)
        if chosen.run_id:
            folder = registry.fetch_checkpoint(chosen.checkpoint, Path(temporary, "fetched"))
        try:
            model = checkpoints.load(folder)
        except (OSError, ValueError) as error:
            raise InputError(f"--model {options.model}: {reason(error)}") from error
        owner = find_run(chosen.run_id) if chosen.run_id else run
        # to log it again would take it from the versions that there are
        address = registry.find_model(owner, _SERVED)
        if address is not None:
            saved_model, about = fetch_sequence_model(address, Path(temporary, "served"))
        else:
            about = about_of(model)  # before it is exported: refuses a model that cannot be
            saved_model = Path(temporary, "saved_model")
            Predictor(model).save(saved_model)
        found = _reproduced(chosen.run_id, saved_model, about)
        _say(found, options)
        if address is None:
            example = pd.DataFrame({"sequence": [_EXAMPLE[: about["sequence_length"]]]})
            address = log_sequence_model(owner, saved_model, about, name=_SERVED, example=example)
        tags = {**chosen.tags, "weights_digest": checkpoints.model_digest(model), "mlproject": __version__}
        if found is not None:
            tags |= {"checked": f"{found.numbers} values, {found.apart:.1e} apart, r {found.found:.4f}"}
    before = registry.find_registered(owner, _SERVED, options.name)
    version = registry.register(owner, _SERVED, options.name, tags)
    if chosen.description:
        registered.describe(options.name, version, chosen.description)
    run.tag({"registered": f"models:/{options.name}/{version}"})
    name = f"models:/{options.name}/{version}"
    if options.alias or before is None:
        aliases = registered.list_aliases(options.name)
        alias = options.alias or (CHAMPION if CHAMPION not in aliases else CHALLENGER)
        registered.promote(options.name, int(version), alias, who())
        name = f"models:/{options.name}@{alias}"
        if aliases.get(alias, int(version)) != int(version):
            print(f"{alias} led to version {aliases[alias]} before; `roll_back` makes it lead there again")
    already = "" if before is None else " already"
    print(f"{chosen.checkpoint} is version {version} of {options.name}{already}: {name} ({address})")
    print(f"To serve it: mlflow run . -e serve --env-manager local -P model={name}")
    return 0


def _choose(options: Options) -> _Chosen:
    """The model that is meant.

    Raises:
        InputError: there is none.
    """
    from mlproject.tracking import reading
    from mlproject.tracking.runs import PARENT

    if options.model and Path(options.model).is_dir():
        return _Chosen(options.model)
    run_id = options.model.removeprefix("runs:/")
    if run_id:
        try:
            own = reading.read_run(run_id)
        except InputError as error:
            raise InputError(
                f"--model: found {options.model!r}, neither a folder nor a run: {error}"
            ) from None
        if own.get("parent"):
            if options.rule:
                raise InputError(f"--rule: is for a study; {options.model} is one training")
            return _of_training(own, reading.read_run(own["parent"]))
    row = telling.choose_study(run_id, options.experiment)
    if not options.rule:
        told = telling.tell(row)
        if not told.best:
            raise InputError(f"--model: {row['name']} is of files and has no model")
        return _of_training(reading.read_run(told.best), row, told)
    metric = options.rule.split()[1]
    found = reading.read_runs(
        tags={PARENT: row["run_id"]}, finished=True, experiment_ids=[row["experiment_id"]]
    )
    column = f"metrics.{metric}"
    if column not in found or not found[column].notna().any():
        names = sorted(name.removeprefix("metrics.") for name in found if name.startswith("metrics."))
        raise InputError(f"--rule: no training of {row['name']} has {metric!r}; they have {', '.join(names)}")
    values = found[column].astype(float)
    place = values.idxmin() if "loss" in metric else values.idxmax()
    return _of_training(reading.read_run(found.loc[place, "run_id"]), row)


def _of_training(own: Mapping[str, Any], row: dict[str, Any], told: reporting.Told | None = None) -> _Chosen:
    """What is said of a training of a study: what the study says of its best model holds for that one alone."""
    from mlproject.tracking import registry, studies

    if own["status"] != "FINISHED":
        raise InputError(f"--model: the training {own['name']} is {own['status'].lower()}, not finished")
    if not registry.has_folder(own["run_id"], registry.CHECKPOINT):
        raise InputError(f"--model: the run {own['name']} keeps no checkpoint; name one of its trainings")
    told = told or telling.tell(row)
    metrics = {
        key.removeprefix("metrics."): value for key, value in own.items() if key.startswith("metrics.")
    }
    metrics = {key: value for key, value in metrics.items() if "pearson" in key}
    if told.best != own["run_id"]:
        # intervals of the study are those of its best variant
        told = told._replace(
            best=own["run_id"],
            chosen=f"It is {own['name']}, chosen by who registered it.",
            evaluations=[
                reporting.Evaluation(key, value, n="this training") for key, value in metrics.items()
            ],
        )
    datasets = [*studies.datasets_of(own["run_id"]), *studies.datasets_of(row["run_id"])]
    tags = {name: str(own[f"params.{name}"]) for name in ("variant", "seed") if f"params.{name}" in own}
    tags |= {"study": row["run_id"], "command": str(row["tags.command"])}
    if datasets:
        tags |= {"dataset": datasets[0].name, "dataset_digest": datasets[0].digest}
    if regions := own.get(f"tags.{TRAINING_REGIONS}"):
        tags |= {TRAINING_REGIONS: str(regions)}
    tags |= {key: f"{value:.4f}" for key, value in metrics.items()}
    return _Chosen(
        f"runs:/{own['run_id']}", own["run_id"], reporting.card_text(telling.card(row, told)), tags
    )


def _reproduced(run_id: str, saved_model: Path, about: Mapping[str, Any]) -> Reproduced | None:
    """How near the model comes to what its run has measured, of each head; None where the run has kept no sample.

    Raises:
        InputError: it is another model.
    """
    from mlproject.tracking import signals, studies

    if not run_id:
        return None
    predict = saved_model_predictions(saved_model)
    worst = None
    for head in about["heads"]:
        sample = signals.read_sample(run_id, head)
        if sample is None:
            continue
        if about["kind"] == "joint":
            cell_types = [track["identifier"] for track in about["heads"][head]["tracks"]]
            found = reproduce_cell_types(predict, sample, cell_types)
        elif head == "activity":
            table = studies.kept_table(run_id, "predictions")
            if table is None:
                continue
            found = reproduce_activity(predict, sample, table)
        else:
            index = signals.read_signal_index(run_id, head)
            place = sample.iloc[0]
            here = index[(index["chrom"] == place["chrom"]) & (index["start"] == place["start"])]
            tracks = here["index"].astype(int).tolist()
            signal = signals.read_signals(run_id, head, tracks, place["chrom"], int(place["start"]))
            found = reproduce_tracks(predict, head, sample, signal, about["heads"][head]["tracks"])
        check_reproduced(found, f"runs:/{run_id}")
        worst = found if worst is None or found.apart > worst.apart else worst
    return worst


def _say(found: Reproduced | None, options: Options) -> None:
    if found is not None:
        print(
            f"checked on the sample that its run has kept: {found.numbers:,} values, {found.apart:.1e} of the largest "
            f"apart; Pearson r {found.found:.4f}, then {found.kept:.4f}"
        )
    elif not options.unchecked:
        raise InputError(
            "--model: there is no sample on which to check that it predicts what was measured (a folder, a run of an "
            "earlier version, or a joint training without MPRA); --unchecked true registers it all the same"
        )
