"""Models that take a table with DNA letters, as `mlproject.serving.sequence_model` answers it, as MLflow models."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from mlproject.tracking.models import log_code

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

_CODE = Path(__file__).parents[1] / "serving" / "sequence_model.py"
_PACKAGES = ("mlflow", "numpy", "pandas", "pyfaidx", "tensorflow")
_TEXT, _WHOLE = DataType.string, DataType.long
# None is required, because a request has the columns of one form alone: which, the model checks.
_COLUMNS = {
    "sequence": _TEXT, "chrom": _TEXT, "start": _WHOLE, "end": _WHOLE, "pos": _WHOLE, "ref": _TEXT, "alt": _TEXT,
}  # fmt: skip
_PARAMETERS = {
    "head": "",
    "tracks": "",
    "bins": "",
    "aggregate": "mean",
    "strands": "forward",
    "log1p": False,
}


def log_sequence_model(
    run: "Run",
    saved_model: Path,
    about: Mapping[str, Any],
    *,
    name: str = "served",
    example: pd.DataFrame | None = None,
) -> str:
    """Logs a SavedModel as a model of the run that takes letters, and returns its address, `models:/m-...`.

    Args:
        saved_model: folder; its serving signature takes one-hot `[B, L, 4]` float32 and answers by head.
        about: what `mlproject.serving.about.about_of` says of the model.
        name: what the UI calls it; a model of the run that has this name is replaced.
        example: a table that the model answers, kept as its input example.
    """
    run.flush()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "about.json")
        file.write_text(json.dumps(about), encoding="utf-8")
        return log_code(
            run.client,
            run.client.get_run(run.id),
            _CODE,
            {"saved_model": str(saved_model), "about": str(file)},
            _signature(),
            name=name,
            packages=_PACKAGES,
            example=example,
        )


def _signature() -> ModelSignature:
    return ModelSignature(
        Schema([ColSpec(kind, column, required=False) for column, kind in _COLUMNS.items()]),
        params=ParamSchema(
            [
                ParamSpec(name, DataType.boolean if isinstance(default, bool) else _TEXT, default)
                for name, default in _PARAMETERS.items()
            ]
        ),
    )
