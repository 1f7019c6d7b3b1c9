import json

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.heads import ActivityHeadConfig
from toys import toy_model, toy_sequence


@pytest.fixture
def trained(tmp_path):
    """A model whose averages have moved, and its checkpoint."""
    model = toy_model(seed=5)
    model(toy_sequence(), is_training=True, key=tf.constant([0, 0]))
    checkpoints.save(tmp_path / "checkpoint", model)
    return model, tmp_path / "checkpoint"


def test_a_folder_loads_with_no_flags(trained):
    model, folder = trained
    loaded = checkpoints.load(folder)
    assert loaded.config == model.config
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    outputs = (m(toy_sequence(), is_training=False)["mouse"] for m in (model, loaded))
    np.testing.assert_array_equal(*outputs)
    assert checkpoints.digest(model.variables) == checkpoints.digest(reversed(loaded.variables))
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


def test_a_digest_changes_with_one_value(trained):
    model, _ = trained
    before = checkpoints.digest(model.variables)
    model.variables[3].assign(model.variables[3] + 1e-6)
    assert checkpoints.digest(model.variables) != before


def test_another_length_uses_the_same_weights_and_crops_nothing(trained):
    model, folder = trained
    loaded = checkpoints.load(folder, 2048 + 128)
    assert (loaded.config.sequence_length, loaded.config.target_length) == (2176, None)
    assert checkpoints.digest(model.variables) == checkpoints.digest(loaded.variables)
    sequence = toy_sequence(length=2176)
    found = loaded(sequence, is_training=False)["human"]
    assert found.shape == (1, 17, 3)
    np.testing.assert_array_equal(found, model(sequence, is_training=False)["human"])


def test_an_activity_model_loads_with_its_trunk_and_its_track_heads(tmp_path):
    model = ActivityModel(toy_model(seed=3), ActivityHeadConfig(2, 3, 4), seed=3)
    checkpoints.save(tmp_path / "checkpoint", model)
    loaded = checkpoints.load(tmp_path / "checkpoint", 25_600)  # has a length of its own
    assert isinstance(loaded, ActivityModel) and loaded.config == model.config
    assert checkpoints.digest(model.variables) == checkpoints.digest(loaded.variables)
    outputs = (m(toy_sequence(2), is_training=False)["activity"] for m in (model, loaded))
    np.testing.assert_array_equal(*outputs)


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), checkpoints.whole_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("written")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(trained):
    model, folder = trained
    with pytest.raises(FileExistsError):
        checkpoints.save(folder, model)


@pytest.mark.parametrize("left", [0, 100, -1000])
def test_files_cut_short_are_named(trained, left):
    path = trained[1] / "weights.npz"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"weights\.npz: cut short or damaged"):
        checkpoints.read_arrays(path)


def test_a_flipped_byte_is_found(trained):
    path = trained[1] / "weights.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut short or damaged"):
        checkpoints.load(trained[1])


def test_weights_that_do_not_fit_name_the_variable_and_both_shapes(trained):
    config = json.loads((trained[1] / "config.json").read_text())
    config["config"]["heads"]["human"] = 9
    (trained[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"head_human/linear/[wb] is \(.*3,?\); the model needs \(.*9,?\)"):
        checkpoints.load(trained[1])


def test_config_of_something_else_is_refused(trained):
    (trained[1] / "config.json").write_text('{"layers": 3}')
    with pytest.raises(ValueError, match="not the configuration of a model"):
        checkpoints.load(trained[1])
