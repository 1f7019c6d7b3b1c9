"""What is told of a study in the store: its report, and the card of its best model."""

import dataclasses
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlproject import __version__, reporting, stderr
from mlproject.errors import InputError

if TYPE_CHECKING:
    from mlproject.tracking.studies import StudyRun

WRITTEN_BY = ("report", f"mlproject {__version__}")


def choose_study(run: str, experiment: str) -> dict[str, Any]:
    """The row of a study's run, as `read_runs` has it; a grid of files that a report has kept is one too.

    Args:
        run: its ID, or `runs:/ID`; empty for the last finished study.
        experiment: where it is looked for; empty for all.

    Raises:
        InputError: there is none.
    """
    from mlproject.tracking import grids, reading, studies  # takes seconds to import

    where = f"experiment {experiment!r}" if experiment else "this store"
    if not run:
        table = studies.list_studies(experiment or None)
        table = table[table["status"] == "FINISHED"]
        if table.empty:
            raise InputError(
                f"--experiment: {where} has no finished study; `mlflow run . -e ablation` makes one, as do "
                f"{', '.join(studies.KINDS[1:])}"
            )
        return reading.read_run(str(table["run_id"].iloc[0]))
    run_id = run.removeprefix("runs:/")
    try:
        row = reading.read_run(run_id)
    except InputError:
        raise InputError(f"--run: found {run!r}, which is no run of {where}") from None
    if row.get("tags.command") not in studies.KINDS and f"tags.{grids.IMPORTED}" not in row:
        raise InputError(f"--run: found {run!r}, which is no study: a run of {', '.join(studies.KINDS)}")
    if experiment and run_id not in reading.read_runs(experiment)["run_id"].tolist():
        raise InputError(f"--run: found {run!r}, which is no run of {where}")
    return row


def tell(row: dict[str, Any], organism: str = "") -> reporting.Told:
    """What is told of a study.

    Args:
        row: as `choose_study` gives it.
        organism: of ablation, which head; empty for the first.

    Raises:
        InputError: there is no such head, or none of its trainings has ended.
    """
    from mlproject.tracking import studies

    kind = row["tags.command"]
    tell = {
        studies.FINETUNE: _of_finetune,
        studies.TRAIN_HEAD: _of_train_head,
        studies.SEARCH_HEAD: _of_search_head,
        studies.JOINT: _of_joint,
    }
    if kind not in tell:
        return _of_ablation(row, organism)
    if organism:
        raise InputError(f"--organism: is for ablation; found a run of {kind}")
    return tell[kind](studies.find_study(row["run_id"]))


def _of_ablation(row: dict[str, Any], organism: str) -> reporting.Told:
    from mlproject.tracking import grids

    found = grids.find_grid(row["run_id"])
    organism = organism or found.organisms[0]
    if organism not in found.organisms:
        raise InputError(f"--organism: found {organism!r}; {found.name} has {', '.join(found.organisms)}")
    frames = grids.read_grid(found, organism)
    if frames.scores.empty:
        raise InputError(f"--run: none of the trainings of {found.name} has ended")
    facts = [*grids.grid_facts(found), WRITTEN_BY]
    grid = reporting.Grid(f"{found.name}: {organism}", organism, *frames, facts)
    told = reporting.grid_told(grid, found.children[["run_id", "variant", "seed"]])
    return told._replace(limits=[*told.limits, *_limits(row)])


def _of_finetune(study: "StudyRun") -> reporting.Told:
    from mlproject.tracking import studies

    done = studies.ended(study)
    return reporting.construct_report(
        reporting.ConstructStudy(
            study.name,
            studies.needed_table(study, study.run_id, "comparison"),
            studies.needed_table(study, study.run_id, "constructs"),
            done[["run_id", "variant", "seed"]],
            **_training(study, ("loss", "validation/loss")),
        )
    )


def _of_train_head(study: "StudyRun") -> reporting.Told:
    found = _heads(study, str(study.row["params.organism"]))
    curves = found.curves.assign(variant="seed " + found.curves["seed"].astype(str))  # seeds are what differs
    return reporting.head_report(dataclasses.replace(found, curves=curves))


