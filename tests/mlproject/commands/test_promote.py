"""Promotion and roll-back of versions in a real sqlite store, as a user calls them."""

import json

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from made_up_grid import Options
from mlproject import __main__ as door
from mlproject import reporting
from mlproject.commands import promote
from mlproject.tracking import reading, runs

TRACKS = 40


def version(client, gain, data="a" * 16, noise=0.01, n=9, organisms=("human",)):
    """A version of `best` whose run has a table of tracks."""
    random = np.random.default_rng(1)
    pearson = np.random.default_rng(0).uniform(0.3, 0.7, TRACKS) + gain + random.normal(0, noise, TRACKS)
    targets = pd.DataFrame({"index": range(TRACKS), "identifier": [f"T{n}" for n in range(TRACKS)]})
    targets = targets.assign(description="x", category="DNASE")
    with runs.start_run("ablation", Options()) as run:
        run.use_dataset(name="lab/human", digest=data, source="x", context="training")
        for organism in organisms:
            scores = pearson - 2 * gain * (organism == "mouse")  # what is better in one is worse in the other
            tables, numbers = reporting.track_results(targets, scores, scores, n, organism=organism)
            run.keep_table(f"tracks_{organism}", tables[f"tracks_{organism}"])
            run.summarize(numbers)
    return client.create_model_version("best", f"runs:/{run.id}/model", run.id)


@pytest.fixture
def client(folder):
    """Of a store with two versions, the second of which is better."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_registered_model("best")
    for gain in (0.0, 0.05):
        version(client, gain)
    client.set_registered_model_alias("best", "champion", "1")
    client.set_registered_model_alias("best", "challenger", "2")
    return client


def aliases(client):
    return {name: int(number) for name, number in client.get_registered_model("best").aliases.items()}


def test_a_better_version_is_promoted_and_can_be_taken_back(client, capsys):
    assert door.main(["promote", "--name", "best"]) == 0
    said = capsys.readouterr().out
    assert "version 2 minus version 1: Pearson r +0.05" in said and "paired, of 40 tracks of human" in said
    assert "champion leads to version 2 of best; it led to version 1 before" in said
    assert aliases(client) == {"champion": 2, "challenger": 2}
    table = reading.read_runs(tags={"command": "promote"})
    assert table["metrics.difference"].iloc[0] == pytest.approx(0.05, abs=0.01)
    kept = runs.find_run(table["run_id"].iloc[0]).table("comparison")
    np.testing.assert_allclose((kept["r_y"] - kept["r_x"]).mean(), table["metrics.difference"].iloc[0])
    assert door.main(["roll_back", "--name", "best"]) == 0
    assert "champion leads to version 1 of best again" in capsys.readouterr().out
    assert aliases(client)["champion"] == 1
    events = json.loads(client.get_registered_model("best").tags["alias_history"])
    assert [(event["version"], event["before"]) for event in events] == [(2, 1), (1, 2)]


def test_what_is_not_shown_to_be_better_takes_force(client, capsys):
    version(client, 0.0, noise=0.02)
    assert door.main(["promote", "--name", "best", "--version", "3"]) == 2
    assert "is not shown to be better than champion" in capsys.readouterr().err
    assert aliases(client)["champion"] == 1
    assert door.main(["promote", "--name", "best", "--version", "3", "--force", "true"]) == 0
    assert aliases(client)["champion"] == 3


def test_other_data_cannot_be_compared(client, capsys):
    version(client, 0.3, data="b" * 16)
    assert door.main(["promote", "--name", "best", "--version", "3"]) == 2
    assert (
        "only the same data can be compared: --data names a dataset for both; --force true"
        in capsys.readouterr().err
    )
    assert aliases(client)["champion"] == 1


def test_other_windows_of_the_same_data_cannot_be_compared(client, capsys):
    version(client, 0.3, n=18)
    assert door.main(["promote", "--name", "best", "--version", "3"]) == 2
    assert "were evaluated on 9 and 18 bins" in capsys.readouterr().err
    assert aliases(client)["champion"] == 1


def test_the_head_that_is_asked_for_decides(client, capsys):
    for gain in (0.0, 0.1):
        version(client, gain, organisms=("human", "mouse"))
    client.set_registered_model_alias("best", "champion", "3")
    words = ["promote", "--name", "best", "--version", "4"]
    assert door.main([*words, "--head", "mouse"]) == 2
    assert "is not shown to be better" in capsys.readouterr().err
    assert door.main([*words, "--head", "fly"]) == 2
    assert "have no table of 'fly' in common" in capsys.readouterr().err
    assert door.main([*words, "--head", "human"]) == 0


def test_an_alias_that_moves_meanwhile_is_left_alone(client, capsys, monkeypatch):
    def moved(*given):
        client.set_registered_model_alias("best", "champion", "3")
        return compare(*given)

    version(client, 0.2)
    compare = promote.compare
    monkeypatch.setattr(promote, "compare", moved)
    assert door.main(["promote", "--name", "best"]) == 2
    assert "led to version 1 and leads elsewhere now" in capsys.readouterr().err
    assert aliases(client)["champion"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promote", "--name", "none"], "registered model 'none'"),
        (
            ["promote", "--name", "best", "--version", "9"],
            "found '9'; it has the versions 2 challenger, 1 champion",
        ),
        (["promote", "--name", "best", "--alias", "v1"], "alias 'v1'"),
        (["roll_back", "--name", "best"], "its history has no version before that"),
        (["roll_back", "--name", "best", "--alias", "other"], "found 'other'"),
    ],
)
def test_bad_input_is_one_line(client, capsys, words, said):
    assert door.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert aliases(client) == {"champion": 1, "challenger": 2}


def test_a_first_alias_needs_no_comparison(client, capsys):
    assert door.main(["promote", "--name", "best", "--version", "2", "--alias", "tried"]) == 0
    assert "tried leads to version 2 of best; it led nowhere before" in capsys.readouterr().out
