"""Checkpoints by their address in the store: of a run, of a logged model, of a registered one; and registering one."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError
from mlproject.tracking import store

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

CHECKPOINT = (
    "checkpoint"  # the artifact folder of a run that holds its model as enformer_core.checkpoints saves it
)
HEAD = "head"  # the artifact folder of a run that holds its head alone
FORMS = "runs:/ID, runs:/ID/PATH, models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-ID"


def fetch_checkpoint(address: str, folder: Path, artifact: str = CHECKPOINT) -> Path:
    """Downloads the checkpoint behind an address into `folder`, as a whole or not at all; returns where it is.

    Of a model it is the checkpoint of the run that made it: what is logged as a model predicts and cannot be trained.

    Args:
        address: `runs:/ID`, `runs:/ID/PATH` for another artifact folder, `models:/NAME@ALIAS`,
            `models:/NAME/VERSION` or `models:/m-ID`.
        artifact: which artifact folder, where the address does not say.
        folder: made where there is none; what is fetched must not be there yet.

    Raises:
        InputError: an unknown run, model, version or alias, a run without that artifact, or a failing download.
    """
    client = store.open_store()
    try:
        run, path = _run_and_path(client, address, artifact)
        client.get_run(run)
        if not client.list_artifacts(run, path):
            names = ", ".join(artifact.path for artifact in client.list_artifacts(run)) or "none"
            raise InputError(f"{address}: the run {run} has no artifact folder {path!r}; it has {names}")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            found = Path(client.download_artifacts(run, path, temporary))
            return found.rename(folder / found.name)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(f"{address}: {reason}") from error


def has_folder(run: str, artifact: str) -> bool:
    """Whether the run of this number keeps an artifact folder of this name, with something in it."""
    return bool(store.open_store().list_artifacts(run, artifact))


def _run_and_path(client: MlflowClient, address: str, artifact: str) -> tuple[str, str]:
    """The run that an address leads to, and the artifact folder in it."""
    if match := re.fullmatch(r"runs:/+([^/]+)(?:/+(.+?))?/*", address):
        return match[1], match[2] or artifact
    if match := re.fullmatch(r"models:/+(m-[0-9a-f]{32})", address):
        run = client.get_logged_model(match[1]).source_run_id
    elif match := re.fullmatch(r"models:/+([^/]+)@([^/@]+)", address):
        run = _run_of(client, client.get_model_version_by_alias(match[1], match[2]))
    elif match := re.fullmatch(r"models:/+([^/]+)/(\d+)", address):
        run = _run_of(client, client.get_model_version(match[1], match[2]))
    else:
        raise InputError(f"{address}: not an address of MLflow; expected {FORMS}")
    if not run:
        raise InputError(f"{address}: made by no run, so there is no checkpoint; name a run that has one")
    return run, artifact


def _run_of(client: MlflowClient, version: object) -> str | None:
    run = getattr(version, "run_id", None)
    model = getattr(version, "model_id", None)
    return run or (client.get_logged_model(model).source_run_id if model else None)


def register(
    run: "Run", model_name: str, registered_name: str, tags: Mapping[str, str], aliases: Sequence[str] = ()
) -> str:
    """Makes a logged model of the run a version of a registered model, and returns the number of the version.

    Of a logged model that is registered there already it is the version that there is, which gets the tags and
    aliases; an alias that a later version has got meanwhile stays with it.

    Args:
        run: where the model comes from; the version links to it.
        model_name: as it was given to `Run.log_model`.
        registered_name: made where there is none.
        tags: of the version.
        aliases: each leads to this version from now on.

    Raises:
        InputError: a name or alias that MLflow does not take, a run without that model, or a store without a registry.
    """
    for alias in aliases:
        check_alias(alias)
    check_name(registered_name)
    try:
        return _register(run, model_name, registered_name, tags, aliases)
    except MlflowException as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(f"registered model {registered_name!r}: {reason}") from error


def check_name(name: str) -> None:
    """Refuses what no registered model can be called, or could not be addressed by.

    Raises:
        InputError: says what is not taken.
    """
    if not name.strip() or not name.isprintable() or set("@/:") & set(name):
        raise InputError(
            f"registered model {name!r}: expected a name without '@', '/', ':' and what is not printed"
        )


def check_alias(alias: str) -> None:
    """Refuses what MLflow does not take as an alias, and what looks like the number of a version.

    Raises:
        InputError: says what is taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", alias) or re.fullmatch(r"(?i)latest|v?\d+", alias):
        raise InputError(
            f"alias {alias!r}: expected letters, digits, _ and -, neither 'latest' nor a number, with 'v' or without"
        )


def find_model(run: "Run", name: str) -> str | None:
    """The address of the last whole model that was logged under this name of the run; None where there is none."""
    models = run.client.search_logged_models(
        [run.experiment_id], filter_string=f"source_run_id = '{run.id}' AND name = '{name}'"
    )
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    return max(whole, key=lambda model: model.creation_timestamp).model_uri if whole else None


def find_registered(run: "Run", model_name: str, registered_name: str) -> str | None:
    """The version of a registered model that the logged model of this name is; None where it is none."""
    source = find_model(run, model_name)
    found = [
        str(version.version)
        for version in run.client.search_model_versions(f"run_id = '{run.id}'")
        if version.name == registered_name and version.source == source
    ]
    return found[0] if found else None


def _register(
    run: "Run", model_name: str, registered_name: str, tags: Mapping[str, str], aliases: Sequence[str]
) -> str:
    client = run.client
    source = find_model(run, model_name)
    if source is None:
        raise InputError(f"the run {run.id} has no logged model {model_name!r} to register")
    try:
        client.create_registered_model(registered_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    number = find_registered(run, model_name, registered_name)
    if number is not None:
        for key, value in tags.items():
            client.set_model_version_tag(registered_name, number, key, value)
    else:
        made = client.create_model_version(registered_name, source, run.id, tags=dict(tags))
        number = str(made.version)
    taken = client.get_registered_model(registered_name).aliases
    for alias in aliases:
        if int(taken.get(alias, 0)) <= int(number):
            client.set_registered_model_alias(registered_name, alias, number)
    return number
