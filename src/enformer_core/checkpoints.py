"""Weights and config.json in one folder that loads with no flags.

FOLDER/config.json     which model, every field of its configuration
FOLDER/weights.npz     one array for each variable, by variable name (zip, with a checksum for each array)
FOLDER/tracks.json     what the tracks of each head are, where that is known

A track head can be saved by itself: config.json then names the trunk that it was trained on, by its digest.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sonnet as snt
import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer, EnformerConfig, head_module_name
from enformer_core.heads import ActivityHeadConfig, TrackHeadConfig
from enformer_core.initial import variable_name
from enformer_core.perceiver import Perceiver, PerceiverConfig
from enformer_core.track_model import TrackModel

_PERCEIVER = "Perceiver"
_KINDS = ("Enformer", "ActivityModel", "TrackModel", _PERCEIVER)
_HEAD = "TrackHead"
_LENGTHS = ("sequence_length", "target_length")
Tracks = dict[str, list[dict[str, str]]]
# What json and the checks of a configuration raise for a file of something else, and for one nested without end.
_NO_CONFIG = (ValueError, KeyError, TypeError, RecursionError)


def save(folder: Path | str, model: Enformer | ActivityModel | TrackModel | Perceiver) -> None:
    """Writes a checkpoint as a whole: it appears under its name complete and on disk, or not at all.

    Args:
        folder: must not exist.
        model: its configuration and every variable, BatchNorm averages included.
    """
    document = {"model": type(model).__name__, "config": dataclasses.asdict(model.config)}
    _write(Path(folder), document, model.variables, model.tracks)


def save_head(folder: Path | str, model: TrackModel, weights: str) -> None:
    """Writes the head of a model as a checkpoint of its own, as `save`.

    Args:
        folder: must not exist.
        model: its head is written; of its trunk only the digest, by which `load_head` knows it again.
        weights: what people call the trunk.
    """
    config = {"name": model.config.name, "head": dataclasses.asdict(model.config.head)}
    trunk = {"weights": weights, "digest": trunk_digest(model.enformer)}
    document = {"model": _HEAD, "config": config, "trunk": trunk}
    _write(Path(folder), document, model.head.variables, model.tracks)


def load(
    folder: Path | str, sequence_length: int | None = None, target_length: int | None = None
) -> Enformer | ActivityModel | TrackModel | Perceiver:
    """The model of a checkpoint folder.

    Args:
        folder: what `save` wrote.
        sequence_length: input in bp, in place of the model's own; an ActivityModel and a Perceiver have their own only.
        target_length: with it, the bins that are predicted; None crops nothing.

    Raises:
        FileNotFoundError: the folder has no config.json or weights.npz.
        ValueError: a file is cut short or damaged, or does not fit (names the first variable and both shapes).
    """
    folder = Path(folder)
    with _configuration(folder) as document:
        kind, fields = document["model"], document["config"]
        if kind == _HEAD:
            raise ValueError(f"a head alone, trained on the trunk {document['trunk']['weights']}; name both")
        if kind not in _KINDS:
            raise ValueError(f"model is {kind!r}; it can be {', '.join(_KINDS)}")
        config: EnformerConfig | PerceiverConfig
        if kind == _PERCEIVER:
            config = PerceiverConfig(**fields)
        else:
            config = EnformerConfig(**(fields if kind == "Enformer" else fields["enformer"]))
        activity = ActivityHeadConfig(**fields["activity"]) if kind == "ActivityModel" else None
        head = TrackHeadConfig(**fields["head"]) if kind == "TrackModel" else None
        name = fields["name"] if head else ""
        if not isinstance(name, str):
            raise TypeError(f"name is {name!r}")
    values = read_arrays(folder / "weights.npz")
    if isinstance(config, EnformerConfig) and sequence_length is not None and activity is None:
        config = dataclasses.replace(config, sequence_length=sequence_length, target_length=target_length)
    model: Enformer | ActivityModel | TrackModel | Perceiver
    heads: Mapping[str, int]
    with _making(folder):
        if isinstance(config, PerceiverConfig):
            model, heads = Perceiver(config), {"activity": len(config.cell_types)}
        else:
            model, heads = (enformer := Enformer(config)), config.heads
            if activity is not None:
                model = ActivityModel(enformer, activity)
            elif head is not None:
                model, heads = TrackModel(enformer, head, name), {name: head.num_tracks}
    assign(model, values, folder / "weights.npz")
    model.tracks.update(_read_tracks(folder, heads))
    return model


def load_head(folder: Path | str, enformer: Enformer) -> TrackModel:
    """A trunk with the head that `save_head` wrote; the trunk's own heads are taken off.

    Args:
        folder: what `save_head` wrote.
        enformer: with the trunk that the head was trained on; it may have another length.

    Raises:
        FileNotFoundError: the folder has no config.json or weights.npz.
        ValueError: a file is damaged or does not fit, or the head was trained on another trunk.
    """
    folder = Path(folder)
    with _configuration(folder) as document:
        if document["model"] != _HEAD:
            raise ValueError(f"a whole {document['model']}, no head alone; give it as the weights")
        name, trunk = document["config"]["name"], document["trunk"]
        head = TrackHeadConfig(**document["config"]["head"])
        head_module_name(name)
        weights, expected = trunk["weights"], trunk["digest"]
    if expected != trunk_digest(enformer):
        raise ValueError(f"{folder}: this head was trained on another trunk: that of {weights}")
    source = folder / "weights.npz"
    values, tracks = read_arrays(source), _read_tracks(folder, {name: head.num_tracks})
    with _making(folder):
        model = TrackModel(enformer, head, name)
    assign(model.head, values, source)
    model.tracks.update(tracks)
    return model


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[None]:
    """What goes wrong when a model is made of a configuration, such as sizes too large, is a ValueError of one line."""
    try:
        yield
    except (MemoryError, OverflowError, TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{folder / 'config.json'}: no such model can be made ({_first_line(error)})"
        ) from error


@contextlib.contextmanager
def _configuration(folder: Path) -> Iterator[dict]:
    """The document of config.json; what goes wrong with it in the block is a ValueError of one line."""
    path = folder / "config.json"
    try:
        yield json.loads(path.read_text())
    except _NO_CONFIG as error:
        raise ValueError(f"{path}: not the configuration of a model ({error})") from error


def _write(folder: Path, document: dict, variables: Iterable[tf.Variable], tracks: Tracks) -> None:
    with whole_folder(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        if tracks:
            (temporary / "tracks.json").write_text(json.dumps(tracks) + "\n")
        np.savez(temporary / "weights.npz", **arrays(variables))  # type: ignore[arg-type]


def _read_tracks(folder: Path, heads: Mapping[str, int]) -> Tracks:
    """What the tracks of these heads are; of a head that is not named, nothing is known."""
    path = folder / "tracks.json"
    if not path.exists():
        return {}
    try:
        tracks = json.loads(path.read_text())
        for name, rows in tracks.items():
            if not all(isinstance(word, str) for row in rows for word in row.values()):
                raise TypeError("a value is no text")
            if len(rows) != heads.get(name):
                raise ValueError(
                    f"{len(rows)} tracks of head {name}, the model has {heads.get(name, 'none')}"
                )
    except (AttributeError, *_NO_CONFIG) as error:
        raise ValueError(f"{path}: not the tracks of a model ({error})") from error
    return tracks


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


def model_digest(model: Enformer | ActivityModel | TrackModel | Perceiver) -> str:
    """sha256 over all that a model predicts with but the length it is given: its variables and how it is made.

    The same variables can be those of models that differ, such as with and without rotary positions.
    """
    return _digest_with(dataclasses.asdict(model.config), model.variables)


def trunk_digest(enformer: Enformer) -> str:
    """As `model_digest`, of the trunk of a model, whatever its heads."""
    return _digest_with({**dataclasses.asdict(enformer.config), "heads": {}}, enformer.trunk_variables)


def _digest_with(config: Mapping[str, Any], variables: Iterable[tf.Variable]) -> str:
    document = json.dumps([_of_inference(config), digest(variables)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _of_inference(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what the weights do not depend on, lengths, or a prediction, rates of dropout."""
    return {
        name: _of_inference(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _LENGTHS and name != "dropout" and not name.endswith("dropout_rate")
    }


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an npz file, checked against its checksums.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    with path.open("rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, Mapping):
                raise ValueError("one array, and no npz file")
            found = dict(loaded)
            if other := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{other[0]!r} is no array")
            return found
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged files
            raise ValueError(
                f"{path}: cut short or damaged ({_first_line(error)}); take another copy of this checkpoint"
            ) from error


def assign(model: snt.Module, arrays: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Sets every variable of a model from arrays by name, or none; nothing may be missing or left over.

    Raises:
        ValueError: names the first variable that does not fit, and both shapes, or whose values are no finite numbers.
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
        check_values(arrays[name], variable.dtype, f"{source}: {name}")
    for name, variable in named.items():
        variable.assign(arrays[name].astype(variable.dtype.as_numpy_dtype, copy=False))


def check_values(array: np.ndarray, dtype: tf.DType, what: str) -> None:
    """Refuses values that no variable of a model has: NaN, infinite in `dtype`, or of another kind.

    Raises:
        ValueError: one line that begins with `what`, the file and the name of the variable.
    """
    wanted = np.dtype(dtype.as_numpy_dtype)
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise ValueError(f"{what} is of {array.dtype}; the model needs {wanted}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(wanted, copy=False))
    if not finite.all():
        raise ValueError(
            f"{what} has {finite.size - np.count_nonzero(finite)} of {finite.size} values that are NaN or infinite; "
            "take another copy of these weights, or those of an earlier step"
        )


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:200]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