def _heads(study: "StudyRun", organism: str) -> reporting.HeadStudy:
    from mlproject.tracking import grids, studies

    parts = []
    for training in studies.ended(study).itertuples():
        table = studies.needed_table(study, str(training.run_id), f"tracks_{organism}")
        parts.append(table.assign(run_id=training.run_id, seed=training.seed, track=grids.track_names(table)))
    head = str(study.trainings["variant"].iloc[0])
    series = ("loss", "validation/loss", "validation/pearson")
    return reporting.HeadStudy(
        study.name, head, pd.concat(parts, ignore_index=True), **_training(study, series)
    )


def _of_search_head(study: "StudyRun") -> reporting.Told:
    from mlproject.tracking import studies

    maximizes = study.row.get("params.objective") != "loss"
    trials = studies.read_trials(study.run_id)
    if trials.empty:
        raise InputError(f"--run: none of the trials of {study.name} has ended")
    best: reporting.ConstructStudy | reporting.HeadStudy | None = None
    # one for each budget that the best head was trained on: the last of this study counts
    done = study.trainings[study.trainings["status"] == "FINISHED"].tail(1).reset_index(drop=True)
    if len(done):
        own = study._replace(trainings=done)
        best = _best_activity(own) if study.row["params.task"] == "constructs" else _best_head(own)
    judged = {}
    if study.row["params.task"] == "tracks" and study.row["params.eval_split"] == "valid":
        judged["judged_on"] = "the validation split, which chose it"
    parts = {"embeddings": "seconds/embeddings", "trials": "seconds/trials"}
    seconds = {name: float(study.row.get(f"metrics.{key}", 0.0)) for name, key in parts.items()}
    total = float(study.row.get("metrics.seconds/total", 0.0))
    seconds["best head and the rest"] = max(0.0, total - sum(seconds.values()))
    return reporting.search_report(
        reporting.SearchStudy(
            study.name,
            trials,
            "validation Pearson r" if maximizes else "validation loss",
            maximizes,
            best,
            pd.DataFrame([{"variant": "search", "seed": study.row["params.seed"], **seconds}]),
            [*studies.study_facts(study), WRITTEN_BY],
            **judged,
            limits=_limits(study.row),
        )
    )


def _best_head(study: "StudyRun") -> reporting.HeadStudy:
    found = _heads(study, str(study.row["params.organism"]))
    return dataclasses.replace(found, head="best", limits=())


def _best_activity(study: "StudyRun") -> reporting.ConstructStudy:
    with stderr.without(stderr.GREETING):
        from mlproject.evaluation import compare_predictors  # takes seconds to import
    from mlproject.tracking import studies

    training = study.trainings.iloc[0]
    constructs = studies.needed_table(study, str(training["run_id"]), "constructs")
    ridges = [name for name in constructs if name.startswith("ridge_")]
    return reporting.ConstructStudy(
        study.name,
        compare_predictors(constructs, ["predicted", *ridges]),
        constructs,
        study.trainings[["run_id", "variant", "seed"]],
        **{**_training(study, ("loss", "validation/loss")), "limits": ()},
    )


def _of_joint(study: "StudyRun") -> reporting.Told:
    from mlproject.tracking import studies

    done = studies.ended(study)
    results = done.rename(columns=lambda name: name.removeprefix("metrics."))
    results = results[[name for name in results if not name.startswith(("params.", "tags."))]]
    best = str(results["run_id"].loc[reporting.best_training(results)])
    empty = pd.DataFrame()
    tables = {name: studies.kept_table(best, name) for name in ("comparison", "predictions")}
    differences = studies.kept_table(study.run_id, "differences")
    series = ("validation/loss", "validation/activity_pearson", "validation/coverage_pearson")
    return reporting.joint_report(
        reporting.JointStudyTold(
            study.name,
            results,
            empty if differences is None else differences,
            **{name: empty if table is None else table for name, table in tables.items()},
            **_training(study, series),
        )
    )


