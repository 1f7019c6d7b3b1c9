"""Registered models: which there are, where each version comes from, and which one an alias leads to."""

import json
from datetime import datetime, timezone
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError, reason
from mlproject.tracking import reading, registry, store

HISTORY = "alias_history"  # tag of a registered model: who made an alias lead where, oldest first, as JSON
_MOST_DESCRIPTION = 5_000  # characters that every store takes
_MOST_EVENTS = 50  # of the history: a tag has 5,000 characters
_COLUMNS = ("version", "aliases", "run_id", "run", "created", "status", "source", "description", "tags")


def list_models() -> list[str]:
    """Names of registered models, the one that was changed last first."""
    client = store.open_store()
    found = list(store.pages(client.search_registered_models))
    return [model.name for model in sorted(found, key=lambda model: -(model.last_updated_timestamp or 0))]


def list_versions(name: str) -> pd.DataFrame:
    """Versions of a model, newest first, one row each.

    Returns:
        version (a number), aliases (list of words), run_id and run (its name; empty where the run is gone), created
        (UTC), status, source, description, tags (dict); then the final metrics of the run as `metrics.NAME`.

    Raises:
        InputError: no such model.
    """
    client = store.open_store()
    aliases: dict[str, list[str]] = {}
    for alias, number in sorted(_model(client, name).aliases.items()):
        aliases.setdefault(str(number), []).append(alias)
    rows = []
    for version in store.pages(client.search_model_versions, filter_string=f"name = {_quoted(name)}"):
        run = _run(version.run_id)
        rows.append(
            {
                "version": int(version.version),
                "aliases": aliases.get(str(version.version), []),
                "run_id": version.run_id or "",
                "run": run.get("name", ""),
                "created": pd.Timestamp(version.creation_timestamp, unit="ms", tz="UTC"),
                "status": version.status,
                "source": version.source,
                "description": version.description or "",
                "tags": dict(version.tags),
                **{key: value for key, value in run.items() if key.startswith("metrics.")},
            }
        )
    frame = pd.DataFrame(
        rows, columns=[*_COLUMNS, *dict.fromkeys(key for row in rows for key in row if key not in _COLUMNS)]
    )
    return frame.sort_values("version", ascending=False, ignore_index=True)


def list_aliases(name: str) -> dict[str, int]:
    """The version that each alias of a registered model leads to; none where there is no such model."""
    try:
        model = _model(store.open_store(), name)
    except InputError:
        return {}
    return {alias: int(version) for alias, version in model.aliases.items()}


def find_version(name: str, words: str) -> dict[str, Any]:
    """The row of `list_versions` of a number or an alias.

    Raises:
        InputError: there is none.
    """
    versions = list_versions(name)
    # an alias that somebody else has made may look like a number
    for row in sorted(versions.to_dict("records"), key=lambda row: words != str(row["version"])):
        if words in (str(row["version"]), *row["aliases"]):
            return row
    there = [f"{row['version']} {' '.join(row['aliases'])}".strip() for row in versions.to_dict("records")]
    raise InputError(
        f"registered model {name!r}: found {words!r}; it has the versions {', '.join(there) or 'none'}"
    )


def promote(name: str, version: int, alias: str, by: str) -> int | None:
    """Makes an alias lead to a version, and notes who did it; what it led to before can be had back likewise.

    Nothing is noted where it leads there already.

    Args:
        name: of the registered model.
        version: its number.
        alias: made where there is none.
        by: who does it, for the history.

    Returns:
        The version that the alias led to before; None where it led nowhere.

    Raises:
        InputError: no such model or version, or an alias that MLflow does not take.
    """
    registry.check_alias(alias)
    client = store.open_store()
    model = _model(client, name)
    try:
        client.get_model_version(name, str(version))
        before = model.aliases.get(alias)
        if before is not None and int(before) == int(version):
            return int(before)
        event: dict[str, Any] = {
            "alias": alias,
            "version": int(version),
            "before": int(before) if before is not None else None,
            "by": by[:60],
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        events = [*_events(model), event][-_MOST_EVENTS:]
        while len(json.dumps(events)) > 5000:
            events = events[1:]
        # first, so that whatever happens the way back is known
        client.set_registered_model_tag(name, HISTORY, json.dumps(events))
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        raise InputError(f"registered model {name!r}, version {version}: {reason(error)}") from error
    return event["before"]


def roll_back(name: str, alias: str, by: str) -> tuple[int, int]:
    """Makes an alias lead where it led before it was last made to lead elsewhere, and notes who did it.

    Returns:
        The version that it led to, and the one that it leads to now.

    Raises:
        InputError: there is no such alias, or it never led elsewhere.
    """
    now = find_version(name, alias)["version"]
    events = _events(_model(store.open_store(), name))
    known = [
        event
        for event in events
        if event.get("alias") == alias and event.get("version") == now and event.get("before") != now
    ]
    if not known or known[-1].get("before") is None:
        raise InputError(
            f"registered model {name!r}: {alias} leads to version {now}, and its history has no version before that"
        )
    before = int(known[-1]["before"])
    promote(name, before, alias, by)
    return now, before


def history(name: str) -> pd.DataFrame:
    """What aliases were made to lead where, newest first: at, alias, version, before, by."""
    events = _events(_model(store.open_store(), name))
    return pd.DataFrame(events[::-1], columns=["at", "alias", "version", "before", "by"])


def describe(name: str, version: str, description: str) -> None:
    """Sets the description that the UI shows of a version; what is beyond 5,000 characters is cut."""
    store.open_store().update_model_version(name, version, description[:_MOST_DESCRIPTION])


def _model(client: MlflowClient, name: str) -> Any:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        raise InputError(f"registered model {name!r}: {reason(error)}") from error


def _events(model: Any) -> list[dict[str, Any]]:
    try:
        found = json.loads(model.tags.get(HISTORY, "[]"))
    except ValueError:  # somebody else's tag of that name
        return []
    return [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []


def _run(run_id: str | None) -> dict[str, Any]:
    if not run_id:
        return {}
    try:
        return reading.read_run(run_id)
    except InputError:  # a run may be deleted, and its model stay
        return {}


def _quoted(name: str) -> str:
    if "'" in name and '"' in name:
        raise InputError(f"registered model {name!r}: cannot be searched for, as it has both kinds of quotes")
    return f'"{name}"' if "'" in name else f"'{name}'"
