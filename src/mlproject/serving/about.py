"""What a served model says of itself: its window, and the bins and tracks of each head."""

from pathlib import Path
from typing import Any

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.enformer import BIN_SIZE_BP, Enformer
from enformer_core.perceiver import Perceiver, PerceiverConfig
from enformer_core.track_model import TrackModel
from mlproject.data import head_tracks
from mlproject.data.targets import category
from mlproject.errors import InputError

Model = Enformer | ActivityModel | TrackModel | Perceiver
_ACTIVITY = "activity"


def about_of(model: Model | Path | str) -> dict[str, Any]:
    """What `sequence_model` needs to know of a model, as JSON has it.

    Args:
        model: as `checkpoints.load` gives it, or the folder that it is to be loaded from.

    Returns:
        kind (tracks, activity or joint), sequence_length (bp), bin_size (bp), and heads by name: bins, None where there
        are none, and tracks in their order, each with index, identifier, description, category and strand_pair, the
        position of the track on the other strand, its own where it has none. What is not known of a track is "".

    Raises:
        InputError: a model that does not read letters.
        FileNotFoundError, ValueError: as `checkpoints.load`.
    """
    model = checkpoints.load(model) if isinstance(model, Path | str) else model
    config = model.config
    kind, heads = "tracks", {}
    if isinstance(config, PerceiverConfig):
        if config.trunk_channels:
            raise InputError(
                "a joint model of trunk embeddings cannot be served: it does not read letters; name one that was "
                "trained without --weights"
            )
        kind = "joint"
        heads[_ACTIVITY] = _head(None, [_track(at, cell) for at, cell in enumerate(config.cell_types)])
    elif isinstance(model, ActivityModel):
        kind = _ACTIVITY
        heads[_ACTIVITY] = _head(None, [_track(0, _ACTIVITY)])
    else:
        assert isinstance(model, Enformer | TrackModel)
        enformer = model if isinstance(model, Enformer) else model.enformer
        counts = (
            {model.config.name: model.config.head.num_tracks}
            if isinstance(model, TrackModel)
            else model.config.heads
        )
        for name, count in counts.items():
            heads[name] = _head(
                enformer.config.num_bins,
                [
                    _track(track.index, track.identifier, track.description, track.partner)
                    for track in head_tracks.of_head(name, count, None, model.tracks.get(name))
                ],
            )
    return {
        "kind": kind,
        "sequence_length": config.sequence_length,
        "bin_size": BIN_SIZE_BP,
        "heads": heads,
    }


def _head(bins: int | None, tracks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"bins": bins, "tracks": tracks}


def _track(index: int, identifier: str, description: str = "", partner: int | None = None) -> dict[str, Any]:
    return {
        "index": index,
        "identifier": identifier,
        "description": description,
        "category": category(description) if partner is not None else "ACTIVITY",
        "strand_pair": index if partner is None else partner,
    }
