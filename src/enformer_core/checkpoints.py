"""Weights and config.json in one folder that loads with no flags.

FOLDER/config.json     which model, every field of its configuration
FOLDER/weights.npz     one array for each variable, by variable name (zip, with a checksum for each array)
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import sonnet as snt
import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer, EnformerConfig
from enformer_core.heads import ActivityHeadConfig
from enformer_core.initial import variable_name

_KINDS = ("Enformer", "ActivityModel")


def save(folder: Path | str, model: Enformer | ActivityModel) -> None:
    """Writes a checkpoint as a whole: it appears under its name complete and on disk, or not at all.

    Args:
        folder: must not exist.
        model: its configuration and every variable, BatchNorm averages included.
    """
    with whole_folder(Path(folder)) as temporary:
        document = {"model": type(model).__name__, "config": dataclasses.asdict(model.config)}
        (temporary / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        np.savez(temporary / "weights.npz", **arrays(model.variables))  # type: ignore[arg-type]


def load(
    folder: Path | str, sequence_length: int | None = None, target_length: int | None = None
) -> Enformer | ActivityModel:
    """The model of a checkpoint folder.

    Args:
        folder: what `save` wrote.
        sequence_length: input in bp, in place of an Enformer's own; an ActivityModel has its own length only.
        target_length: with it, the bins that are predicted; None crops nothing.

    Raises:
        FileNotFoundError: the folder has no config.json or weights.npz.
        ValueError: a file is cut short or damaged, or does not fit (names the first variable and both shapes).
    """
    folder = Path(folder)
    try:
        document = json.loads((folder / "config.json").read_text())
        kind, fields = document["model"], document["config"]
        if kind not in _KINDS:
            raise KeyError(f"model is {kind!r}; it can be {', '.join(_KINDS)}")
        config = EnformerConfig(**(fields if kind == "Enformer" else fields["enformer"]))
        head = ActivityHeadConfig(**fields["activity"]) if kind == "ActivityModel" else None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not the configuration of a model ({error})") from error
    if sequence_length is not None and head is None:
        config = dataclasses.replace(config, sequence_length=sequence_length, target_length=target_length)
    enformer = Enformer(config)
    model = enformer if head is None else ActivityModel(enformer, head)
    assign(model, read_arrays(folder / "weights.npz"), folder / "weights.npz")
    return model


def arrays(variables: Iterable[tf.Variable]) -> dict[str, np.ndarray]:
    """The values of variables by name."""
    return {variable_name(variable): variable.numpy() for variable in variables}


def digest(variables: Iterable[tf.Variable]) -> str:
    """sha256 over names and values of variables, in the order of their names."""
    total = hashlib.sha256()
    for variable in sorted(variables, key=variable_name):
        total.update(variable_name(variable).encode())
        total.update(np.ascontiguousarray(variable.numpy()).data)
    return total.hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an npz file, checked against its checksums.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: cut short or damaged ({error}); take another copy of this checkpoint"
        ) from error


def assign(model: snt.Module, arrays: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Sets every variable of a model from arrays by name; nothing may be missing or left over.

    Raises:
        ValueError: names the first variable that does not fit, and both shapes.
    """
    assign_variables(model.variables, arrays, source)


def assign_variables(
    variables: Iterable[tf.Variable], arrays: Mapping[str, np.ndarray], source: Path | str
) -> None:
    """Sets each of the variables from arrays by name, as `assign`."""
    named = {variable_name(variable): variable for variable in variables}
    for name, variable in named.items():
        found = arrays[name].shape if name in arrays else "nothing"
        if found != tuple(variable.shape):
            raise ValueError(f"{source}: {name} is {found}; the model needs {tuple(variable.shape)}")
    if extra := sorted(set(arrays) - set(named)):
        raise ValueError(f"{source}: {extra[0]} {arrays[extra[0]].shape} has no place in the model")
    for name, variable in named.items():
        variable.assign(arrays[name])


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well, synced to disk.

    Raises:
        FileExistsError: there is something of that name.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in [*temporary.rglob("*"), temporary]:
            _sync(path)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
