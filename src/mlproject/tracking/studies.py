"""Studies of any kind in the store: runs of commands that train, and what they and their trainings have kept."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError
from mlproject.tracking import grids, reading
from mlproject.tracking.runs import CONTINUED_IN, PARENT, find_run

FINETUNE, TRAIN_HEAD, SEARCH_HEAD, JOINT = "finetune", "train_head", "search_head", "joint"
KINDS = (grids.COMMAND, FINETUNE, TRAIN_HEAD, SEARCH_HEAD, JOINT)  # commands whose runs are studies
_NAMED_BY = {
    FINETUNE: "fold",
    TRAIN_HEAD: "seed",
    SEARCH_HEAD: "best",
    JOINT: "training",
}  # tag of a training
_STATES = ("running", "complete", "pruned", "failed")


class StudyRun(NamedTuple):
    """A study and its trainings, without what they have kept."""

    kind: str
    """The command: one of KINDS."""
    run_id: str
    name: str
    status: str
    """Of the parent: RUNNING, FINISHED, FAILED or KILLED."""
    trainings: pd.DataFrame
    """run_id, variant (what is trained), seed, status, then as `read_runs` has them; the first begun comes first. Of a
    search it is the best head alone."""
    row: dict[str, Any]
    """Of the parent, as `read_runs` has it."""


class Dataset(NamedTuple):
    """Data that went in."""

    name: str
    digest: str
    source: str
    """The folder or address it was read from; empty where that is not known."""


def list_studies(experiment: str | None = None, kinds: Sequence[str] = KINDS) -> pd.DataFrame:
    """Rows of `read_runs`, newest first, of the runs of these commands."""
    found = [reading.read_runs(experiment, tags={"command": kind}) for kind in kinds]
    known = [frame for frame in found if not frame.empty] or found[:1]
    return pd.concat(known, ignore_index=True).sort_values("start_time", ascending=False, ignore_index=True)


def find_study(run_id: str) -> StudyRun:
    """The study of a run that `list_studies` has, unless it is a grid: `grids.find_grid` finds those.

    Raises:
        InputError: there is no such run, or it is of no study.
    """
    row = reading.read_run(run_id)
    kind = row.get("tags.command")
    if kind not in _NAMED_BY:
        raise InputError(f"run {run_id}: is no study; its command is {kind or 'not known'}")
    found = reading.read_runs(tags={PARENT: run_id}, experiment_ids=[row["experiment_id"]])
    tag = f"tags.{_NAMED_BY[kind]}"
    trainings = pd.DataFrame(columns=["run_id", "variant", "seed", "status"])
    if tag in found:
        found = found[found[tag].notna()][::-1].reset_index(drop=True)
        words = [_variant(kind, training) for training in found.to_dict("records")]
        seeds = found.get("params.seed", pd.Series(row.get("params.seed"), found.index))
        trainings = found.assign(variant=words, seed=pd.to_numeric(seeds).astype("Int64"))
    return StudyRun(kind, run_id, row["name"], row["status"], trainings, row)


def _variant(kind: str, training: dict[str, Any]) -> str:
    if kind == FINETUNE:
        return f"fold {training['tags.fold']}"
    if kind == TRAIN_HEAD:
        return str(training.get("params.head", "head"))
    if kind == JOINT:
        return " ".join(filter(None, (training.get("params.modalities"), training.get("params.setting"))))
    return f"trial {training['tags.best']}"


def ended(study: StudyRun) -> pd.DataFrame:
    """Its trainings that are done.

    Raises:
        InputError: there are none; says which run has them, where another command has gone on with them.
    """
    found = study.trainings[study.trainings["status"] == "FINISHED"]
    if found.empty:
        later = study.row.get(f"tags.{CONTINUED_IN}")
        where = f"; they are those of run {later}" if isinstance(later, str) else ""
        raise InputError(f"--run: none of the trainings of {study.name} has ended{where}")
    return found.reset_index(drop=True)


def study_facts(study: StudyRun) -> list[tuple[str, str]]:
    """How to repeat it: names and words."""
    return grids.facts_of(study.name, study.row, [study.run_id, *study.trainings["run_id"][:1]])


def datasets_of(run_id: str) -> list[Dataset]:
    """The data that went into a run."""
    inputs = find_run(run_id).client.get_run(run_id).inputs
    return [
        Dataset(one.dataset.name, one.dataset.digest, _source(one.dataset.source))
        for one in (inputs.dataset_inputs if inputs else [])
    ]


def _source(words: str) -> str:
    try:
        found = json.loads(words)
    except ValueError:
        return ""
    return str(found.get("uri", "")) if isinstance(found, dict) else ""


def kept_table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that a run has kept; None where it has not."""
    try:
        return find_run(run_id).table(name)
    except (MlflowException, OSError):
        return None


def needed_table(study: StudyRun, run_id: str, name: str) -> pd.DataFrame:
    """A table that a report cannot do without.

    Raises:
        InputError: the run has not kept it.
    """
    found = kept_table(run_id, name)
    if found is None or found.empty:
        raise InputError(f"--run: {study.name} is not done: run {run_id} has kept no table {name!r}")
    return found


def has_model(run_id: str, name: str = "model") -> bool:
    """Whether the run has logged a model of this name."""
    run = find_run(run_id)
    words = f"source_run_id = '{run.id}' AND name = '{name}'"
    return bool(run.client.search_logged_models([run.experiment_id], filter_string=words, max_results=1))


def read_trials(run_id: str) -> pd.DataFrame:
    """The trials of a search, as `reporting.study_of` takes them: of its table, else of its children as they stand.

    Of children, which tell less: number, state (running, complete, pruned or failed), value, one column for each
    parameter, seconds, origin.
    """
    table = kept_table(run_id, "trials")
    if table is not None:
        return table
    row = reading.read_run(run_id)
    children = reading.read_runs(tags={PARENT: run_id}, experiment_ids=[row["experiment_id"]])
    if "tags.trial" not in children:
        return pd.DataFrame(columns=["number", "state", "value", "seconds", "origin"])
    children = children[children["tags.trial"].astype(str).str.fullmatch(r"\d{1,9}")]
    columns: dict[str, Any] = {
        "number": pd.to_numeric(children["tags.trial"]).astype("int64"),
        "state": [word if word in _STATES else "running" for word in _column(children, "tags.state")],
        "value": pd.to_numeric(_column(children, "metrics.objective")),
    }
    for name in children:
        if name.startswith("params.") and name != "params.trial":
            columns[name.removeprefix("params.")] = _numbers(children[name])
    columns["seconds"] = pd.to_numeric(_column(children, "metrics.seconds/total"))
    columns["origin"] = _column(children, "tags.origin").fillna("").replace("the sampler", "")
    found = pd.DataFrame(columns).dropna(axis=1, how="all")
    found = found.reindex(columns=list(dict.fromkeys(["number", "state", "value", *found.columns])))
    return found.sort_values("number", ignore_index=True)


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(None, frame.index, dtype="object")


def _numbers(words: pd.Series) -> pd.Series:
    """Whole numbers, numbers, or else the words; what is missing stays so."""
    known = words.dropna().astype(str)
    try:
        values = pd.to_numeric(words)
    except ValueError:
        return words
    whole = all(re.fullmatch(r"-?\d+", word) for word in known)
    return values.astype("Int64") if whole else values.astype("float64")