def _training(study: "StudyRun", series: tuple[str, ...]) -> dict[str, Any]:
    """Fields that every kind has: curves, seconds, facts and limits."""
    from mlproject.tracking import grids, studies

    return {
        "curves": grids.curves_of(study.trainings, series),
        "seconds": grids.seconds_of(study.trainings),
        "facts": [*studies.study_facts(study), WRITTEN_BY],
        "limits": _limits(study.row),
    }


def _limits(row: dict[str, Any]) -> list[str]:
    """What follows from the options of a study for its models."""
    limits = []
    sources = [str(row.get(f"params.{name}", "")) for name in ("data", "mpra", "tracks")]
    if "demo" in sources:
        limits.append("It was trained on made-up demo data: it says nothing of any real genome.")
    if row.get("params.weights") == "random":
        limits.append("Its trunk has random weights: it says nothing of a pretrained Enformer.")
    if row.get("params.preset") == "tiny":
        limits.append("It is of the size tiny, made to be trained in seconds.")
    return limits


# --- the card -----------------------------------------------------------------------------------------------------

_WHAT = {
    "ablation": "An Enformer that predicts genomic tracks in bins of 128 bp from DNA sequence.",
    "finetune": "An Enformer trunk with an activity head, fine-tuned to predict measured activity of constructs.",
    "train_head": "A head on a frozen Enformer trunk that predicts genomic tracks in bins of 128 bp.",
    "search_head": "The best head that a search found for a frozen Enformer trunk.",
    "joint": "A Perceiver trained on genomic tracks, measurements of activity (MPRA), or both.",
}
_PREDICT = {
    "ablation": "predict --weights runs:/{}",
    "finetune": "predict_constructs --weights runs:/{}",
    "train_head": "predict --weights runs:/{}",
    "joint": "generate --model runs:/{}",
}


def card(row: dict[str, Any], told: reporting.Told) -> reporting.ModelCard:
    """What is written on the card of the best model of a study.

    Args:
        row: as `choose_study` gives it.
        told: of `tell`, with a best model.
    """
    from mlproject.tracking import grids, reading, registry, studies

    kind, best = str(row["tags.command"]), reading.read_run(told.best)
    task = {"constructs": "finetune", "tracks": "train_head"}.get(str(row.get("params.task")), kind)
    commands = []
    address = f"runs:/{told.best}/checkpoint"
    if studies.has_model(told.best):
        address = f"runs:/{told.best}/model"
        load = f'import mlflow\n\nmodel = mlflow.pyfunc.load_model("{address}")  # takes sequence, float32'
        commands.append(("In Python, as a model of MLflow", load))
        register = f"python -m mlproject register --model {told.best} --name NAME"
        commands.append(("To make it a version of a registered model, which can be served", register))
    # generate takes the run of the study, which keeps a model and its judge
    of = row["run_id"] if kind == "joint" else told.best
    if kind != "joint" or registry.has_folder(of, "models"):
        commands.append(("From a shell", f"python -m mlproject {_PREDICT[task].format(of)}"))
    datasets = list(dict.fromkeys([*studies.datasets_of(told.best), *studies.datasets_of(row["run_id"])]))
    commits = [str(one["commit"]) for one in (best, row) if isinstance(one.get("commit"), str)]
    versions = [
        ("source of the training (commit)", commits[0] if commits else "not recorded"),
        ("mlproject, when this card was written", __version__),
        ("Python, when this card was written", platform.python_version()),
        ("TensorFlow, when this card was written", version("tensorflow")),
    ]
    return reporting.ModelCard(
        name=f"{best['name']} of {row['name']}",
        what=_WHAT[kind],
        run_id=told.best,
        address=address,
        chosen=told.chosen,
        commands=commands,
        datasets=[(one.name, one.digest, one.source) for one in datasets],
        evaluations=told.evaluations,
        summary=told.report.sentences,
        uses=[
            "Research: comparing architectures and ways of training on the data above.",
            "Not for decisions on patients, and not beyond the organisms, assays and lengths of its training data.",
        ],
        limits=told.limits,
        versions=versions,
        repeat=grids.command_of(row),
        tags=["genomics", "dna", "mlproject", kind],
    )
