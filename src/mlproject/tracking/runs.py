"""Runs in MLflow: the run of a command and its child runs.

A command's run is adopted from `mlflow run` where there is one; children are found again by their key, so
that the same command resumes what an earlier one left.
"""

import dataclasses
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from pyarrow import parquet

from mlproject.errors import InputError, Stopped, one_line
from mlproject.options import as_words
from mlproject.tracking import registry, store
from mlproject.tracking.comparison import share_comparison
from mlproject.tracking.models import Shape, log_saved_model

PARENT = "mlflow.parentRunId"
FAILURE = "failure"  # tag: why a run FAILED, in one line
NOT_FINITE = "not_finite"  # tag: the metrics of which a value was NaN or infinite
RESUMABLE = "resumable"  # tag: the run was stopped and the same command continues it
CONTINUED_IN = "continued_in"  # tag: the run of a later command that took over this one's children

_MAX_PARAM = 6000  # characters; MLflow cuts longer ones without a word
_MAX_REASON = 500
_MAX_DESCRIPTION = 8000  # of any tag
_BATCH = 1000  # metrics that one log_batch takes
_GROUP_ROWS = 64  # of a parquet file that is read in parts
_FLUSH_SECONDS = 5.0
_GIVEN_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # the names that MLflow makes up


@contextmanager
def start_run(command: str, options: Any) -> Iterator["Run"]:
    """The tracked run of one command: the run that `mlflow run` has made, else a new one.

    `options`, a dataclass instance, is kept as `options.json` and as parameters, except those that MLflow has
    logged already as raw words. Its field `experiment` names the experiment, unless MLflow was told one.
    The run ends FINISHED; FAILED with the tag `failure` after an exception or `fail()`; KILLED with the
    tag `resumable` after `Stopped` or Ctrl-C.
    """
    client = store.open_store()
    wanted = getattr(options, "experiment", None) or command
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted:
        run = Run(client, client.get_run(adopted))
        os.environ.pop("MLFLOW_RUN_ID")  # left in place it would become the run of whatever starts next
        if wanted != (_default(options, "experiment") or command):
            _say_other_experiment(client, run, wanted)
        if _GIVEN_NAME.fullmatch(run.name):
            run.rename(f"{command} {run.id[:6]}")
    else:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or store.experiment_id(
            client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or wanted
        )
        run = Run(client, client.create_run(experiment, tags=dict(resolve_tags())))
        run.rename(f"{command} {run.id[:6]}")
    with run._ending():
        run.tag({"command": command})
        run._log_params(as_words(options))
        run.keep_text("options.json", json.dumps(dataclasses.asdict(options), indent=2, default=str) + "\n")
        yield run


