import json
import zipfile

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


@pytest.mark.parametrize(
    "text",
    ["", "3", "[]", '{"model": "Enformer", "config": 3}', '{"model": ["Enformer"], "config": {}}']
    + ['{"model": "ActivityModel", "config": {"enformer": {}, "activity": 3}}', '{"model": "Enformer"}']
    + ["[" * 100_000, '{"model": "Enformer", "config": {"heads": {"human": ' + "9" * 5_000 + "}}}"]
    + ['{"model": "Enformer", "config": {"depth": 3}}'],
)
def test_a_config_of_any_json_is_one_line(trained, text):
    (trained[1] / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"^[^\n]*config\.json: not the configuration of a model \([^\n]*\)$"
    ):
        checkpoints.load(trained[1])


def test_a_config_that_is_not_text_is_one_line(trained):
    (trained[1] / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a model \(.*utf-8"):
        checkpoints.load(trained[1])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("heads", {"human": -3}, "the number of tracks of head human is -3; it must be 1 or more"),
     ("heads", ["human"], r"heads is \['human'\]; it must be the number of tracks by name of head"),
     ("channels", 96.0, r"channels is 96\.0; it must be a whole number, 1 or more"),
     ("sequence_length", "2048" * 100, "sequence_length is '20482048[0-9]{71}; it must be a whole number")],
)  # fmt: skip
def test_a_config_of_wrong_values_is_one_line(trained, field, value, said):
    document = json.loads((trained[1] / "config.json").read_text())
    document["config"][field] = value
    (trained[1] / "config.json").write_text(json.dumps(document))
    with pytest.raises(
        ValueError, match=rf"config\.json: not the configuration of a model \({said}[^\n]*\)$"
    ):
        checkpoints.load(trained[1])


@pytest.mark.parametrize("size", [10**12, 10**30])
def test_a_config_too_large_to_be_made_is_one_line(trained, size):
    document = json.loads((trained[1] / "config.json").read_text())
    document["config"]["key_size"] = size
    (trained[1] / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"^[^\n]*config\.json: no such model can be made \([^\n]*\)$"):
        checkpoints.load(trained[1])


def test_other_files_under_the_name_of_weights_are_one_line(trained):
    path = trained[1] / "weights.npz"
    np.save(path.with_suffix(".npy"), np.ones(3))
    array = path.with_suffix(".npy").read_bytes()
    with zipfile.ZipFile(trained[1] / "text.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    text = (trained[1] / "text.npz").read_bytes()
    unclosed = array.replace(b"}", b" ")
    for content in (array, text, unclosed, b"\x93NUMPY", b"PK", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^[^\n]*weights\.npz: cut short or damaged \([^\n]*\); take"):
            checkpoints.load(trained[1])


def changed(folder, name, array):
    """Writes the weights of a checkpoint with another array."""
    arrays = checkpoints.read_arrays(folder / "weights.npz")
    assert name in arrays
    np.savez(folder / "weights.npz", **{**arrays, name: array})


@pytest.mark.parametrize(
    ("values", "said"),
    [([0, np.nan, np.inf], "has 2 of 3 values that are NaN or infinite; take"),
     ([0, 1, -np.inf], "has 1 of 3 values that are NaN or infinite"),
     ([0, 1, 1e300], "has 1 of 3 values that are NaN or infinite"),  # beyond float32
     ([0, 1, 2j], "is of complex128; the model needs float32"),
     (["a", "b", "c"], "is of <U1; the model needs float32")],
)  # fmt: skip
def test_values_that_no_weights_have_name_the_variable_and_set_nothing(trained, values, said):
    model, folder = trained
    before = checkpoints.digest(model.variables)
    changed(folder, "enformer/head_human/linear/b", np.array(values))
    changed(folder, "enformer/stem/conv/b", np.ones(24, np.float32))
    with pytest.raises(ValueError, match=rf"weights\.npz: enformer/head_human/linear/b {said}"):
        checkpoints.load(folder)
    arrays = checkpoints.read_arrays(folder / "weights.npz")
    with pytest.raises(ValueError, match="head_human/linear/b"):
        checkpoints.assign(model, arrays, "here")
    assert checkpoints.digest(model.variables) == before


def test_weights_of_another_precision_are_converted(trained):
    changed(trained[1], "enformer/head_human/linear/b", np.array([0.5, 1, 2]))
    head = checkpoints.load(trained[1]).heads["human"]
    bias = next(variable for variable in head.variables if variable.name.endswith("b:0"))
    np.testing.assert_array_equal(bias, np.float32([0.5, 1, 2]))
