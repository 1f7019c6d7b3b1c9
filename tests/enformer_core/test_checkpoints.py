import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints, convolution
from enformer_core.dna import one_hot
from toys import toy_model, toy_sequence

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "deepmind_tiny"


@pytest.fixture
def trained(tmp_path):
    """A model whose averages have moved, and its checkpoint."""
    model = toy_model(seed=5)
    model(toy_sequence(), is_training=True, key=tf.constant([0, 0]))
    checkpoints.save(tmp_path / "checkpoint", model, {"count": np.int64(7)})
    return model, tmp_path / "checkpoint"


def test_a_folder_loads_with_no_flags(trained):
    model, folder = trained
    loaded = checkpoints.load(folder)
    assert loaded.config == model.config
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    outputs = (m(toy_sequence(), is_training=False)["mouse"] for m in (model, loaded))
    np.testing.assert_array_equal(*outputs)
    assert checkpoints.read_arrays(folder / "training.npz")["count"] == 7
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), checkpoints.whole_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("written")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(trained):
    model, folder = trained
    with pytest.raises(FileExistsError):
        checkpoints.save(folder, model)


@pytest.mark.parametrize("name", ["weights.npz", "training.npz"])
@pytest.mark.parametrize("left", [0, 100, -1000])
def test_files_cut_short_are_named(trained, name, left):
    path = trained[1] / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{name}: cut short or damaged"):
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


def needs_reference():
    if not REFERENCE.is_dir():
        pytest.skip("needs ../shared/reference/deepmind_tiny, which is not part of the project")


@pytest.mark.parametrize("min_channels", [convolution.MIN_CHANNELS, 1])
def test_reproduces_the_published_code(monkeypatch, min_channels):
    """Random weights with moved averages, run by the published code; 1e-4 of the largest value is asked for.

    Its layers are narrower than those that take the convolution with fewer products; they do here, the second time.
    """
    needs_reference()
    monkeypatch.setattr(convolution, "MIN_CHANNELS", min_channels)
    model = checkpoints.read_published(REFERENCE / "model.ckpt", sequence_length=8192, target_length=62)
    expected = np.load(REFERENCE / "expected.npz")
    sequence = np.stack([one_hot(letters) for letters in expected["sequence"]])
    found = {"embedding": model.trunk(sequence, is_training=False), **model(sequence, is_training=False)}
    for name in ("embedding", "human", "mouse"):
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-4, atol=2e-5 * np.abs(expected[name]).max(), err_msg=name
        )


def published(model, path):
    """Writes a checkpoint with the object layout of the published code, from a model of ours."""
    root = tf.Module()
    for variable in model.variables:
        key = checkpoints._published_key(checkpoints.variable_name(variable))
        array = variable.numpy()
        node = root
        *folders, leaf = key.split("/")
        for name in folders:
            if not hasattr(node, name):
                setattr(node, name, tf.Module())
            node = getattr(node, name)
        pointwise = "pointwise/w" in variable.name
        setattr(node, leaf, tf.Variable(array[None] if pointwise else array))
    return tf.train.Checkpoint(module=root).write(str(path))


@pytest.mark.parametrize(
    "changes", [{}, {"pooling": "max", "num_transformer_layers": 2, "num_heads": 2, "divisible_by": 8}]
)
def test_sizes_are_read_off_the_shapes(tmp_path, changes):
    model = toy_model(seed=2, **changes)
    path = published(model, tmp_path / "model.ckpt")
    loaded = checkpoints.read_published(path, sequence_length=2048, target_length=14)
    for field in (
        "heads",
        "channels",
        "num_transformer_layers",
        "num_heads",
        "key_size",
        "num_position_features",
        "pooling",
    ):
        assert getattr(loaded.config, field) == getattr(model.config, field), field
    outputs = (m(toy_sequence(), is_training=False)["human"] for m in (model, loaded))
    np.testing.assert_allclose(*outputs, rtol=1e-6)


def test_a_published_checkpoint_cut_short_is_one_line(tmp_path):
    path = Path(published(toy_model(), tmp_path / "model.ckpt"))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.ckpt: cut short or damaged \([^\n]*\)$"):
        checkpoints.read_published(path)


def test_no_published_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 checkpoints"):
        checkpoints.read_published(tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path):
    path = tf.train.Checkpoint(module=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="not a checkpoint of the published Enformer"):
        checkpoints.read_published(path)
