"""The pair of models that `generate` works with: one that writes, and one of another seed that judges.

models/generator, models/judge   checkpoints of Perceivers
models/training.tsv              names and sequences that one of them or both were trained on
models/models.json               which runs they are, cell types, the range of activity, the composition of letters
models/grammar.json              of the demo: what made the data
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlproject.data.demo_mpra import GRAMMAR
from mlproject.data.joint import JointData
from mlproject.joint_grid import NONE, Training, labels

FOLDER = "models"  # the artifact folder of a run of joint
GENERATOR, JUDGE, TRAINING, FACTS = "generator", "judge", "training.tsv", "models.json"
_RANGE = (5, 95)  # percentiles of the training activities


def best_setting(results: pd.DataFrame) -> str | None:
    """The setting and modalities, as `group`, that generate best, by validation r of activity.

    Joint ones if there are, and of these such that see all labels if there are.

    Args:
        results: a row for each training that is done: group, modalities, holdout_cell_type, best/activity_pearson where
            it is defined.

    Returns:
        The group, or None where no training saw MPRA.
    """
    able = results[results["modalities"] != "tracks"]
    for modalities in ("both", "mpra"):
        own = able[able["modalities"] == modalities]
        if "holdout_cell_type" in own and (own["holdout_cell_type"] == NONE).any():
            own = own[own["holdout_cell_type"] == NONE]
        if not own.empty:
            if "best/activity_pearson" not in own:  # it is nowhere defined
                return str(own["group"].iloc[0])
            means = own.groupby("group", sort=False)["best/activity_pearson"].mean().fillna(-1.0)
            return str(means.idxmax())
    return None


def write_models(
    folder: Path,
    checkpoints: Mapping[str, Path],
    trainings: Mapping[str, tuple[Training, str, pd.DataFrame | None]],
    data: JointData,
    grammar: Path | None,
    *,
    writes: bool,
) -> Path:
    """Writes `FOLDER/models` and returns it.

    Args:
        checkpoints: folders of `generator` and `judge`.
        trainings: of both, with the ID of the run, and r of held-out sequences as `compare_cell_types` has it.
        data: what they were trained on.
        grammar: of the demo.
        writes: whether hidden letters were trained on.
    """
    assert data.mpra is not None
    models = folder / FOLDER
    models.mkdir()
    for name, source in checkpoints.items():
        shutil.copytree(source, models / name)
    table = data.mpra.table
    rows_of = [labels(training, data)[0] for training, *_ in trainings.values()]
    train = np.unique(np.concatenate(rows_of))
    labelled = sorted(set.intersection(*(set(data.mpra.cell[rows].tolist()) for rows in rows_of)))
    sequences = np.unique(table.sequence[train])
    rows = "".join(f"{table.names[number]}\t{table.sequences[number]}\n" for number in sequences)
    (models / TRAINING).write_text(f"name\tsequence\n{rows}", encoding="utf-8")
    letters = data.mpra.codes[sequences]
    composition = np.bincount(letters[letters < 4], minlength=4)
    names = [data.cell_types[cell] for cell in labelled]
    document: dict[str, Any] = {
        name: {"run": run, "seed": training.seed, "name": training.name, "held_out": _held_out(comparison)}
        for name, (training, run, comparison) in trainings.items()
    }
    document |= {
        "cell_types": list(data.cell_types),
        "labelled": names,
        "activity": _range(table.activity[train]),
        "activity_by_cell_type": {
            name: _range(table.activity[train[data.mpra.cell[train] == cell]])
            for name, cell in zip(names, labelled, strict=True)
        },
        "base_composition": (composition / composition.sum()).tolist(),
        "has_nucleotides": writes,
    }
    (models / FACTS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if grammar is not None:
        shutil.copy(grammar, models / GRAMMAR)
    return models


def _range(activity: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(activity, _RANGE)
    return {"low": float(low), "high": float(high)}


def _held_out(comparison: pd.DataFrame | None) -> dict[str, list[float]]:
    """Pearson r with the ends of its interval, of the model itself by cell type."""
    if comparison is None:
        return {}
    own = comparison[comparison["predictor"] == "predicted"].set_index("cell_type")
    return {str(cell): list(r) for cell, *r in own[["pearson", "pearson_low", "pearson_high"]].itertuples()}
