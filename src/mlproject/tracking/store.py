"""Which MLflow store a run goes to, made ready once however many processes start at the same time."""

import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
from mlflow import MlflowClient, get_experiment_by_name, set_tracking_uri
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import path_to_local_sqlite_uri
from sqlalchemy.exc import SQLAlchemyError

from mlproject.errors import InputError, one_line
from mlproject.tracking.refusals import refusal

_SQLITE = "sqlite:///"
_DEFAULT = "mlflow.db"


def open_store() -> MlflowClient:
    """A client of the store at MLFLOW_TRACKING_URI, else of `mlflow.db` in the folder the user stands in.

    A sqlite store is made under a file lock: processes that meet on an absent one would break it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _SQLITE + _DEFAULT
    database = _database(uri)
    if database is not None:
        uri = path_to_local_sqlite_uri(str(database))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # two lines for each new store
    if database is None:
        return _client(uri)
    if not database.parent.is_dir():
        raise InputError(
            f"MLFLOW_TRACKING_URI: no folder {database.parent} to keep the store in; make it first"
        )
    with open(database.with_name(database.name + ".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            _make(database)
        client = _client(uri)
        client.search_experiments(max_results=1)
    return client


def _make(database: Path) -> None:
    """Makes the store under another name and renames it: one whose making was killed half-way is of no use for ever."""
    unfinished = database.with_name(f".{database.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    _client(path_to_local_sqlite_uri(str(unfinished))).search_experiments(max_results=1)
    os.replace(unfinished, database)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment of that name, made if there is none.

    Raises:
        InputError: it has been deleted and not yet purged.
    """
    for _ in range(2):
        experiment = get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise InputError(
                    f"the experiment {name!r} is deleted; restore it with "
                    f"`mlflow experiments restore -x {experiment.experiment_id}` or choose another name"
                )
            return experiment.experiment_id
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first: look again
                raise
    raise InputError(f"the experiment {name!r} can neither be found nor made")


def ui_address(client: MlflowClient) -> str:
    """Where the UI answers: the tracking server, else what `mlflow ui` prints for a local store."""
    uri = client.tracking_uri
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"


def ui_command(client: MlflowClient) -> str | None:
    """The command that starts the UI on a local store, or None for a tracking server, which is running."""
    uri = client.tracking_uri
    return None if uri.startswith(("http://", "https://")) else f"mlflow ui --backend-store-uri {uri}"


def shown_address() -> str:
    """The address of the store, without the password that may stand in it."""
    return without_passwords(open_store().tracking_uri)


def without_passwords(words: str) -> str:
    """The same without the passwords of addresses in it: MLflow quotes the address that does not answer."""
    words = re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:…@", words)
    return re.sub(r"([?&]\w*password=)[^&\s]*", r"\1…", words)


@contextmanager
def explained() -> Iterator[None]:
    """Makes one line of what a store, or the way to it, can fail with.

    Raises:
        InputError: in place of an error of MLflow, of the database or of the network.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = refusal(error) or f"the store {shown_address()}: {without_passwords(one_line(error))}"
        raise InputError(reason) from error


def pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """All that one of the client's searches finds, however many pages it takes."""
    token = None
    while True:
        page = search(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def equals(tag: str, value: str) -> str:
    """The filter of a search for runs with this tag.

    Raises:
        InputError: a value with both kinds of quotes, which a filter cannot have.
    """
    if "'" in value and '"' in value:
        raise InputError(f"tag {tag}: cannot search for {value!r}, which has both kinds of quotes")
    quote = '"' if "'" in value else "'"
    return f"tags.`{tag}` = {quote}{value}{quote}"


def _client(uri: str) -> MlflowClient:
    set_tracking_uri(uri)
    return MlflowClient(uri)


def _database(uri: str) -> Path | None:
    """The absolute path of the file behind a sqlite address, else None.

    `mlflow run` hands a relative address on as it is, but starts the command in the project's folder; it
    is meant from the folder that `mlflow` itself was started in, which holds the run that it has made.
    """
    if not uri.startswith(_SQLITE) or uri == _SQLITE + ":memory:":
        return None
    path = Path(unquote(uri[len(_SQLITE) :].partition("?")[0]))
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id and not path.is_absolute():
        for process in psutil.Process().parents():
            try:
                candidate = Path(process.cwd(), path)
            except psutil.Error:
                break
            if _holds_run(candidate, run_id):
                return candidate
    return path.absolute()


def _holds_run(database: Path, run_id: str) -> bool:
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
    except sqlite3.Error:
        return False
