"""A model as code that counts letters: served in tests in place of one that takes TensorFlow and seconds."""

import os
import time

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel


class Letters(PythonModel):
    """A row of the answer for each row and letter; some sequences make it fail or wait."""

    warm = False
    calls = 0

    def warm_up(self):
        self.warm = True

    def predict(self, context, model_input: pd.DataFrame, params=None):
        params = {"letters": "ACGT", "share": False, **(params or {})}
        self.calls += 1
        rows = []
        for row, sequence in enumerate(model_input["sequence"]):
            if (
                not isinstance(sequence, str)
                or not sequence
                or set(sequence.upper()) - set("ACGTNSLEPCRASHDI")
            ):
                raise MlflowException(f"row {row}: no DNA", error_code=INVALID_PARAMETER_VALUE)
            if sequence == "CRASH":
                raise ValueError(f"a secret: {sequence}")
            if sequence == "DIE":
                os._exit(9)
            if sequence == "SLEEP":
                time.sleep(float(os.environ.get("LETTERS_SLEEP", "1")))
            for letter in params["letters"]:
                count = np.float32(sequence.upper().count(letter))
                rows.append((row, letter, count / np.float32(len(sequence)) if params["share"] else count))
        found = pd.DataFrame(rows, columns=["row", "letter", "count"])
        return found.astype({"row": np.int64, "count": np.float32})


set_model(Letters())
