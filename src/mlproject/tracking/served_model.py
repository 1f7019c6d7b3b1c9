"""What `mlflow.pyfunc.load_model` runs: copied into each logged model, so it imports nothing of mlproject."""

import numpy as np
import tensorflow as tf
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ServedModel(PythonModel):
    """Calls the serving signature of the SavedModel that was logged beside this code."""

    def load_context(self, context):
        self._module = tf.saved_model.load(context.artifacts["saved_model"])
        self._call = self._module.signatures["serving_default"]
        (self._input,) = self._call.structured_input_signature[1]

    def predict(self, context, model_input: np.ndarray, params=None):
        """One array for a model with one head, else an array by name; sequences `[B, L, 4]`, one-hot."""
        if isinstance(model_input, dict):
            (model_input,) = model_input.values()
        outputs = self._call(**{self._input: tf.constant(np.asarray(model_input, np.float32))})
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays


set_model(ServedModel())
