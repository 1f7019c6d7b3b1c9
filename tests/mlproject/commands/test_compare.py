"""Two versions of a registered model, compared on what their runs have kept and on a dataset."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from mlflow import MlflowClient

from enformer_core import checkpoints
from enformer_core.enformer import Enformer, preset
from enformer_core.metrics import TrackCorrelation
from made_up_grid import Options
from mlproject import __main__ as door
from mlproject.data.batches import evaluation_batches
from mlproject.data.demo import demo_dataset
from mlproject.data.records import open_dataset
from mlproject.tracking import reading, runs


def said_of(table):
    """What the newest comparison has kept: the numbers, and the table."""
    row = reading.read_runs(tags={"command": "compare"}).iloc[0]
    return row, runs.find_run(row["run_id"]).table(table)


# --- an activity ------------------------------------------------------------------------------------------------------


def version(client, table, predicted, frame):
    """A version of `lab` whose run has kept predictions."""
    with runs.start_run("finetune", Options()) as run:
        run.use_dataset(name="constructs", digest="c" * 16, source="x", context="training")
        run.keep_table(table, frame.assign(predicted=predicted))
    return client.create_model_version("lab", f"runs:/{run.id}/model", run.id)


@pytest.fixture
def client(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_registered_model("lab")
    return client


@pytest.fixture
def constructs():
    random = np.random.default_rng(2)
    names = [f"deletion {number}" for number in range(60)]
    frame = pd.DataFrame({"index": range(60), "name": names, "fold": "0", "activity": random.normal(size=60)})
    return frame.assign(cluster=[f"cluster {number // 2}" for number in range(60)])


def test_constructs_that_both_have_held_out(client, constructs, capsys):
    noise = np.random.default_rng(3).normal(size=60)
    predicted = [constructs["activity"] + scale * noise for scale in (3.0, 0.3)]
    version(client, "constructs", predicted[0], constructs)
    # in another order
    version(client, "constructs", predicted[1], constructs)
    version(client, "constructs", predicted[1][::-1], constructs[::-1])
    assert door.main(["compare", "--name", "lab", "--version", "3", "--alias", "1"]) == 0
    assert "version 3 minus version 1: Pearson r +0." in capsys.readouterr().out
    row, table = said_of("comparison")
    expected = [np.corrcoef(constructs["activity"], one)[0, 1] for one in predicted]
    assert row["metrics.difference"] == pytest.approx(expected[1] - expected[0], abs=1e-9)
    assert row["metrics.low"] > 0 and len(table) == 60
    assert door.main(["compare", "--name", "lab", "--version", "3", "--alias", "2"]) == 0
    assert said_of("comparison")[0]["metrics.difference"] == pytest.approx(0, abs=1e-9)


def test_a_few_clusters_have_no_interval(client, constructs, capsys):
    few = constructs.assign(cluster=constructs["fold"])
    for scale in (3.0, 0.3):
        noise = np.random.default_rng(3).normal(size=60)
        version(client, "constructs", few["activity"] + scale * noise, few)
    assert door.main(["compare", "--name", "lab", "--version", "2", "--alias", "1"]) == 0
    assert "(too few for an interval), paired, of 60 constructs" in capsys.readouterr().out
    assert door.main(["promote", "--name", "lab", "--version", "2", "--alias", "tried"]) == 0
    assert door.main(["promote", "--name", "lab", "--version", "1", "--alias", "tried"]) == 2


def test_other_constructs_cannot_be_compared(client, constructs, capsys):
    version(client, "constructs", constructs["activity"], constructs)
    version(client, "constructs", constructs["activity"][:30], constructs[:30])
    assert door.main(["compare", "--name", "lab", "--version", "2", "--alias", "1"]) == 2
    assert "on 60 and 30 constructs, of which 30 are the same" in capsys.readouterr().err


def test_of_joint_models_it_is_the_mean_over_cell_types(client, constructs, capsys):
    cells = pd.concat([constructs.assign(cell_type=cell) for cell in ("a", "b")], ignore_index=True)
    cells.loc[1] = cells.loc[0]  # a sequence that is there twice
    noise = np.random.default_rng(3).normal(size=120)
    level = np.where(
        cells["cell_type"] == "a", 50.0, 0.0
    )  # of which Pearson r within a cell type knows nothing
    for scale in (3.0, 0.3):
        version(client, "predictions", cells["activity"] + scale * noise + level, cells)
    assert door.main(["compare", "--name", "lab", "--version", "2", "--alias", "1"]) == 0
    row, table = said_of("comparison")
    gains = [
        np.corrcoef(part["activity"], part["predicted_y"])[0, 1]
        - np.corrcoef(part["activity"], part["predicted_x"])[0, 1]
        for _, part in table.groupby("cell_type")
    ]
    assert row["metrics.difference"] == pytest.approx(np.mean(gains), abs=1e-9)
    assert len(gains) == 2 and len(table) == 120


def test_a_version_of_no_table_is_named(client, constructs, capsys):
    version(client, "constructs", constructs["activity"], constructs)
    version(client, "others", constructs["activity"], constructs)
    assert door.main(["compare", "--name", "lab", "--version", "2", "--alias", "1"]) == 2
    assert "they have constructs and none" in capsys.readouterr().err


# --- tracks, on a dataset -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_predict_a_dataset_anew(folder, capsys):
    data = demo_dataset(folder / "work")
    dataset = open_dataset(data, "human")
    correlations = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        heads = {"human": dataset.statistics.num_targets}
        model = Enformer(
            preset(
                "tiny",
                heads=heads,
                sequence_length=dataset.statistics.seq_length,
                target_length=dataset.head_bins(),
            )
        )
        model(tf.zeros([1, dataset.statistics.seq_length, 4]), is_training=False)
        checkpoints.save(folder / str(seed), model)
        words = ["--model", str(folder / str(seed)), "--name", "two", "--unchecked", "true"]
        assert door.main(["register", *words]) == 0
        found = TrackCorrelation(dataset.statistics.num_targets)
        for batch in evaluation_batches(dataset, "valid", batch_size=8):
            found.update(
                batch["target"].numpy(), model(batch["sequence"], is_training=False)["human"].numpy()
            )
        correlations.append(found.pearson_r())
    words = ["--name", "two", "--data", str(data)]
    assert door.main(["compare", *words]) == 0
    assert "tracks of human on the valid split of" in capsys.readouterr().out
    row, table = said_of("comparison")
    # predictions of random weights hardly vary, so that rounding shows in r
    np.testing.assert_allclose(table[["r_x", "r_y"]].T, correlations, atol=1e-3)
    assert row["metrics.difference"] == pytest.approx(np.mean(correlations[1] - correlations[0]), abs=1e-3)

    rows = dataset.targets[["index", "identifier", "description"]].astype(str).to_dict("records")
    model.tracks = {"human": [*rows[1:], rows[0]]}
    checkpoints.save(folder / "turned", model)
    third = ["--model", str(folder / "turned"), "--name", "two", "--unchecked", "true"]
    assert door.main(["register", *third, "--alias", "turned"]) == 0
    assert door.main(["compare", *words, "--version", "turned"]) == 2
    first, second = rows[0]["identifier"], rows[1]["identifier"]
    assert f"has the track {first} where version 3 has {second}" in capsys.readouterr().err
    assert door.main(["compare", *words, "--head", "mouse"]) == 2
    assert "--head: found 'mouse'; version 1 has human, version 2 human" in capsys.readouterr().err
    assert door.main(["promote", *words, "--force", "true"]) == 0
    assert "champion leads to version 2 of two" in capsys.readouterr().out
