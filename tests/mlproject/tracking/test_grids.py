"""Grids in a real sqlite store: what is read of one that goes on, and of one that was read from files."""

import numpy as np
import pytest

from made_up_grid import Options, train
from mlproject.errors import InputError
from mlproject.tracking import grids, runs


def test_a_grid_that_goes_on_tells_of_what_has_ended(folder):
    with runs.start_run("ablation", Options()) as run:
        train(run, "vanilla", 1)
        key = {"grid": run.id, "variant": "rope"}
        with run.child("rope-1", key=key, params={"variant": "rope", "seed": 1}) as child:
            child.log(1, {"loss": 2.0})
            child.flush()
            found = grids.find_grid(run.id)
            assert (found.status, found.wanted) == ("RUNNING", 4)
            assert found.children[["variant", "status"]].to_numpy().tolist() == [
                ["vanilla", "FINISHED"],
                ["rope", "RUNNING"],
            ]
            scores = grids.read_scores(found, "human")
            assert set(scores["variant"]) == {"vanilla"} and len(scores) == 6
            curves = grids.read_training(found, "human")
            assert curves[["variant", "series", "value"]].to_numpy().tolist() == [["rope", "loss", 2.0]]


def test_scores_are_those_of_the_tables_and_categories_their_means(folder):
    with runs.start_run("ablation", Options()) as run:
        for variant in ("vanilla", "rope"):
            train(run, variant, 1)
    found = grids.find_grid(run.id)
    scores = grids.read_scores(found, "human")
    kept = [grids.read_tracks(child, "human")["pearson_r"] for child in found.children["run_id"]]
    np.testing.assert_array_equal(scores["score"], np.concatenate(kept))
    categories = grids.read_categories(found, scores)
    np.testing.assert_allclose(categories["DNASE"], [one.mean() for one in kept])


def test_a_grid_without_trainings_has_empty_frames(folder):
    with runs.start_run("ablation", Options()) as run:
        pass
    found = grids.find_grid(run.id)
    scores, categories, curves, seconds = grids.read_grid(found, "human")
    assert scores.empty and categories.empty and curves.empty and seconds.empty


def test_what_is_no_grid_is_refused(folder):
    with runs.start_run("predict", Options()) as run:
        pass
    with pytest.raises(InputError, match=r"is no grid; `mlflow run . -e ablation` makes one"):
        grids.find_grid(run.id)
    with pytest.raises(InputError, match="run 0123: "):
        grids.find_grid("0123")
    assert grids.list_grids().empty


def test_a_run_that_only_calls_itself_a_grid_is_refused(folder):
    """As somebody else's, or one that was killed before it had noted its options."""
    with runs.start_run("ablation", Options()) as run:
        client = run.client
    bare = client.create_run(run.experiment_id, tags={"command": "ablation"})
    with pytest.raises(InputError, match=r"lacks params\.organisms, params\.variants"):
        grids.find_grid(bare.info.run_id)
    child = client.create_run(run.experiment_id, tags={runs.PARENT: run.id})
    client.log_param(child.info.run_id, "variant", "rope")
    assert grids.find_grid(run.id).children.empty
