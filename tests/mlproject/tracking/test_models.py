"""A SavedModel as an MLflow model, loaded by a process that knows nothing of this project."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient

from mlproject.tracking import runs


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


def saved_model(path, heads):
    """A model that multiplies `[B, L, 4]` by ones: one tensor for one head, else a dict."""
    import tensorflow as tf

    class Toy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 4], tf.float32, name="sequence")])
        def __call__(self, sequence):
            outputs = {name: sequence @ tf.ones([4, tracks]) for name, tracks in heads.items()}
            return outputs if len(heads) > 1 else outputs.popitem()[1]

    toy = Toy()
    tf.saved_model.save(toy, str(path), signatures=toy.__call__.get_concrete_function())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("heads", [{"human": 3}, {"human": 3, "mouse": 2}])
def test_a_logged_model_predicts_elsewhere(folder, heads):
    path = saved_model(folder / "exported", heads)
    with (
        runs.start_run("ablation", Options()) as run,
        run.child("rope-42", key={"grid": "abc"}, params={"seed": 42}) as child,
    ):
        shapes = {name: (-1, 8, tracks) for name, tracks in heads.items()}
        left = child.log_model(path, name="enformer", input_shape=(-1, 8, 4), output_shapes=shapes)
        uri = child.log_model(path, name="enformer", input_shape=(-1, 8, 4), output_shapes=shapes)
    client = MlflowClient()
    model = client.get_logged_model(uri.removeprefix("models:/"))
    assert (model.source_run_id, model.experiment_id, model.name) == (child.id, run.experiment_id, "enformer")
    assert str(model.status) == "READY"
    assert model.params == {"seed": "42"}
    found = client.search_logged_models([run.experiment_id])
    assert uri != left and [other.model_uri for other in found] == [
        uri
    ]  # one that was left by a kill is replaced

    script = (
        "import sys, json, numpy as np, mlflow\n"
        "assert not any(name.startswith('mlproject') for name in sys.modules)\n"
        f"model = mlflow.pyfunc.load_model({uri!r})\n"
        "found = model.predict(np.ones([1, 8, 4], np.float32))\n"
        "found = found if isinstance(found, dict) else {'one': found}\n"
        "print(json.dumps({name: [*array.shape, float(array.mean())] for name, array in found.items()}))\n"
        "print(model.metadata.signature.inputs.inputs[0].shape)"
    )
    environment = {name: word for name, word in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": client.tracking_uri, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer, shape = done.stdout.splitlines()[-2:]
    expected = (
        {"one": [1, 8, 3, 4.0]} if len(heads) == 1 else {"human": [1, 8, 3, 4.0], "mouse": [1, 8, 2, 4.0]}
    )
    assert json.loads(answer) == expected
    assert shape == "(-1, 8, 4)"
