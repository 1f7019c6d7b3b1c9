from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import convolution, published
from enformer_core.dna import one_hot
from enformer_core.initial import variable_name
from toys import toy_model, toy_sequence

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "deepmind_tiny"


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
    model = published.read_published(REFERENCE / "model.ckpt", sequence_length=8192, target_length=62)
    expected = np.load(REFERENCE / "expected.npz")
    sequence = np.stack([one_hot(letters) for letters in expected["sequence"]])
    found = {"embedding": model.trunk(sequence, is_training=False), **model(sequence, is_training=False)}
    for name in ("embedding", "human", "mouse"):
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-4, atol=2e-5 * np.abs(expected[name]).max(), err_msg=name
        )


def write(model, path):
    """Writes a checkpoint with the object layout of the published code, from a model of ours."""
    root = tf.Module()
    for variable in model.variables:
        key = published._published_key(variable_name(variable))
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
    path = write(model, tmp_path / "model.ckpt")
    loaded = published.read_published(path, sequence_length=2048, target_length=14)
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
    path = Path(write(toy_model(), tmp_path / "model.ckpt"))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.ckpt: cut short or damaged \([^\n]*\)$"):
        published.read_published(path)


def test_no_published_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 checkpoints"):
        published.read_published(tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path):
    path = tf.train.Checkpoint(module=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="not a checkpoint of the published Enformer"):
        published.read_published(path)
