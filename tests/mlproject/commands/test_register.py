"""Models of real tiny studies become versions of registered ones; what is not the model that was measured does not."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from enformer_core import checkpoints, dna
from enformer_core.perceiver import Perceiver
from joint_tables import OF_TABLE, TINY, made_up
from mlproject import __main__ as door
from mlproject.tracking import reading, registered, signals
from processes import finish, launch, words_of
from toys import toy_perceiver_config

pytestmark = pytest.mark.slow
GRID = {"--variants": "vanilla,rope", "--seeds": "1", "--epochs": "2", "--steps_per_epoch": "4"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the store of a grid of two."""
    folder = tmp_path_factory.mktemp("trained")
    code, _ = finish(launch(folder, "mlproject", "ablation", *words_of(GRID)))
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def trained_jointly(tmp_path_factory):
    """The same of two seeds of `joint`, on a table alone: the one cell type without labels is the other's mean."""
    folder = tmp_path_factory.mktemp("trained_jointly")
    made_up().to_csv(folder / "table.csv", index=False)
    words = words_of(TINY, OF_TABLE, {"--mpra": "table.csv", "--epochs": "2"})
    code, _ = finish(launch(folder, "mlproject", "joint", *words))
    assert code == 0
    return folder


@pytest.fixture
def store(trained, folder):
    """A copy of its database, so that each test registers for the first time; artifacts are shared."""
    return copied(trained, folder)


@pytest.fixture
def joint_store(trained_jointly, folder):
    return copied(trained_jointly, folder)


def copied(trained, folder):
    shutil.copy(trained / "mlflow.db", folder / "mlflow.db")
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def artifact(store, run, name):
    """The file or folder itself, not a copy of it."""
    return Path(store.get_run(run).info.artifact_uri.removeprefix("file://"), name)


def trainings(command="ablation", by="params.variant"):
    found = reading.read_runs(command)
    return found[found["parent"].notna()].set_index(by)


def test_the_best_of_a_grid_is_registered_and_answers_for_letters(store, capsys):
    assert door.main(["register", "--name", "best"]) == 0
    said = capsys.readouterr().out
    assert "checked on the sample that its run has kept" in said and "models:/best@champion" in said
    version = store.get_model_version_by_alias("best", "champion")
    table = trainings()
    best = table.loc[table["metrics.pearson/mean"].idxmax()]
    assert version.run_id == best["run_id"] and version.tags["variant"] == best.name
    assert version.tags["dataset"] == "demo/human" and version.tags["seed"] == "1"
    regions = "human: 96 windows of 16,384 bp on chr1 (32), chr2 (32), chr3 (32)"
    assert version.tags["training_regions"] == regions
    assert float(version.tags["pearson/mean"]) == pytest.approx(best["metrics.pearson/mean"], abs=1e-4)
    assert version.description.startswith(f"# {best.name}-1 of ablation")
    assert "## Training data" in version.description
    assert registered.history("best")["version"].tolist() == [1]
    # what it answers is what the checkpoint predicts
    sample = signals.read_sample(version.run_id, "human")["sequence"].iloc[0]
    model = checkpoints.load(store.download_artifacts(version.run_id, "checkpoint"))
    native = model(dna.one_hot(sample)[np.newaxis], is_training=False)["human"].numpy()[0]
    answer = mlflow.pyfunc.load_model("models:/best@champion").predict(pd.DataFrame({"sequence": [sample]}))
    np.testing.assert_allclose(answer["value"], native.mean(0), rtol=1e-5, atol=1e-7)
    kept = signals.read_signals(version.run_id, "human", [0])
    np.testing.assert_allclose(
        kept["predicted"].iloc[0], native[:, 0], rtol=1e-3, atol=1e-5
    )  # XLA in another order


def test_a_rule_chooses_and_the_next_version_is_the_challenger(store, capsys):
    table = trainings()
    worst = table["metrics.final/train_loss"].idxmin()
    for rule in ("best pearson/CAGE", "best final/train_loss"):
        assert door.main(["register", "--rule", rule]) == 0
    versions = registered.list_versions("enformer").set_index("version")
    assert versions.loc[1, "tags"]["variant"] == table["metrics.pearson/CAGE"].idxmax()
    last = versions.iloc[0]
    assert last["tags"]["variant"] == worst
    aliases = [alias for row in versions["aliases"] for alias in row]
    assert "champion" in aliases and "challenger" in aliases


def test_to_register_again_moves_no_alias(store, capsys):
    runs = trainings()["run_id"]
    for run in runs:
        assert door.main(["register", "--model", run]) == 0
    assert door.main(["promote", "--force", "true"]) == 0
    capsys.readouterr()
    assert door.main(["register", "--model", runs.iloc[0]]) == 0
    assert "is version 1 of enformer already: models:/enformer/1" in capsys.readouterr().out
    assert registered.list_aliases("enformer") == {"champion": 2, "challenger": 2}
    assert door.main(["register", "--model", runs.iloc[0], "--rule", "best pearson/CAGE"]) == 2
    assert "--rule: is for a study" in capsys.readouterr().err


