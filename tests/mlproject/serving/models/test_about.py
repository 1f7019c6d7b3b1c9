"""What `about` says of each kind of model, and of one that cannot be served."""

import json

import pytest

from enformer_core import checkpoints
from enformer_core.enformer import Enformer
from enformer_core.heads import TrackHeadConfig
from enformer_core.perceiver import Perceiver
from enformer_core.track_model import TrackModel
from mlproject.errors import InputError
from mlproject.serving.about import about_of
from toys import toy_config, toy_perceiver_config


def test_tracks(toy):
    """Partners by their position, where the table of tracks has them by index."""
    about = about_of(toy.model)
    assert {name: about[name] for name in ("kind", "sequence_length", "bin_size")} == {
        "kind": "tracks",
        "sequence_length": 2048,
        "bin_size": 128,
    }
    human, mouse = about["heads"]["human"], about["heads"]["mouse"]
    assert human["bins"] == mouse["bins"] == 14
    assert human["tracks"][1] == {
        "index": 11,
        "identifier": "plus",
        "description": "CAGE:b",
        "category": "CAGE",
        "strand_pair": 2,
    }
    assert [(track["identifier"], track["strand_pair"]) for track in mouse["tracks"]] == [
        ("mouse_0", 0),
        ("mouse_1", 1),
    ]


def test_a_checkpoint_folder(toy, tmp_path):
    checkpoints.save(tmp_path / "checkpoint", toy.model)
    assert about_of(tmp_path / "checkpoint") == about_of(toy.model) == json.loads(toy.about.read_text())


def test_a_head_that_was_trained_on_a_trunk():
    model = TrackModel(Enformer(toy_config()), TrackHeadConfig(num_tracks=2), "lab")
    assert {name: (head["bins"], len(head["tracks"])) for name, head in about_of(model)["heads"].items()} == {
        "lab": (14, 2)
    }


def test_activity_and_joint(activity, joint):
    (head,) = about_of(activity.model)["heads"].values()
    assert (head["bins"], head["tracks"][0]["identifier"]) == (None, "activity")
    about = about_of(joint.model)
    assert (about["kind"], about["sequence_length"]) == ("joint", 9)
    assert [track["identifier"] for track in about["heads"]["activity"]["tracks"]] == ["a", "b"]


def test_a_model_that_reads_no_letters_is_refused():
    with pytest.raises(InputError, match="does not read letters"):
        about_of(Perceiver(toy_perceiver_config(trunk_channels=6)))
