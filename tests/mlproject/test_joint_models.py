import json

import numpy as np
import pandas as pd

from mlproject.joint_grid import Training, labels
from mlproject.joint_models import best_setting, write_models
from toy_joint import toy_joint


def results(*rows):
    return pd.DataFrame(rows, columns=["group", "modalities", "best/activity_pearson"])


def test_the_best_setting_is_a_joint_one_by_validation():
    both = [
        ("x both", "both", 0.1),
        ("x both", "both", 0.5),
        ("y both", "both", 0.4),
        ("y both", "both", 0.4),
    ]
    alone = [("x mpra", "mpra", 0.9), ("x tracks", "tracks", np.nan)]
    assert best_setting(results(*both, *alone)) == "y both"
    assert best_setting(results(*alone)) == "x mpra"
    assert best_setting(results(*alone[1:])) is None
    undefined = [("x mpra", "mpra", np.nan), ("y mpra", "mpra", -0.3)]
    assert best_setting(results(*undefined)) == "y mpra"
    hidden = pd.concat([results(*both), results(("z both", "both", 0.2))])
    hidden["holdout_cell_type"] = ["a"] * 4 + ["none"]
    assert best_setting(hidden) == "z both"
    assert best_setting(hidden[:4]) == "y both"
    nowhere = results(*undefined[:1]).drop(columns="best/activity_pearson")
    assert best_setting(nowhere) == "x mpra"


def test_ranges_of_activity_are_of_each_cell_type(tmp_path):
    data = toy_joint()
    training = Training("mpra-1", "", {"holdout_cell_type": "none", "num_mpra_train_samples": 0, "seeds": 1})
    write_models(tmp_path, {}, {"generator": (training, "run", None)}, data, None, writes=True)
    document = json.loads((tmp_path / "models" / "models.json").read_text())
    train, _ = labels(training, data)
    activity, cell = data.mpra.table.activity[train], data.mpra.cell[train]
    assert document["labelled"] == list(document["activity_by_cell_type"]) == ["b", "c"]
    for found, own in (
        (document["activity"], activity),
        (document["activity_by_cell_type"]["b"], activity[cell == 1]),
        (document["activity_by_cell_type"]["c"], activity[cell == 2]),
    ):
        np.testing.assert_allclose([found["low"], found["high"]], np.percentile(own, [5, 95]))


def test_the_folder_says_what_was_trained_on(tmp_path):
    data = toy_joint()
    sources = {}
    for name in ("generator", "judge"):
        sources[name] = tmp_path / f"checkpoint of {name}"
        sources[name].mkdir()
        (sources[name] / "config.json").write_text(name)
    (tmp_path / "truth.json").write_text("{}")
    comparison = pd.DataFrame(
        [("b", "predicted", 0.5, 0.25, 0.75), ("b", "kmers", 0.9, 0.8, 1.0)],
        columns=["cell_type", "predictor", "pearson", "pearson_low", "pearson_high"],
    )
    values = {"holdout_cell_type": "c", "num_mpra_train_samples": 5, "modalities": "both"}
    trainings = {
        name: (Training(f"both-{seed}", "", {**values, "seeds": seed}), f"run {seed}", comparison)
        for name, seed in (("generator", 1), ("judge", 2))
    }
    (tmp_path / "out").mkdir()
    models = write_models(tmp_path / "out", sources, trainings, data, tmp_path / "truth.json", writes=True)
    assert models == tmp_path / "out" / "models"
    assert {path.name for path in models.iterdir()} == {
        *("generator", "judge", "training.tsv", "models.json", "grammar.json"),
    }
    assert (models / "judge" / "config.json").read_text() == "judge"
    document = json.loads((models / "models.json").read_text())
    held_out = {"b": [0.5, 0.25, 0.75]}
    assert document["generator"] == {"run": "run 1", "seed": 1, "name": "both-1", "held_out": held_out}
    assert document["has_nucleotides"] is True
    assert document["cell_types"] == ["a", "b", "c"] and document["labelled"] == ["b"]
    trained = pd.read_csv(models / "training.tsv", sep="\t")
    place = {name: n for n, name in enumerate(data.mpra.table.names)}
    numbers = [place[name] for name in trained["name"]]
    drawn = [labels(training, data)[0] for training, *_ in trainings.values()]
    expected = {int(number) for rows in drawn for number in data.mpra.table.sequence[rows]}
    assert set(numbers) == expected and len(numbers) == len(expected) > 5
    assert trained["sequence"].tolist() == [data.mpra.table.sequences[n] for n in numbers]
    assert {data.mpra.split.subset[n] for n in numbers} == {"train"}
    own = data.mpra.table.activity[np.isin(data.mpra.table.sequence, numbers) & (data.mpra.cell == 1)]
    low, high = document["activity"]["low"], document["activity"]["high"]
    assert own.min() <= low < high <= own.max()
    assert document["activity_by_cell_type"] == {"b": document["activity"]}  # there is no other
    letters = "".join(trained["sequence"]).replace("N", "")
    shares = [letters.count(letter) / len(letters) for letter in "ACGT"]
    np.testing.assert_allclose(document["base_composition"], shares)
