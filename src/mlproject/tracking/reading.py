"""What is in the store, as frames: nothing here changes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError
from mlproject.tracking import store
from mlproject.tracking.refusals import refusal
from mlproject.tracking.runs import PARENT

_COMMIT = "mlflow.source.git.commit"


def read_runs(
    experiment: str | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    finished: bool = False,
    metric: str = "",
    experiment_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every run, one row each, newest first; however many there are.

    Args:
        experiment: name of an experiment; all of them by default.
        tags: only runs that have all of these.
        finished: only runs that ended FINISHED.
        metric: only runs that have this one.
        experiment_ids: in place of a name.

    Returns:
        Columns run_id, name, status, experiment_id, parent, commit, start_time, end_time (UTC), then one for each
        parameter (`params.NAME`, words), tag (`tags.NAME`) and latest metric (`metrics.NAME`, float).

    Raises:
        InputError: no such experiment.
    """
    client = store.open_store()
    if experiment_ids is None:
        experiment_ids = _experiments(experiment)
    filters = [store.equals(name, value) for name, value in (tags or {}).items()]
    filters += ["attributes.status = 'FINISHED'"] if finished else []
    filters += [f"metrics.`{metric}` > -1e300"] if metric else []
    rows = [
        _row(run)
        for run in store.pages(
            client.search_runs,
            experiment_ids=experiment_ids,
            filter_string=" AND ".join(filters),
            order_by=["attributes.start_time DESC"],
            max_results=1000,
        )
    ]
    frame = pd.DataFrame(rows)
    rest = sorted(set(frame.columns) - set(_FIRST))
    return frame.reindex(columns=[*_FIRST, *rest])


_FIRST = ("run_id", "name", "status", "experiment_id", "parent", "commit", "start_time", "end_time")


def read_run(run_id: str) -> dict[str, Any]:
    """One run, as a row of `read_runs`; what it has not is absent.

    Raises:
        InputError: there is none.
    """
    try:
        return _row(store.open_store().get_run(run_id))
    except MlflowException as error:
        if refusal(error):  # which says nothing about the run
            raise
        raise InputError(f"run {run_id}: {(str(error).splitlines() or [repr(error)])[0]}") from error


def list_tables(run_id: str, prefix: str) -> list[str]:
    """What follows this prefix in the names of the tables that a run keeps, without `.parquet`, in alphabetic order."""
    found = [artifact.path for artifact in store.open_store().list_artifacts(run_id)]
    names = [path.removesuffix(".parquet") for path in found if path.endswith(".parquet")]
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def experiment_exists(name: str) -> bool:
    """Whether the store has an experiment of that name, which is not deleted."""
    found = store.open_store().get_experiment_by_name(name)
    return found is not None and found.lifecycle_stage == "active"


def _experiments(name: str | None) -> list[str]:
    client = store.open_store()
    if name is None:
        return [found.experiment_id for found in store.pages(client.search_experiments)]
    found = client.get_experiment_by_name(name)
    if found is None:
        raise InputError(f"no experiment {name!r} in the store")
    return [found.experiment_id]


def _row(run: MlflowRun) -> dict[str, Any]:
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "experiment_id": run.info.experiment_id,
        "parent": run.data.tags.get(PARENT),
        "commit": run.data.tags.get(_COMMIT),
        "start_time": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
        "end_time": pd.Timestamp(run.info.end_time, unit="ms", tz="UTC") if run.info.end_time else pd.NaT,
        **{f"params.{key}": value for key, value in run.data.params.items()},
        **{f"tags.{key}": value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
        **{f"metrics.{key}": value for key, value in run.data.metrics.items()},
    }
