"""Checkpoints of a Perceiver."""

import json

import pytest

from enformer_core import checkpoints
from enformer_core.perceiver import Perceiver, PerceiverConfig
from toys import toy_perceiver_config


def test_a_perceiver_loads_with_every_field_of_its_configuration(tmp_path):
    config = toy_perceiver_config(
        nucleotide_width=3,
        dropout=0.25,
        max_cov=7.5,
        activity_mean=-1.5,
        activity_sd=2,
        trunk_channels=3,
        unseen_cell_types=("b",),
    )
    defaults = PerceiverConfig(("one",))
    assert not [name for name, value in vars(config).items() if value == getattr(defaults, name) != 0]
    model = Perceiver(config, seed=3)
    checkpoints.save(tmp_path / "checkpoint", model)
    for lengths in ((), (25_600, 200)):  # it has lengths of its own
        loaded = checkpoints.load(tmp_path / "checkpoint", *lengths)
        assert isinstance(loaded, Perceiver) and loaded.config == config
        assert isinstance(loaded.config.cell_types, tuple) and loaded.tracks == {}
        assert checkpoints.digest(loaded.variables) == checkpoints.digest(model.variables)
        assert checkpoints.model_digest(loaded) == checkpoints.model_digest(model)


def test_a_digest_of_a_perceiver_is_of_its_cell_types_and_units():
    changes = ({}, {"cell_types": ("b", "a")}, {"activity_sd": 2.0}, {"max_cov": 3.0}, {"num_blocks": 3})
    changes = (*changes, {"unseen_cell_types": ("b",)})
    models = [Perceiver(toy_perceiver_config(**change)) for change in (*changes, {"dropout": 0.5})]
    assert len({checkpoints.digest(model.variables) for model in models}) == 1
    found = [checkpoints.model_digest(model) for model in models]
    assert len(set(found)) == len(changes) and found[-1] == found[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"depth": 3}, "not the configuration of a model (PerceiverConfig"),
     ({"cell_types": "K562"}, "not the configuration of a model (cell_types is 'K562'; it must be a list of names)"),
     ({"cell_types": [["K562"]]}, "not the configuration of a model (cell_types is [['K562']]"),
     ({"d_model": 7}, "not the configuration of a model (d_model is 7; it must be a multiple of num_cross_attn_heads"),
     ({"max_cov": 10**400}, "not the configuration of a model (max_cov is 1000"),
     ({"num_latents": 10**12}, "no such model can be made ("),
     ({"cell_types": ["a"]}, "weights.npz: perceiver/cell_type_embedding is (2, 8); the model needs (1, 8)")],
)  # fmt: skip
def test_a_damaged_configuration_of_a_perceiver_is_one_line(tmp_path, change, said):
    checkpoints.save(tmp_path / "checkpoint", Perceiver(toy_perceiver_config()))
    path = tmp_path / "checkpoint" / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "config": {**document["config"], **change}}))
    with pytest.raises(ValueError) as caught:
        checkpoints.load(path.parent)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
