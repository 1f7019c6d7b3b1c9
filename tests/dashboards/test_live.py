"""What is under way is followed by the dashboard, without a click."""

import dataclasses

import pytest

from made_up_grid import Options, train
from mlproject.tracking import runs

pytestmark = pytest.mark.slow


def test_a_grid_under_way_is_followed(page, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    with runs.start_run("ablation", dataclasses.replace(Options(), seeds=(1,))) as run:
        train(run, "vanilla", 1)
        page.open(f"/?grid={run.id}")
        page.page.wait_for_selector("text=1 of 2 trainings have ended; this page follows them")
        page.expect("Of 1 variant over 1 seed")
        train(run, "rope", 1)
        page.page.wait_for_selector("text=2 of 2 trainings have ended")
        page.page.wait_for_selector("text=Of 2 variants over 1 seed")
    page.page.wait_for_selector("text=this page follows them", state="detached")


def test_a_search_under_way_is_followed(page, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")

    def trial(run, number):
        key = {"grid": run.id, "trial": str(number)}
        with run.child(f"trial {number}", key=key, params={"trial": number, "num_heads": number}) as child:
            child.summarize({"objective": number / 10})
            child.tag({"state": "complete"})

    with runs.start_run("search_head", Options()) as run:
        trial(run, 0)
        page.open(f"/?page=Search&search={run.id}")
        page.page.wait_for_selector("text=1 trial: 1 complete")
        trial(run, 1)
        page.page.wait_for_selector("text=The best is trial 1")
    page.page.wait_for_selector("text=Under way", state="detached")
