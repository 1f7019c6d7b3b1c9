"""What the dashboard remembers of the store is no longer than it is true."""

import dataclasses
import sys

import pytest

from browser import ROOT
from made_up_grid import Options
from mlproject.tracking import runs

pytestmark = pytest.mark.filterwarnings("ignore")  # of Streamlit without its server


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.syspath_prepend(str(ROOT / "dashboards"))
    import remembered

    monkeypatch.setattr(remembered, "SECONDS", 0)
    yield remembered
    sys.modules.pop("remembered")


def test_a_training_that_is_gone_on_with_has_new_curves(remembered):
    with runs.start_run("ablation", dataclasses.replace(Options(), seeds=(1,))) as run:
        key = {"grid": "g", "variant": "rope"}
        for value in (1.0, 2.0):
            with run.child("rope-1", key=key, params={"variant": "rope", "seed": 1}) as child:
                child.log(int(value), {"loss": value})
                if value == 1.0:
                    child.fail("made to")
            remembered.find_grid.clear()
            found = remembered.read_training(remembered.find_grid(run.id), "human")
            assert found["value"].tolist()[-1] == value


def test_facts_name_the_data_as_soon_as_a_training_has_ended(remembered):
    with runs.start_run("ablation", dataclasses.replace(Options(), seeds=(1,))) as run:
        assert "dataset" not in dict(remembered.facts(run.id, 0))
        with run.child("rope-1", key={"grid": run.id}, params={"variant": "rope", "seed": 1}) as child:
            child.use_dataset(name="demo", digest="d1", source="/demo", context="training")
        remembered.find_grid.clear()
        assert dict(remembered.facts(run.id, 1))["dataset"] == "demo, digest d1"
