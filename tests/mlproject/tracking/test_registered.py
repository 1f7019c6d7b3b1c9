"""Versions of registered models in a real sqlite store, and where aliases are made to lead."""

import json

import pytest
from mlflow import MlflowClient

from made_up_grid import HOSTILE, Options
from mlproject.errors import InputError
from mlproject.tracking import registered, runs


@pytest.fixture
def client(folder):
    """Of a store with three versions of `best`, the first of which has lost its run."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_registered_model("best")
    for number in (1, 2, 3):
        with runs.start_run("ablation", Options()) as run:
            run.summarize({"pearson/mean": number / 10})
        client.create_model_version("best", f"runs:/{run.id}/model", run.id, tags={"variant": "rope"})
        if number == 1:
            client.delete_run(run.id)
    return client


def test_versions_say_where_they_come_from(client):
    client.set_registered_model_alias("best", "champion", "2")
    client.set_registered_model_alias("best", "tried", "2")
    found = registered.list_versions("best")
    assert found["version"].tolist() == [3, 2, 1]
    assert found["aliases"].tolist() == [[], ["champion", "tried"], []]
    assert found["metrics.pearson/mean"].tolist()[:2] == [0.3, 0.2]
    assert found["tags"].tolist() == [{"variant": "rope"}] * 3
    assert all(name.startswith("ablation ") for name in found["run"][:2])


def test_a_model_without_versions_and_one_that_is_not_there(client):
    client.create_registered_model("empty")
    assert registered.list_versions("empty").empty
    assert set(registered.list_models()) == {"best", "empty"}
    with pytest.raises(InputError, match=r"registered model 'none': .*not found"):
        registered.list_versions("none")


def test_promoting_and_going_back_leave_a_history(client):
    assert registered.promote("best", 1, "champion", "Ada") is None
    assert registered.promote("best", 3, "champion", "Bo") == 1
    assert registered.promote("best", 1, "champion", "Ada") == 3
    assert client.get_model_version_by_alias("best", "champion").version in (1, "1")
    found = registered.history("best")
    assert found["version"].tolist() == [1, 3, 1] and found["by"].tolist() == ["Ada", "Bo", "Ada"]
    assert found["before"].tolist()[:2] == [3, 1]


def test_promoting_what_is_promoted_leaves_the_way_back(client):
    for version in (1, 2, 2):
        registered.promote("best", version, "champion", "Ada")
    assert len(registered.history("best")) == 2
    # an earlier version of this project noted such a promotion
    events = json.loads(client.get_registered_model("best").tags[registered.HISTORY])
    again = {**events[-1], "before": 2}
    client.set_registered_model_tag("best", registered.HISTORY, json.dumps([*events, again]))
    assert registered.roll_back("best", "champion", "Ada") == (2, 1)
    assert registered.list_aliases("best") == {"champion": 1}


def test_a_number_is_that_of_a_version_whatever_an_alias_looks_like(client):
    client.set_registered_model_alias("best", "1", "3")
    assert registered.find_version("best", "1")["version"] == 1
    with pytest.raises(InputError, match="nor a number"):
        registered.promote("best", 2, "7", "Ada")
    assert registered.list_aliases("best") == {"1": 3} and registered.list_aliases("absent") == {}


@pytest.mark.parametrize(
    ("version", "alias", "said"),
    [(9, "champion", "version 9: "), (1, "latest", "neither 'latest'"), (1, "a b", "alias 'a b'")],
)
def test_what_cannot_be_promoted_changes_nothing(client, version, alias, said):
    with pytest.raises(InputError, match=said):
        registered.promote("best", version, alias, "me")
    assert not client.get_registered_model("best").aliases
    assert registered.history("best").empty


def test_the_history_stays_short(client):
    for number in range(60):
        registered.promote("best", 1 + number % 3, "champion", HOSTILE)
    words = client.get_registered_model("best").tags[registered.HISTORY]
    assert len(words) <= 5000 and json.loads(words)[-1]["version"] == 3


@pytest.mark.parametrize("words", ["nothing", "[1, 2]", '{"a": 1}'])
def test_somebody_elses_tag_is_no_history(client, words):
    client.set_registered_model_tag("best", registered.HISTORY, words)
    assert registered.history("best").empty
