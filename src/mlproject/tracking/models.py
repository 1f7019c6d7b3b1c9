"""TensorFlow SavedModels as MLflow models: a signature, fixed requirements and code in place of a pickle."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

Shape = tuple[int, ...]

_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("mlflow", "numpy", "tensorflow")


def log_saved_model(
    client: MlflowClient,
    run: Run,
    saved_model: Path,
    *,
    name: str,
    input_shape: Shape,
    output_shapes: Mapping[str, Shape],
) -> str:
    """Logs the folder as a model of the run, tensors to tensors, and returns its address, `models:/...`."""
    signature = _signature(input_shape, output_shapes)
    artifacts = {"saved_model": str(saved_model)}
    return log_code(client, run, _SERVED_MODEL, artifacts, signature, name=name, packages=_REQUIREMENTS)


def log_code(
    client: MlflowClient,
    run: Run,
    code: Path,
    artifacts: Mapping[str, str],
    signature: ModelSignature,
    *,
    name: str,
    packages: Sequence[str],
    example: pd.DataFrame | None = None,
) -> str:
    """Logs a file that sets a model as a model of the run, in place of one of this name; returns its address.

    Args:
        code: it finds `artifacts`, paths by name, in the context that it is loaded with.
        packages: what it needs, of which the versions in use are noted, not inferred: that takes eight seconds.
        example: an input, which is kept; MLflow tries it, and warns where it is not answered.
    """
    for left in client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}' AND name = '{name}'"
    ):
        client.delete_logged_model(left.model_id)  # of a process that was killed before the run had ended
    # made first, because Model.log would put it in the experiment that is active, not in the run's
    model = client.create_logged_model(run.info.experiment_id, name, run.info.run_id, params=run.data.params)
    with warnings.catch_warnings():
        # it recommends an example, from which it would make the signature that it is given
        warnings.filterwarnings("ignore", "(?s).*An input example was not provided", UserWarning)
        # mlflow 3.17 with pandas 3, of the columns of an example
        warnings.filterwarnings("ignore", "Operation with range is deprecated", DeprecationWarning)
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.info.run_id,
            model_id=model.model_id,
            python_model=str(code),
            artifacts=dict(artifacts),
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package)}" for package in packages],
        )
    return info.model_uri


def _signature(input_shape: Shape, output_shapes: Mapping[str, Shape]) -> ModelSignature:
    float32 = np.dtype(np.float32)
    named = len(output_shapes) > 1  # a model with one head answers with an array, not with a dict of one
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(float32, shape, name if named else None) for name, shape in output_shapes.items()
    ]
    return ModelSignature(Schema([TensorSpec(float32, input_shape)]), Schema(outputs))
