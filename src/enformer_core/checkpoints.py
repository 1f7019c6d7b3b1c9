"""Weights and config.json in one folder that loads with no flags.

FOLDER/config.json     which model, every field of its configuration
FOLDER/weights.npz     one array for each variable, by variable name (zip, with a checksum for each array)
FOLDER/training.npz    only in checkpoints of a running training: optimizer state and step
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enformer_core.enformer import Enformer, EnformerConfig
from enformer_core.initial import variable_name


def save(folder: Path | str, model: Enformer, training: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint as a whole: it appears under its name complete and on disk, or not at all.

    Args:
        folder: must not exist.
        model: its configuration and every variable, BatchNorm averages included.
        training: more arrays by name, for a training that is to be resumed.
    """
    with whole_folder(Path(folder)) as temporary:
        document = {"model": "Enformer", "config": dataclasses.asdict(model.config)}
        (temporary / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        np.savez(temporary / "weights.npz", **{variable_name(v): v.numpy() for v in model.variables})
        if training is not None:
            np.savez(temporary / "training.npz", **training)


def load(folder: Path | str) -> Enformer:
    """The model of a checkpoint folder.

    Raises:
        FileNotFoundError: the folder has no config.json or weights.npz.
        ValueError: a file is cut short or damaged, or does not fit (names the first variable and both shapes).
    """
    folder = Path(folder)
    try:
        document = json.loads((folder / "config.json").read_text())
        config = EnformerConfig(**document["config"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not the configuration of a model ({error})") from error
    model = Enformer(config)
    assign(model, read_arrays(folder / "weights.npz"), folder / "weights.npz")
    return model


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


def assign(model: Enformer, arrays: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Sets every variable of a model from arrays by name; nothing may be missing or left over.

    Raises:
        ValueError: names the first variable that does not fit, and both shapes.
    """
    variables = {variable_name(v): v for v in model.variables}
    for name, variable in variables.items():
        found = arrays[name].shape if name in arrays else "nothing"
        if found != tuple(variable.shape):
            raise ValueError(f"{source}: {name} is {found}; the model needs {tuple(variable.shape)}")
    if extra := sorted(set(arrays) - set(variables)):
        raise ValueError(f"{source}: {extra[0]} {arrays[extra[0]].shape} has no place in the model")
    for name, variable in variables.items():
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
