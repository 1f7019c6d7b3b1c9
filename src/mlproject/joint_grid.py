"""The trainings of a joint study: combinations of what is swept, sizes by preset, and which labels each may see."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from enformer_core.perceiver import PerceiverConfig
from mlproject.data.joint import JointData
from mlproject.errors import InputError
from mlproject.options import nearest
from mlproject.resuming import fingerprint

# Options that make a grid where they have several values; seeds last, so that one traced model serves them.
SWEPT = (
    "holdout_cell_type",
    "num_track_train_samples",
    "num_mpra_train_samples",
    "d_model",
    "d_latent",
    "num_latents",
    "num_blocks",
    "num_self_attention_layers",
    "nucleotide_width",
    "dropout",
    "learning_rate",
    "modalities",
    "seeds",
)
NONE = "none"  # no cell type's labels are hidden
# Fields of a PerceiverConfig that a preset gives where an option is 0.
SIZES = (
    *("seq_len", "mpra_len", "d_model", "d_latent", "num_latents", "num_blocks", "num_self_attention_layers"),
    *("num_cross_attn_heads", "num_self_attn_heads", "widening_factor", "num_bins", "min_cov", "max_cov"),
    "nucleotide_width",
)
_PUBLISHED: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(PerceiverConfig) if field.name in SIZES
}
# In few sequences motifs are found by a convolution, and not by attention to single letters.
_TINY = {
    **_PUBLISHED,
    **{"seq_len": 512, "d_model": 128, "d_latent": 64, "num_latents": 32, "num_self_attention_layers": 2},
    **{
        "num_self_attn_heads": 4,
        "widening_factor": 2,
        "num_bins": 64,
        "max_cov": 7.0,
        "nucleotide_width": 15,
    },
}
_PRESETS = {"published": _PUBLISHED, "tiny": _TINY}


class Training(NamedTuple):
    """One training of the grid: its own value of everything that can be swept."""

    name: str
    """Part of the name of a folder: modalities, some digits that change with any other value, and the seed.

    It says nothing of what else is trained, so that a study with more values finds this one again.
    """
    setting: str
    """In words, what is swept beside modalities and seed."""
    values: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.values["seeds"]

    @property
    def modalities(self) -> str:
        """tracks, mpra or both."""
        return self.values["modalities"]

    def hidden(self, data: JointData) -> int | None:
        """The cell type whose labels it does not see, if there is one."""
        name = self.values["holdout_cell_type"]
        return None if name == NONE else data.cell_types.index(name)

    def with_seed(self, seed: int) -> "Training":
        """The same with another seed."""
        name = f"{self.name.removesuffix(str(self.seed))}{seed}"
        return self._replace(name=name, values={**self.values, "seeds": seed})


def combinations(lists: Mapping[str, Sequence[Any]]) -> list[Training]:
    """Every combination of the values of `SWEPT`, in its order, seeds innermost."""
    changed = [name for name in SWEPT if len(lists[name]) > 1 and name not in ("modalities", "seeds")]
    trainings = []
    for combination in itertools.product(*(lists[name] for name in SWEPT)):
        values = dict(zip(SWEPT, combination, strict=True))
        setting = " ".join(f"{name}={values[name]}" for name in changed)
        digits = fingerprint({name: values[name] for name in SWEPT if name not in ("modalities", "seeds")})
        name = f"{values['modalities']}-{digits[:8]}-{values['seeds']}"
        trainings.append(Training(name, setting, values))
    return trainings


def size(preset: str, name: str, given: Any) -> Any:
    """A size: what is given, or what the preset has where that is 0."""
    return given or _PRESETS[preset][name]


def configuration(
    training: Training,
    data: JointData,
    preset: str,
    given: Mapping[str, Any],
    *,
    mean: float = 0.0,
    sd: float = 1.0,
) -> PerceiverConfig:
    """The model of a training.

    Args:
        preset: `published` or `tiny`.
        given: sizes by name, 0 for the preset's; those that are swept are the training's own.
        mean, sd: of the labels, as `label_scale` gives them.

    Raises:
        InputError: sizes do not fit each other, or there are too few labels; names the option.
    """
    sizes = {name: size(preset, name, training.values.get(name, given.get(name))) for name in SIZES}
    try:
        return PerceiverConfig(
            data.cell_types,
            **sizes,
            unseen_cell_types=_unseen(training, data),
            trunk_channels=given.get("trunk_channels", 0),
            dropout=training.values["dropout"],
            activity_mean=mean,
            activity_sd=sd,
        )
    except ValueError as error:
        raise InputError(f"--{error}") from None


def _unseen(training: Training, data: JointData) -> tuple[str, ...]:
    """Cell types that have neither tracks nor labels for this training."""
    seen: set[int] = set()
    if data.tracks is not None and training.modalities != "mpra":
        seen |= set(data.tracks.cells.tolist())
    if data.mpra is not None and training.modalities != "tracks":
        seen |= set(data.mpra.cell[labels(training, data)[0]].tolist())
    return tuple(name for number, name in enumerate(data.cell_types) if number not in seen)


def labels(training: Training, data: JointData) -> tuple[np.ndarray, np.ndarray]:
    """Measurements to train and to validate on, `[r]` int64 each: none of the hidden cell type.

    Raises:
        InputError: there are too few.
    """
    assert data.mpra is not None
    hidden = training.hidden(data)
    without = () if hidden is None else (hidden,)
    train, valid = (data.mpra.rows(subset, without=without) for subset in ("train", "valid"))
    train = data.mpra.sample(train, training.values["num_mpra_train_samples"], training.seed)
    for subset, rows in (("training", train), ("validation", valid)):
        if len(rows) < 2:
            raise InputError(
                f"--mpra: found {len(rows)} measurements for {subset} with --holdout_cell_type "
                f"{training.values['holdout_cell_type']} and --num_mpra_train_samples "
                f"{training.values['num_mpra_train_samples']}; at least 2 are needed"
            )
    if not np.ptp(data.mpra.table.activity[train]) > 0:
        raise InputError("--mpra_activity: all activities to train on are equal; name another column")
    return train, valid


def label_scale(training: Training, data: JointData) -> tuple[float, float]:
    """Mean and sd of all labels of the training split but the hidden cell type's.

    Not of those that the seed draws: models of different seeds share their units, and with them what is compiled.
    """
    assert data.mpra is not None
    hidden = training.hidden(data)
    activity = data.mpra.table.activity[data.mpra.rows("train", without=() if hidden is None else (hidden,))]
    return float(activity.mean()), float(activity.std())


def check_hidden(name: str, modalities: Sequence[str], data: JointData) -> None:
    """Refuses a cell type that cannot be hidden.

    Raises:
        InputError: it has no labels, is the only one that has, or has no tracks to be known by.
    """
    if name == NONE:
        return
    if data.mpra is None:
        raise InputError(
            f"--holdout_cell_type: found {name!r}; with --modalities tracks there are no labels to hide; leave it out"
        )
    known = data.mpra.table.cell_types
    if name not in known:
        raise InputError(
            f"--holdout_cell_type: found {name!r}{nearest(name, known)}; the MPRA table has {', '.join(known[:20])}"
        )
    if len(known) < 2:
        raise InputError(
            f"--holdout_cell_type: {name} is the only cell type with labels; nothing would be left"
        )
    if "both" in modalities and data.tracks is not None and name not in data.tracks.source.cell_types:
        raise InputError(
            f"--holdout_cell_type: {name} has no tracks, so that nothing could be learnt of it; tracks have "
            f"{', '.join(data.tracks.source.cell_types[:20])}"
        )
