"""Frames of runs, from a real sqlite store."""

from dataclasses import dataclass

import pytest
from mlflow import MlflowClient

from mlproject.errors import InputError
from mlproject.tracking import reading, runs


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


KEY = {"grid": "abc", "variant": "rope", "seed": "42"}


def test_read_runs_pages_past_a_thousand(folder):
    client = MlflowClient()
    experiment = client.create_experiment("many")
    for number in range(1005):
        client.create_run(experiment, tags={"grid": "big"}, run_name=str(number))
    frame = reading.read_runs("many", tags={"grid": "big"})
    assert len(frame) == 1005
    assert set(frame["name"]) == {str(number) for number in range(1005)}


def test_read_runs(folder):
    with runs.start_run("ablation", Options()) as run:
        with run.child("rope-42", key=KEY, params={"seed": 42}) as child:
            child.summarize({"pearson/mean": 0.5})
        with pytest.raises(ValueError), run.child("rope-1", key={**KEY, "seed": "1"}, params={"seed": 1}):
            raise ValueError("no")
    frame = reading.read_runs("grids", tags={"grid": "abc"})
    assert frame["name"].tolist() == ["rope-1", "rope-42"]
    assert frame["status"].tolist() == ["FAILED", "FINISHED"]
    assert frame["parent"].tolist() == [run.id] * 2
    assert frame["metrics.pearson/mean"].tolist()[1] == 0.5
    assert frame["params.seed"].tolist() == ["1", "42"]
    assert reading.read_runs("grids", tags={"grid": "abc"}, finished=True)["name"].tolist() == ["rope-42"]
    assert len(reading.read_runs()) == 3
    assert list(reading.read_runs("grids", tags={"grid": "other"}).columns[:3]) == [
        "run_id",
        "name",
        "status",
    ]
    with pytest.raises(InputError, match="no experiment 'none'"):
        reading.read_runs("none")


def test_one_run_and_one_that_is_not_there(folder):
    with runs.start_run("ablation", Options()) as run:
        run.summarize({"x": 1.0})
    row = reading.read_run(run.id)
    assert (row["name"], row["metrics.x"], row["tags.command"]) == (run.name, 1.0, "ablation")
    with pytest.raises(InputError, match="run 123: "):
        reading.read_run("123")


def test_a_tag_with_both_quotes_is_refused(folder):
    with pytest.raises(InputError, match="both kinds of quotes"):
        reading.read_runs(tags={"grid": "'\""})