def refuse_run(reason: str) -> None:
    """Ends the run that `mlflow run` has made, if there is one, as FAILED for `reason`."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        client = store.open_store()
        run = Run(client, client.get_run(run_id))
        run.fail(reason)
        run._end()


def find_run(run_id: str) -> "Run":
    """A run that is in the store, to read from and to keep files in; its state is left as it is."""
    client = store.open_store()
    return Run(client, client.get_run(run_id))


class Run:
    """One run in the store: numbers, words, files and child runs go in, and can be read back."""

    def __init__(self, client: MlflowClient, run: MlflowRun, *, done: bool = False) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self.done = done
        """Whether this is a child that an earlier command has finished: there is nothing left to do."""
        self.client = client
        self._tags: dict[str, str] = dict(run.data.tags)
        self._known_params = set(run.data.params)
        self._last_step: dict[str, int] = {}
        self._buffer: list[Metric] = []
        self._flushed_at = time.monotonic()
        self._dropped: set[str] = set()
        self._outcome = "FINISHED"

    # -- numbers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to each series. Points are sent in batches: `flush()` before a checkpoint is saved.

        A resumed child repeats steps that an earlier process has logged: those points are dropped. So is
        what is not finite (MLflow would store infinity as 1.8e308): the tag `not_finite` names its series.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            key = _metric_name(name)
            if step <= self._last_step.get(key, -1):
                continue
            if not math.isfinite(value):
                self._dropped.add(key)
                continue
            self._last_step[key] = step
            self._buffer.append(Metric(key, float(value), now, step))
        if len(self._buffer) >= _BATCH or time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Sends every point that is still in memory."""
        while self._buffer:
            self.client.log_batch(self.id, metrics=self._buffer[:_BATCH])
            del self._buffer[:_BATCH]
        self._flushed_at = time.monotonic()
        named = ", ".join(sorted(self._dropped))
        if named and self._tags.get(NOT_FINITE) != named:
            self.tag({NOT_FINITE: named})

    def summarize(self, metrics: Mapping[str, float]) -> None:
        """Sets final numbers, without a step: the UI draws bars of them. Others are named in a tag."""
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            key = _metric_name(name)
            if math.isfinite(value):
                self._buffer.append(Metric(key, float(value), now, 0))
            else:
                self._dropped.add(key)
        self.flush()

    def metrics(self) -> dict[str, float]:
        """The latest value of each metric, read back from the store."""
        self.flush()
        return dict(self.client.get_run(self.id).data.metrics)

    def series(self, name: str) -> list[float]:
        """The points of one series by step, read back from the store; empty where there are none."""
        return [value for _, value in self.history(name)]

    def history(self, name: str) -> list[tuple[int, float]]:
        """The same with the step of each point."""
        self.flush()
        history = self.client.get_metric_history(self.id, _metric_name(name))
        return sorted((point.step, point.value) for point in history)

    def datasets(self) -> list[tuple[str, str]]:
        """Name and digest of the data that went in."""
        inputs = self.client.get_run(self.id).inputs
        return [(one.dataset.name, one.dataset.digest) for one in inputs.dataset_inputs] if inputs else []

    # -- words

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self._tags.update(tags)
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def describe(self, markdown: str) -> None:
        """Sets the description that the UI shows on the run's page; the end of one beyond 8,000 characters is cut."""
        if len(markdown) > _MAX_DESCRIPTION:
            note = "\n\n(The rest is too long to be shown here.)"
            start = markdown[: _MAX_DESCRIPTION - len(note)]
            markdown = (start.rpartition("\n")[0] or start) + note
        self.tag({"mlflow.note.content": markdown})

    def rename(self, name: str) -> None:
        """Changes the name that the UI shows."""
        self.client.update_run(self.id, name=name)
        self.name = name

    def fail(self, reason: str) -> None:
        """Makes the run end as FAILED, and keeps `reason`, one line, in the tag `failure`."""
        self._outcome = "FAILED"
        self.tag({FAILURE: reason[:_MAX_REASON]})

    def use_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """Names the data that went in: the UI lists it beside the run.

        Args:
            name: what people call it.
            digest: a hash of what is in it, of which sixteen characters are kept.
            source: the folder or address it was read from.
            context: what it was used for, such as `training`.
        """
        dataset = Dataset(name, digest[:16], "local", json.dumps({"uri": source}))
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(self.id, datasets=[DatasetInput(dataset, tags)])

    # -- files

    def keep(self, path: Path, folder: str = "") -> None:
        """Keeps a file, or the whole of a folder under its name, as an artifact."""
        path = Path(path)
        if path.is_dir():
            self.client.log_artifacts(self.id, str(path), f"{folder}/{path.name}".lstrip("/"))
        else:
            self.client.log_artifact(self.id, str(path), folder or None)

    def keep_text(self, name: str, text: str) -> None:
        """Keeps `text` as the artifact `name`, which may have folders in it."""
        self.client.log_text(self.id, text, name)

    def keep_table(self, name: str, frame: pd.DataFrame) -> None:
        """Keeps a table three times: `NAME.json` for the UI, which pages it, and `.csv` and `.parquet`."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(f"{target}.csv", index=False)
            frame.to_parquet(f"{target}.parquet", index=False)
            # what MLflow's log_table writes, which would add to the table of an earlier try instead
            frame.to_json(f"{target}.json", orient="split", index=False)
            self.client.log_artifacts(self.id, folder)
        listed = json.loads(self._tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": f"{name}.json", "type": "table"}
        if entry not in listed:
            self.tag({"mlflow.loggedArtifacts": json.dumps([*listed, entry])})

    def keep_parquet(self, name: str, table: pa.Table) -> None:
        """Keeps a table that is too large to be paged, as the artifact `NAME.parquet` alone.

        Groups of 64 rows can be read without the others: rows that are read together are to be next to each other.
        """
        named = [field.name for field in table.schema if pa.types.is_string(field.type)]
        lists = [f"{field.name}.list.element" for field in table.schema if pa.types.is_list(field.type)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.parquet")
            # of numbers that are seldom the same twice, bytes of one kind after each other: a third fewer
            parquet.write_table(
                table,
                path,
                row_group_size=_GROUP_ROWS,
                compression="zstd",
                use_dictionary=named,
                use_byte_stream_split=lists,
            )
            self.keep(path)

    def table(self, name: str) -> pd.DataFrame:
        """The table that `keep_table` kept under `name`."""
        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(self.client.download_artifacts(self.id, f"{name}.parquet", folder))

    def log_model(
        self, saved_model: Path, *, name: str, input_shape: Shape, output_shapes: Mapping[str, Shape]
    ) -> str:
        """Logs a TensorFlow SavedModel as an MLflow model of this run, and returns its address.

        Args:
            saved_model: folder; its serving signature takes `sequence`, float32.
            name: what the UI calls it.
            input_shape: of `sequence`, -1 for a size that is open: (-1, 8192, 4).
            output_shapes: the shape of each head's answer by name.
        """
        self.flush()
        return log_saved_model(
            self.client,
            self.client.get_run(self.id),
            saved_model,
            name=name,
            input_shape=input_shape,
            output_shapes=output_shapes,
        )

    def register(
        self, name: str, registered_name: str, tags: Mapping[str, str], aliases: Sequence[str] = ()
    ) -> str:
        """Makes the model logged as `name` a version of a registered one; returns its number: see `registry`."""
        return registry.register(self, name, registered_name, tags, aliases)

    # -- children

    @contextmanager
    def child(self, name: str, *, key: Mapping[str, str], params: Mapping[str, object]) -> Iterator["Run"]:
        """A run under this one, which the same key finds again.

        Where the experiment has a run with all the tags of `key`, that one moves under this run: a
        finished one comes back with `done` set, another is continued. The run that it was under is told so.
        The caller sees to it that no other process works under this key.
        The child ends FINISHED; FAILED with the tag `failure`; or KILLED with the tag `resumable`.
        """
        found = self._find(key)
        if found is None:
            tags = {**resolve_tags(), **key, PARENT: self.id}
            child = Run(self.client, self.client.create_run(self.experiment_id, tags=tags, run_name=name))
        else:
            child = Run(self.client, found, done=found.info.status == "FINISHED")
            self._take_over(child)
            if not child.done:
                child._reopen(found)
        if child.done:
            yield child
            return
        child._log_params({key: str(value) for key, value in params.items()})
        with child._ending():
            yield child

    def take_over(self, key: Mapping[str, str]) -> None:
        """Gives this run the tags of `key`, and ends the runs that have them and stayed RUNNING: their processes died.

        The caller sees to it that no other process works under this key.
        """
        for found in self._search(key):
            if found.info.status == "RUNNING" and PARENT not in found.data.tags:
                self.client.set_tag(found.info.run_id, CONTINUED_IN, self.id)
                self.client.set_terminated(found.info.run_id, "KILLED")
        self.tag(key)

    def share_comparison(self, grid: str, **what: Any) -> str:
        """How to open the UI on a comparison of the children tagged with `grid`: see `comparison`."""
        return share_comparison(self, grid, **what)

    # -- inside

    def _search(self, key: Mapping[str, str]) -> list[MlflowRun]:
        """The runs of the experiment with all these tags, newest first."""
        return list(
            store.pages(
                self.client.search_runs,
                experiment_ids=[self.experiment_id],
                filter_string=" AND ".join(store.equals(name, value) for name, value in key.items()),
                order_by=["attributes.start_time DESC"],
            )
        )

    def _find(self, key: Mapping[str, str]) -> MlflowRun | None:
        return min(self._search(key), key=lambda run: run.info.status != "FINISHED", default=None)

    def _take_over(self, child: "Run") -> None:
        before = child._tags.get(PARENT)
        if before == self.id:
            return
        child.tag({PARENT: self.id})
        if before is not None:
            with suppress(MlflowException):  # of a parent that was deleted there is nothing to tell
                self.client.set_tag(before, CONTINUED_IN, self.id)

    def _reopen(self, found: MlflowRun) -> None:
        for name in (FAILURE, RESUMABLE, NOT_FINITE):
            if self._tags.pop(name, None) is not None:
                self.client.delete_tag(self.id, name)
        self.client.update_run(self.id, status="RUNNING")
        for key in found.data.metrics:
            history = self.client.get_metric_history(self.id, key)
            self._last_step[key] = max(point.step for point in history)

    def _log_params(self, params: Mapping[str, str]) -> None:
        new = [
            Param(key, value)
            for key, value in params.items()
            if key not in self._known_params and len(value) <= _MAX_PARAM
        ]
        for start in range(0, len(new), 100):  # what one log_batch takes
            self.client.log_batch(self.id, params=new[start : start + 100])
        self._known_params.update(param.key for param in new)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (Stopped, KeyboardInterrupt):
            self._outcome = "KILLED"
            self._end({RESUMABLE: "true"})
            raise
        except BaseException as error:
            self._outcome = "FAILED"
            if not isinstance(error, InputError):
                self.keep_text("traceback.txt", traceback.format_exc())
            self._end({FAILURE: one_line(error)[:_MAX_REASON]})
            raise
        self._end()

    def _end(self, tags: Mapping[str, str] | None = None) -> None:
        self.flush()
        if tags:
            self.tag(tags)
        self.client.set_terminated(self.id, self._outcome)


def _default(options: Any, name: str) -> Any:
    return next((field.default for field in dataclasses.fields(options) if field.name == name), None)


def _say_other_experiment(client: MlflowClient, run: Run, wanted: str) -> None:
    name = client.get_experiment(run.experiment_id).name
    if name != wanted:
        print(
            f"the run stays in the experiment {name!r} that MLflow chose, not {wanted!r}; "
            f"`mlflow run --experiment-name {wanted}` chooses another",
            file=sys.stderr,
        )


def _metric_name(name: str) -> str:
    """`name` with what MLflow refuses in the name of a metric replaced by `_`."""
    return re.sub(r"[^\w\-./: ]", "_", name)
