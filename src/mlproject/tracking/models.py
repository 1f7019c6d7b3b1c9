"""TensorFlow SavedModels as MLflow models: a signature, fixed requirements and code in place of a pickle."""

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
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
    """Logs the folder as a model of the run and returns its address, `models:/...`.

    The requirements are the versions in use, not inferred: inference loads the model and takes eight seconds.
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
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.info.run_id,
            model_id=model.model_id,
            python_model=str(_SERVED_MODEL),
            artifacts={"saved_model": str(saved_model)},
            signature=_signature(input_shape, output_shapes),
            pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
        )
    return info.model_uri


def _signature(input_shape: Shape, output_shapes: Mapping[str, Shape]) -> ModelSignature:
    float32 = np.dtype(np.float32)
    named = len(output_shapes) > 1  # a model with one head answers with an array, not with a dict of one
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(float32, shape, name if named else None) for name, shape in output_shapes.items()
    ]
    return ModelSignature(Schema([TensorSpec(float32, input_shape)]), Schema(outputs))
