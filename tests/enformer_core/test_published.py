from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import convolution, published
from enformer_core.dna import one_hot
from enformer_core.initial import variable_name
from foreign import port_state_dict, sonnet_checkpoint
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
    model = published.read_sonnet(REFERENCE / "model.ckpt", sequence_length=8192, target_length=62)
    expected = np.load(REFERENCE / "expected.npz")
    sequence = np.stack([one_hot(letters) for letters in expected["sequence"]])
    found = {"embedding": model.trunk(sequence, is_training=False), **model(sequence, is_training=False)}
    for name in ("embedding", "human", "mouse"):
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-4, atol=2e-5 * np.abs(expected[name]).max(), err_msg=name
        )


def trained(**changes):
    """A toy model whose averages have moved, and whose attention output is not zero."""
    model = toy_model(seed=2, **changes)
    for variable in model.variables:
        if "attention/output/w" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, 1]) / 8)
    for seed in range(3):
        model(toy_sequence(seed=seed), is_training=True, key=tf.constant([0, 0]))
    return model


SIZES = [{}, {"pooling": "max", "num_transformer_layers": 2, "num_heads": 2, "divisible_by": 8}]


def check_same(loaded, model):
    """Both have the sizes that are read off the shapes, and predict the same."""
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


@pytest.mark.parametrize("changes", SIZES)
def test_sizes_are_read_off_the_shapes(tmp_path, changes):
    model = trained(**changes)
    path = sonnet_checkpoint(model, tmp_path / "model.ckpt")
    loaded = published.read_sonnet(path, sequence_length=2048, target_length=14)
    check_same(loaded, model)
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changes", SIZES)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.model."])
def test_a_state_dict_of_the_port(changes, prefix):
    model = trained(**changes)
    arrays = {f"{prefix}{key}": array for key, array in port_state_dict(model).items()}
    if prefix:
        arrays["loss.scale"] = np.ones(1)  # of a wrapper, which is left out
    check_same(published.from_port(arrays, "model.pt", 2048, 14), model)


def test_a_weight_of_the_port_is_transposed():
    arrays = port_state_dict(trained())
    model = published.from_port(arrays, "model.pt", 2048, 14)
    variables = {variable_name(v): v.numpy() for v in model.variables}
    assert variables["enformer/stem/conv/w"][3, 1, 5] == arrays["stem.0.weight"][5, 1, 3]
    assert variables["enformer/transformer_0/mlp_in/w"][7, 2] == arrays["transformer.0.1.fn.1.weight"][2, 7]
    assert variables["enformer/stem/pool/logit/w"][7, 2] == arrays["stem.2.to_attn_logits.weight"][2, 7, 0, 0]


SECOND = {"stem": 1, "conv_tower": 2, "transformer": 4, "final_pointwise": 6}


def second(key):
    """The second name of a variable, the first where it has only one."""
    first, _, rest = key.partition(".")
    return f"_trunk.{SECOND[first]}.{rest}" if first in SECOND else key


def test_second_names_are_the_same_variables():
    model = trained()
    arrays = port_state_dict(model)
    seconds = {second(key): array.copy() for key, array in arrays.items()}
    assert "_trunk.1.0.weight" in seconds and "_trunk.6.1.2.bias" in seconds
    check_same(published.from_port(seconds, "model.pt", 2048, 14), model)
    check_same(published.from_port({**arrays, **seconds}, "model.pt", 2048, 14), model)
    seconds["_trunk.1.0.bias"] += 1
    with pytest.raises(ValueError, match=r"model.pt: stem.0.bias and _trunk.1.0.bias are one variable"):
        published.from_port({**arrays, **seconds}, "model.pt")


def test_averages_of_the_port_go_on_from_where_they_are():
    """As PyTorch moves them: a tenth of the new value and nine of the old, with no correction for the start."""
    arrays = port_state_dict(trained())
    arrays["stem.1.fn.0.num_batches_tracked"] = np.int64(0)  # as in a file that was made from other weights
    model = published.from_port(arrays, "model.pt", 2048, 14)
    norm = model._stem._pointwise.norm
    before = norm._moving_mean.average.numpy()
    np.testing.assert_array_equal(before.ravel(), arrays["stem.1.fn.0.running_mean"])
    norm._moving_mean.update(tf.ones_like(before))
    np.testing.assert_allclose(norm._moving_mean.average, 0.9 * before + 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("stem.0.weight", None, "no variable stem.0.weight; it is not a state dict of enformer-pytorch"),
        ("final_pointwise.1.0.running_var", None, "no variable final_pointwise.1.0.running_var"),
        (
            "stem.0.weight",
            np.zeros([24, 3, 15]),
            r"stem.0.weight is \(24, 3, 15\); the model needs \(24, 4, 15\)",
        ),
        ("stem.1.fn.0.bias", np.zeros([3]), r"stem.1.fn.0.bias is \(3,\); the model needs \(24,\)"),
        ("conv_tower.2.0.2.bias", np.zeros([17]), r"the tower has filters \[.*17.*\], which do not grow"),
        ("transformer.0.0.fn.1.rel_content_bias", np.zeros([4, 16]), r"is \(4, 16\); it must have 4 axes"),
        (
            "transformer.0.0.fn.1.to_rel_k.weight",
            np.zeros([64, 13]),
            "num_position_features is 13; it must be",
        ),
        ("stem.1.fn.0.bias", np.full([24], np.nan), r"stem.1.fn.0.bias .*NaN"),
        ("stem.3.weight", np.zeros([3, 2]), r"stem.3.weight \(3, 2\) has no place in the model"),
        ("conv_tower.6.0.2.bias", np.zeros([48]), "the tower has 7 blocks; the model has 6"),
        ("ema.stem.0.weight", np.zeros([3]), "2 models, under '' and 'ema.'"),
    ],
)
def test_a_state_dict_that_does_not_fit(key, change, said):
    arrays = port_state_dict(toy_model())
    arrays[key] = change
    if change is None:
        del arrays[key]
    with pytest.raises(ValueError, match=rf"^model\.pt: .*{said}"):
        published.from_port(arrays, "model.pt", 2048, 14)


def test_a_published_checkpoint_cut_short_is_one_line(tmp_path):
    path = Path(sonnet_checkpoint(toy_model(), tmp_path / "model.ckpt"))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.ckpt: cut short or damaged \([^\n]*\)$"):
        published.read_sonnet(path)


def test_no_published_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 checkpoints"):
        published.read_sonnet(tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path):
    path = tf.train.Checkpoint(module=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="not a checkpoint of the published Enformer"):
        published.read_sonnet(path)
