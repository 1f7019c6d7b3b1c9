"""The option `weights` as a model: what a command starts from.

random                           made by the command, for its own options
published                        the published Sonnet checkpoint: weights_dir, ENFORMERBASELINE or a fetched copy
tensorhub                        the published model in its TF-Hub form: weights_dir or ENFORMERTENSORHUB
runs:/..., models:/...           the checkpoint of a run, or of the run that made a model
FOLDER                           a checkpoint of ours, a Sonnet checkpoint, or a SavedModel in the TF-Hub form
FILE.pt, .pth, .bin, .safetensors   a state dict of the PyTorch port
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from enformer_core import checkpoints, published
from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer, preset
from enformer_core.perceiver import Perceiver
from enformer_core.track_model import TrackModel
from mlproject.download import fetch_published, is_whole
from mlproject.errors import InputError, reason
from mlproject.inference import Model, track_heads, trunk_of
from mlproject.options import nearest
from mlproject.state_dict import read_state_dict
from mlproject.tensorhub import TensorHubModel
from mlproject.tracking.registry import CHECKPOINT, HEAD, fetch_checkpoint

BASELINE = "ENFORMERBASELINE"
TENSORHUB = "ENFORMERTENSORHUB"
_STATE_DICTS = (".pt", ".pth", ".bin", ".safetensors")
Lengths = tuple[int, int | None] | None  # sequence and target length; None for those of the weights

_WORDS = ("random", "published", "tensorhub")


def load(
    weights: str,
    *,
    weights_dir: str = "",
    download: bool = False,
    work_dir: Path,
    random: Callable[[], Enformer],
    sequence_length: int | None = None,
    target_length: int | None = None,
) -> Model:
    """The model that the option `weights` names.

    Args:
        weights: a word, an address or a path, as above.
        weights_dir: where `published` or `tensorhub` is, in place of their variables.
        download: whether published weights that are nowhere may be fetched into `work_dir`.
        work_dir: for what is fetched.
        random: makes the model for `random`, which is returned as it is.
        sequence_length: input in bp, in place of that of the model that is read; an ActivityModel has its own only.
        target_length: with it, the bins that are predicted; None crops nothing.

    Raises:
        InputError: there is nothing of that name, or it is cut short or does not fit; one line.
    """
    if weights == "random":
        return random()
    lengths = None if sequence_length is None else (sequence_length, target_length)
    try:
        if weights == "published":
            return _published(_published_folder(weights_dir, download, work_dir), lengths)
        if weights == "tensorhub":
            return TensorHubModel(_tensorhub_folder(weights_dir))
        with _folder(weights, work_dir) as path:
            return _of_path(path, lengths)
    except (InputError, ValueError, OSError) as error:
        raise InputError(f"--weights {weights}: {reason(error).removeprefix(f'{weights}: ')}") from error


def load_trunk(
    weights: str, *, sequence_length: int | None = None, target_length: int | None = None, **how: Any
) -> Enformer:
    """The Enformer to train from that the option `weights` names: of another model its trunk. Arguments as `load`.

    Raises:
        InputError: as `load`, or a model that exposes no trunk.
    """
    model = load(weights, sequence_length=sequence_length, target_length=target_length, **how)
    if isinstance(model, TensorHubModel):
        raise InputError(
            f"--weights {weights}: the TF-Hub form exposes no trunk: it can predict, not be trained; "
            "use published, which are the same weights"
        )
    if isinstance(model, Enformer):
        return model
    if (
        isinstance(model, ActivityModel) and sequence_length is not None
    ):  # read again at every call, so that nothing is built anew
        model.enformer.config = dataclasses.replace(
            model.enformer.config, sequence_length=sequence_length, target_length=target_length
        )
    return model.enformer


def load_head(head: str, enformer: Enformer, work_dir: Path) -> TrackModel:
    """A trunk with the trained head that an option names; the trunk's own heads are taken off.

    Args:
        head: folder of a head's checkpoint, or `runs:/ID` of the run that trained it.
        enformer: with the trunk that it was trained on.
        work_dir: for what is fetched.

    Raises:
        InputError: there is no such head, or it is damaged or of another trunk; one line.
    """
    try:
        with _folder(head, work_dir, artifact=HEAD) as folder:
            return checkpoints.load_head(folder, enformer)
    except (InputError, ValueError, OSError) as error:
        raise InputError(f"--head {head}: {reason(error).removeprefix(f'{head}: ')}") from error


def with_head(model: Model, head: str, work_dir: Path) -> tuple[Model, str]:
    """A model with the head that an option names, and what that is called.

    Args:
        model: with its own heads.
        head: one of those, or else as `load_head` takes it; nothing for the trained one, or the model's first.
        work_dir: for what is fetched.

    Raises:
        InputError: as `load_head`; a name that the model does not have is left for who uses it.
    """
    heads = list(track_heads(model))
    is_address = head.startswith(("runs:", "models:")) or "/" in head or os.path.isdir(head)
    if head not in heads and is_address:
        if isinstance(model, TensorHubModel):
            raise InputError(
                f"--head {head}: the TF-Hub form shows no trunk to put it on; use published weights"
            )
        trained = load_head(head, trunk_of(model), work_dir)
        return trained, trained.config.name
    if not head and len(heads) > 1:
        print(f"head: {heads[0]} (of {', '.join(heads)})", flush=True)
    return model, head or (heads[0] if heads else "human")


def newest(commands: Sequence[str], what: str) -> str:
    """The address of the last model of the store that one of these commands has trained, and a line that says which.

    Args:
        commands: whose finished child runs count.
        what: people call such a model.

    Returns:
        `runs:/ID`, or where there is none `random`, and a line that says so.
    """
    from mlproject.tracking.reading import read_runs

    runs = read_runs()
    command_of = dict(zip(runs["run_id"], runs.get("tags.command", runs["name"]), strict=True))
    found = runs[runs["parent"].map(command_of).isin(commands) & (runs["status"] == "FINISHED")]
    if found.empty:
        print(
            f"This store has no {what}: an untrained one (weights=random) predicts, and its numbers mean nothing. "
            f"`mlflow run . -e {commands[0]}` makes one.",
            flush=True,
        )
        return "random"
    last = found.iloc[0]
    print(f"weights: {last['name']} of {last['start_time']:%Y-%m-%d %H:%M} UTC", flush=True)
    return f"runs:/{last['run_id']}"


def check(weights: str, weights_dir: str, download: bool) -> None:
    """Refuses options that `load` would not read.

    Raises:
        InputError: names the option.
    """
    if weights_dir and weights not in ("published", "tensorhub"):
        raise InputError(f"--weights_dir: is for --weights published or tensorhub; found {weights}")
    if download and weights != "published":
        raise InputError(f"--download: is for --weights published; found {weights}")


def untrained(size: str, sequence_length: int, seed: int, target_length: int | None = None) -> Enformer:
    """A new model of a preset, with the published heads, at this length; without a target length it crops nothing."""
    return Enformer(preset(size, sequence_length=sequence_length, target_length=target_length), seed=seed)


def _published(path: Path, lengths: Lengths) -> Enformer:
    return published.read_sonnet(path) if lengths is None else published.read_sonnet(path, *lengths)


def _published_folder(weights_dir: str, download: bool, work_dir: Path) -> Path:
    if named := weights_dir or os.environ.get(BASELINE):
        return Path(named)
    folder = work_dir / "weights" / "published"
    if download or is_whole(folder):  # which also mends what is missing
        return fetch_published(folder)
    if found := sorted(folder.rglob("*.index")):  # put there by hand
        return found[0].parent
    raise InputError(
        f"name the folder of the published Sonnet checkpoint with weights_dir or the variable {BASELINE}, "
        f"or give download=true to fetch it into {folder}, where none is"
    )


def _tensorhub_folder(weights_dir: str) -> Path:
    named = weights_dir or os.environ.get(TENSORHUB, "")
    if not named or "://" in named:
        found = f"found the address {named}; " if named else ""
        raise InputError(
            f"{found}name the folder of a downloaded SavedModel with weights_dir or the variable {TENSORHUB}"
        )
    return Path(named)


@contextlib.contextmanager
def _folder(address: str, work_dir: Path, artifact: str = CHECKPOINT) -> Iterator[Path]:
    """What an address names: a file or folder here, or for as long as it is used a copy of one in the store."""
    if not address.startswith(("runs:", "models:")):
        yield Path(address)
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=work_dir) as folder:
        yield fetch_checkpoint(address, Path(folder), artifact)


def _of_path(path: Path, lengths: Lengths) -> Model:
    if os.path.isdir(path):  # which is false where a name is too long, and no error
        if (path / "config.json").exists():
            model = checkpoints.load(path, *(lengths or (None, None)))
            if isinstance(model, Perceiver):
                raise InputError(
                    "a Perceiver, as joint trains and generate takes it; this command takes an Enformer"
                )
            return model
        if (path / "saved_model.pb").exists():
            return TensorHubModel(path)
        if any(path.glob("*.index")):
            return _published(path, lengths)
        raise InputError(
            "a folder with neither config.json (ours), nor *.index (Sonnet), nor saved_model.pb (TF-Hub)"
        )
    if path.suffix == ".index" or os.path.isfile(f"{path}.index"):
        return _published(path.with_suffix("") if path.suffix == ".index" else path, lengths)
    if os.path.isfile(path) and path.suffix in _STATE_DICTS:
        return published.from_port(read_state_dict(path), path, *(lengths or ()))
    if os.path.isfile(path):
        raise InputError(f"a file that is none of {', '.join(_STATE_DICTS)}, and no Sonnet checkpoint")
    raise InputError(
        f"no file or folder of that name, and none of {', '.join(_WORDS)}, runs:/... or models:/..."
        f"{nearest(str(path), _WORDS)}"
    )