def test_a_model_that_was_logged_by_halves_is_logged_again(store):
    run = trainings()["run_id"].iloc[0]
    experiment = store.get_run(run).info.experiment_id
    store.create_logged_model(experiment, name="served", source_run_id=run)  # as a killed process leaves it
    assert door.main(["register", "--model", run]) == 0
    (version,) = store.search_model_versions("name = 'enformer'")
    assert store.get_logged_model(version.source.removeprefix("models:/")).status == "READY"


def test_another_model_in_its_place_is_refused(store, capsys, monkeypatch):
    """A checkpoint whose weights have changed since they were measured."""
    run = trainings()["run_id"].iloc[0]
    load = checkpoints.load

    def changed(folder, *lengths):
        model = load(folder, *lengths)
        for variable in model.trainable_variables:
            variable.assign(variable * 1.5)
        return model

    monkeypatch.setattr(checkpoints, "load", changed)
    assert door.main(["register", "--model", run]) == 2
    assert "does not predict what its run has measured" in capsys.readouterr().err
    assert not store.search_registered_models()


def test_the_best_of_a_joint_study_is_registered(joint_store, capsys, caplog):
    assert door.main(["register", "--name", "joint"]) == 0
    assert "checked on the sample that its run has kept: 16 values, " in capsys.readouterr().out
    assert "Failed to validate" not in caplog.text  # its example is not longer than the model
    version = joint_store.get_model_version_by_alias("joint", "champion")
    assert version.tags["checked"].startswith("16 values, ")
    # what was checked is what stands in the table of the run, in its units
    sample = signals.read_sample(version.run_id, "activity").set_index(["name", "cell_type"])
    table = pd.read_parquet(joint_store.download_artifacts(version.run_id, "predictions.parquet"))
    table = table.set_index(["name", "cell_type"]).loc[sample.index]
    assert set(table["labels"]) == {"seen", "hidden"}
    np.testing.assert_array_equal(sample["activity"], table["activity"])
    np.testing.assert_allclose(sample["predicted"], table["predicted"], rtol=1e-5)  # batches of other rows


def test_another_joint_model_is_refused(joint_store, capsys):
    """The checkpoints of two seeds change places."""
    runs = trainings("joint", "params.seed")["run_id"]
    first, other = (artifact(joint_store, run, "checkpoint") for run in runs)

    def change_places():
        aside = first.with_name("aside")
        for source, target in ((first, aside), (other, first), (aside, other)):
            source.rename(target)

    change_places()
    try:
        for run in runs:
            assert door.main(["register", "--model", run]) == 2
            assert "does not predict what its run has measured" in capsys.readouterr().err
    finally:
        change_places()
    assert not joint_store.search_registered_models()


def test_a_joint_training_of_before_has_no_sample_and_takes_a_word(joint_store, capsys):
    run = trainings("joint", "params.seed")["run_id"].iloc[0]
    sample = artifact(joint_store, run, "sample_activity.parquet")
    content = sample.read_bytes()
    sample.unlink()
    try:
        assert door.main(["register", "--model", run]) == 2
        assert "--unchecked true registers it all the same" in capsys.readouterr().err
        assert door.main(["register", "--model", run, "--unchecked", "true"]) == 0
    finally:
        sample.write_bytes(content)
    version = joint_store.get_model_version_by_alias("enformer", "champion")
    assert "checked" not in version.tags


def test_a_joint_model_without_letters_is_one_line(store, folder, capsys):
    checkpoints.save(folder / "mine", Perceiver(toy_perceiver_config(trunk_channels=4)))
    assert door.main(["register", "--model", "mine", "--unchecked", "true"]) == 2
    error = capsys.readouterr().err
    assert "cannot be served: it does not read letters" in error and "Traceback" not in error


def test_a_folder_has_no_sample_and_takes_a_word(store, folder, capsys):
    run = trainings()["run_id"].iloc[0]
    shutil.copytree(store.download_artifacts(run, "checkpoint"), folder / "mine")
    assert door.main(["register", "--model", "mine"]) == 2
    assert "--unchecked true registers it all the same" in capsys.readouterr().err
    assert door.main(["register", "--model", "mine", "--unchecked", "true", "--alias", "tried"]) == 0
    version = store.get_model_version_by_alias("enformer", "tried")
    assert len(version.tags["weights_digest"]) == 64 and "checked" not in version.tags


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule", "pearson/CAGE"], "--rule: found 'pearson/CAGE'; expected \"best METRIC\""),
        (["--rule", "best nothing"], "--rule: no training of ablation"),
        (["--model", "0123"], "--model: found '0123', neither a folder nor a run"),
        (["--name", "a/b"], "registered model 'a/b': expected a name without"),
        (["--alias", "latest"], "alias 'latest'"),
        (["--experiment", "none"], "--experiment: no experiment 'none'"),
        (["--model", "tests", "--rule", "best x"], "--model: found 'tests', neither a folder nor a run"),
    ],
)
def test_bad_input_is_one_line(store, capsys, words, said):
    assert door.main(["register", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not store.search_registered_models()
