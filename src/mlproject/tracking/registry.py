"""Checkpoints by their address in the store: of a run, of a logged model, of a registered one."""

import re
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError
from mlproject.tracking import store

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
