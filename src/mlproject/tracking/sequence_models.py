"""Models that take a table with DNA letters, as `mlproject.serving.sequence_model` answers it, as MLflow models."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from mlproject.errors import InputError, one_line, reason
from mlproject.tracking import store
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


def fetch_sequence_model(address: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The SavedModel in a model that `log_sequence_model` has logged, copied to `folder`, and what it says of itself.

    Args:
        address: of MLflow.
        folder: is made.

    Raises:
        InputError: there is no such model, or it is another kind of model.
    """
    store.open_store()
    folder.mkdir(parents=True)
    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
        artifacts = read_metadata(found).flavors["python_function"]["artifacts"]
        saved_model, about = (found / artifacts[name]["path"] for name in ("saved_model", "about"))
        return saved_model, json.loads(about.read_text(encoding="utf-8"))
    except KeyError:
        raise InputError(f"{address}: is not a model of `register`, which knows its tracks") from None
    except (MlflowException, OSError) as error:
        raise InputError(f"{address}: {reason(error)}") from error


def read_metadata(folder: Path) -> Model:
    """What the file MLmodel in a folder says.

    Raises:
        InputError: it is damaged.
        MlflowException: there is none.
    """
    try:
        model = Model.load(str(folder))
        model.get_input_schema()  # of anything else than a signature it fails
        return model
    except (MlflowException, OSError):
        raise
    except Exception as error:  # YAML of any shape ends in errors of any kind
        raise InputError(f"{folder / 'MLmodel'}: is damaged: {one_line(error)}") from error


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
