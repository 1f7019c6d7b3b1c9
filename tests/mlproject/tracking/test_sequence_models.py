"""A model that takes letters, logged in a real store and loaded from it, with unpickling forbidden."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pandas as pd
import pytest
import tensorflow as tf
from mlflow import MlflowClient

from mlproject.serving import sequence_model
from mlproject.tracking import runs, sequence_models

ABOUT = {
    "kind": "tracks",
    "sequence_length": 256,
    "bin_size": 128,
    "heads": {
        "human": {
            "bins": 2,
            "tracks": [
                {"index": 0, "identifier": "x", "description": "CAGE:x", "category": "CAGE", "strand_pair": 0}
            ],
        }
    },
}


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


class Toy(tf.Module):
    """The share of C in each bin, as the only track."""

    @tf.function(input_signature=[tf.TensorSpec([None, 256, 4], tf.float32, name="sequence")])
    def serve(self, sequence):
        return {"human": tf.reduce_mean(tf.reshape(sequence, [-1, 2, 128, 4]), 2)[..., 1:2]}


SCRIPT = """
import json, sys, mlflow, pandas as pd
from mlflow.exceptions import MlflowException
assert not any(name.startswith("mlproject") for name in sys.modules)
model = mlflow.pyfunc.load_model(sys.argv[1])
model.unwrap_python_model().warm_up()
assert not any(name.startswith("mlproject") for name in sys.modules)
found = [model.predict(pd.DataFrame({"sequence": ["C" * 128 + "A" * 128, "ccc"]}), params=params).to_dict("records")
         for params in ({"aggregate": "none"}, {"log1p": True, "strands": "both", "tracks": "cage", "bins": "0-1"})]
variant = pd.DataFrame({"chrom": ["c"], "pos": [200], "ref": ["A"], "alt": ["C"]})
found.append(model.predict(variant).to_dict("records"))
found.append(model.predict(pd.DataFrame({"chrom": ["c"], "start": [0], "end": [400 - 256]})).to_dict("records"))
for table in (pd.DataFrame({"sequence": ["AJ"]}), pd.DataFrame({"other": ["A"]}), variant.assign(ref="T")):
    try:
        model.predict(table)
    except MlflowException as error:
        found.append([error.error_code, error.message])
print(json.dumps(found, allow_nan=False))
"""


@pytest.mark.slow
def test_a_logged_model_answers_letters_elsewhere(folder):
    toy = Toy()
    tf.saved_model.save(toy, str(folder / "exported"), signatures={"serving_default": toy.serve})
    example = pd.DataFrame({"sequence": ["ACGT"]})
    with runs.start_run("register", Options()) as run:
        uri = sequence_models.log_sequence_model(run, folder / "exported", ABOUT, example=example)
    client = MlflowClient()
    model = client.get_logged_model(uri.removeprefix("models:/"))
    assert (model.source_run_id, model.name, str(model.status)) == (run.id, "served", "READY")
    (folder / "genome.fa").write_text(">c\n" + "A" * 400 + "\n")
    environment = {name: word for name, word in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": client.tracking_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLPROJECT_REFERENCE_FASTA": str(folder / "genome.fa"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, uri], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    every, both, variant, interval, *refused = json.loads(done.stdout.splitlines()[-1])
    assert [row["values"] for row in every] == [[1.0, 0.0], [2 / 128, 1 / 128]]
    assert [(row["padded_left"], row["padded_right"]) for row in every] == [(0, 0), (126, 127)]
    assert [row["value"] for row in both] == pytest.approx([0.405465, 0.0077821], rel=1e-5)
    # on the other strand a C of this one is a G
    (row,) = variant
    assert (row["ref_value"], row["alt_value"], row["difference"]) == (0, 1 / 256, 1 / 256)
    assert interval[0]["padded_left"] == 56 and interval[0]["value"] == 0
    assert [code for code, _ in refused] == ["INVALID_PARAMETER_VALUE"] * 3
    assert all("\n" not in message for _, message in refused)


def test_the_signature_has_the_parameters_of_the_code():
    assert sequence_models._PARAMETERS == sequence_model.DEFAULTS
    assert sorted(sequence_models._COLUMNS) == sorted(set(sum(sequence_model.FORMS, ())))
