import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from enformer_core import checkpoints, initial
from enformer_core.activity import ActivityModel, activity_head
from enformer_core.heads import (
    ACTIVITY_HEADS,
    TRACK_HEADS,
    ActivityHead,
    ActivityHeadConfig,
    TrackHead,
    TrackHeadConfig,
)
from enformer_core.track_model import TrackModel, track_head
from toys import toy_model


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "config",
    [ActivityHeadConfig(1, 4, 6), ActivityHeadConfig(3, 5, 2), ActivityHeadConfig(3, 5, 2, hidden_size=8)],
)
def test_the_activity_head_is_attention_flattened_through_one_dense_unit(config):
    """Against NumPy, head by head; with a hidden layer on every bin between."""
    embedding = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)
    head = ActivityHead(config)
    head(embedding)
    initial.initialize(head, seed=1)
    w = {initial.variable_name(v).removeprefix("activity/"): v.numpy() for v in head.variables}
    hidden = {"hidden/w", "hidden/b"} if config.hidden_size else set()
    assert set(w) == {"query/w", "key/w", "value/w", "dense/w", "dense/b"} | hidden
    attended = []
    for h in range(config.num_heads):
        keys = slice(h * config.key_size, (h + 1) * config.key_size)
        values = slice(h * config.value_size, (h + 1) * config.value_size)
        logits = (embedding @ w["query/w"][:, keys]) @ (embedding @ w["key/w"][:, keys]).swapaxes(1, 2)
        attended.append(softmax(logits / np.sqrt(config.key_size)) @ (embedding @ w["value/w"][:, values]))
    x = np.concatenate(attended, -1)
    if hidden:
        assert w["hidden/w"].std() > 0.1
        x = x @ w["hidden/w"] + w["hidden/b"]
        x = x * expit(1.702 * x)
    flat = x.reshape(2, -1)
    expected = np.log1p(np.exp(flat @ w["dense/w"] + w["dense/b"]))
    assert expected.shape == (2, 1)
    np.testing.assert_allclose(head(embedding), expected, rtol=1e-5)


def test_the_presets_are_the_published_three():
    assert {name: (c.num_heads, c.key_size, c.value_size) for name, c in ACTIVITY_HEADS.items()} == {
        "single_64_64": (1, 64, 64),
        "single_64_128": (1, 64, 128),
        "multi_64_64": (4, 64, 64),
    }
    assert all((c.hidden_size, c.dropout) == (0, 0) for c in ACTIVITY_HEADS.values())


def test_gradients_of_a_stored_embedding_are_not_computed():
    head = ActivityHead(ActivityHeadConfig(1, 4, 4))
    embedding = tf.zeros([1, 3, 8])
    head(embedding)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(head(x))
        return tape.gradient(loss, head.trainable_variables)

    products = [op for op in gradients.get_concrete_function(embedding).graph.get_operations()]
    # three projections, one dense layer: each one forward and one for its weight, the dense layer one for its input
    assert sum(op.type == "MatMul" for op in products) == 3 * 2 + 3


@pytest.mark.parametrize("field", ["num_heads", "key_size", "value_size"])
def test_sizes_are_positive(field):
    with pytest.raises(ValueError, match=f"{field} is 0; it must be 1 or more"):
        ActivityHeadConfig(**{field: 0})


@pytest.mark.parametrize("value", [-1, 2.0])
def test_a_hidden_layer_is_none_or_has_channels(value):
    with pytest.raises(ValueError, match=f"hidden_size is {value}; it must be"):
        ActivityHeadConfig(hidden_size=value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, float("nan"), "0.1", None, True])
def test_dropout_is_a_share(value):
    for make in (ActivityHeadConfig, lambda dropout: TrackHeadConfig(3, dropout=dropout)):
        with pytest.raises(ValueError) as caught:
            make(dropout=value)
        assert str(caught.value) == f"dropout is {value!r}; it must be a number from 0 to below 1"


@pytest.mark.parametrize("field", ["num_heads", "key_size", "value_size"])
@pytest.mark.parametrize("value", [2.0, "2", True, None, [2]])
def test_sizes_are_whole_numbers(field, value):
    with pytest.raises(ValueError) as caught:
        ActivityHeadConfig(**{field: value})
    assert str(caught.value) == f"{field} is {value!r}; it must be a whole number, 1 or more"


# --- tracks -------------------------------------------------------------------------------------------------------


def made(config, name="human", reads_data=False, channels=12):
    """A head whose every weight has a value, biases too, and these by name."""
    head = TrackHead(config, name, reads_data=reads_data)
    head(tf.zeros([1, 1, channels]))
    random = np.random.default_rng(3)
    for variable in head.variables:
        variable.assign(random.normal(size=variable.shape).astype(np.float32) / 2)
    return head, {initial.variable_name(v).removeprefix(f"{name}/"): v.numpy() for v in head.variables}


LAYERS = list(itertools.product([0, 5], [0, 1, 3]))  # hidden size, attention heads


@pytest.mark.parametrize(("hidden", "heads"), LAYERS)
@pytest.mark.parametrize("reads_data", [False, True])
def test_a_track_head_is_attention_beside_the_embedding_a_hidden_layer_and_a_linear_one(
    hidden, heads, reads_data
):
    """Against NumPy, in every combination of layers."""
    config = TrackHeadConfig(4, hidden_size=hidden, num_heads=heads, key_size=3, value_size=2)
    head, w = made(config, reads_data=reads_data)
    expected_names = {"linear/w", "linear/b"} | ({"hidden/w", "hidden/b"} if hidden else set())
    assert set(w) == expected_names | ({"query/w", "key/w", "value/w"} if heads else set())
    embedding = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)
    x = embedding
    for h in range(heads):
        keys, values = slice(3 * h, 3 * h + 3), slice(2 * h, 2 * h + 2)
        logits = (embedding @ w["query/w"][:, keys]) @ (embedding @ w["key/w"][:, keys]).swapaxes(1, 2)
        attended = softmax(logits / np.sqrt(3)) @ (embedding @ w["value/w"][:, values])
        x = np.concatenate([x, attended], -1)
    if hidden:
        x = x @ w["hidden/w"] + w["hidden/b"]
        x = x * expit(1.702 * x)  # the published code's GELU
    expected = np.log1p(np.exp(x @ w["linear/w"] + w["linear/b"]))
    found = head(embedding)
    assert found.shape == (2, 7, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head(embedding[1:]), found[1:], rtol=1e-5, atol=1e-6)


def test_only_attention_looks_at_other_bins():
    x = np.random.default_rng(0).normal(size=(1, 7, 12)).astype(np.float32)
    changed = x.copy()
    changed[0, 6] += 1
    for hidden, heads in LAYERS:
        head, _ = made(TrackHeadConfig(4, hidden_size=hidden, num_heads=heads, key_size=3, value_size=2))
        assert np.allclose(head(x)[0, :6], head(changed)[0, :6], atol=1e-6) == (heads == 0)


@pytest.mark.parametrize(("hidden", "heads"), LAYERS)
def test_gradients_are_those_of_the_plain_head_where_the_embedding_is_data(hidden, heads):
    config = TrackHeadConfig(4, hidden_size=hidden, num_heads=heads, key_size=3, value_size=2)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 7, 12)), tf.float32)
    found = []
    for reads_data in (False, True):
        head, _ = made(config, reads_data=reads_data)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(head(x)))
        names = [initial.variable_name(v) for v in head.trainable_variables]
        found.append(dict(zip(names, tape.gradient(loss, head.trainable_variables), strict=True)))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert np.abs(gradient).max() > 1e-6
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads", "products"), [(0, 0, 2), (5, 0, 5)])
def test_no_gradient_of_the_embedding_is_computed_where_it_is_data(hidden, heads, products):
    config = TrackHeadConfig(4, hidden_size=hidden, num_heads=heads)
    head, _ = made(config, reads_data=True)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(head(x))
        return tape.gradient(loss, head.trainable_variables)

    graph = gradients.get_concrete_function(tf.zeros([1, 3, 12])).graph
    # each layer forward and one for its weight; the linear layer behind a hidden one has one for its input
    assert sum(op.type in ("MatMul", "BatchMatMulV2", "Einsum") for op in graph.get_operations()) == products


def test_the_default_head_is_linear_and_the_presets_differ_in_one_layer():
    assert TrackHeadConfig(3) == TrackHeadConfig(3, **TRACK_HEADS["linear"])
    layers = {name: (bool(c["hidden_size"]), bool(c["num_heads"])) for name, c in TRACK_HEADS.items()}
    assert layers == {"linear": (False, False), "hidden": (True, False), "attention": (False, True)}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_tracks", 0, "num_tracks is 0; it must be 1 or more"),
        ("hidden_size", -1, "hidden_size is -1; it must be 0 or more"),
        ("num_heads", -1, "num_heads is -1; it must be 0 or more"),
        ("key_size", 0, "key_size is 0; it must be 1 or more"),
        ("value_size", 0, "value_size is 0; it must be 1 or more"),
        ("num_tracks", True, "num_tracks is True; it must be a whole number, 1 or more"),
        ("num_heads", 2.0, "num_heads is 2.0; it must be a whole number, 0 or more"),
        ("hidden_size", "8", "hidden_size is '8'; it must be a whole number, 0 or more"),
        ("dropout", 1, "dropout is 1; it must be a number from 0 to below 1"),
    ],
)
def test_sizes_of_a_track_head_are_checked(field, value, said):
    with pytest.raises(ValueError) as caught:
        TrackHeadConfig(**{"num_tracks": 3, field: value})
    assert str(caught.value) == said


# --- dropout ------------------------------------------------------------------------------------------------------

RATE = 0.3
SIZE = 32


def gelu(x):
    return x * expit(1.702 * x)


def passing(hidden, track):
    """A head that hands on embeddings of one, each channel to itself, and what says how many channels were kept.

    Softplus and the sum of the dense layer are undone; a channel is handed on as 1, or dropped to 0.
    """
    sizes = {"key_size": 4, "value_size": SIZE, "hidden_size": SIZE if hidden else 0, "dropout": RATE}
    config = TrackHeadConfig(SIZE, **sizes) if track else ActivityHeadConfig(1, **sizes)
    head = TrackHead(config, "human") if track else ActivityHead(config)
    head(tf.ones([1, 5, SIZE]))
    for variable in head.variables:
        shape = tuple(variable.shape)
        variable.assign(np.eye(*shape) if shape == (SIZE, SIZE) else np.full(shape, float(shape[-1] == 1)))
    one = gelu(1 / (1 - RATE)) / (1 - RATE) if hidden else 1 / (1 - RATE)

    def kept(answer):
        if track:
            return np.log(np.expm1(np.asarray(answer, np.float64))) / one
        return (np.asarray(answer, np.float64) - 1) / one  # softplus is the identity there; 1 is its bias

    return head, kept


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_dropout_drops_its_share_and_scales_the_rest(hidden, track):
    """Of 80,000 channels; in front of two layers, the two draw apart from each other."""
    head, kept = passing(hidden, track)
    answer = head(tf.ones([500, 5, SIZE]), is_training=True, key=tf.constant([3, 1]))
    found = kept(answer)
    if track:  # one channel for each track
        np.testing.assert_allclose(found, np.where(found > 0.5, 1, 0), atol=1e-4)
        share = found.mean()
        assert np.ptp(found.mean((0, 1))) < 0.1 and np.ptp(found.mean((1, 2))) < 0.5
    else:
        np.testing.assert_allclose(found, np.round(found), atol=1e-3)
        share = found.mean() / (5 * SIZE)
    assert share == pytest.approx((1 - RATE) ** (2 if hidden else 1), abs=0.01)


@pytest.mark.parametrize("track", [False, True])
def test_dropout_is_a_function_of_the_key(track):
    """However it is run."""
    head, _ = passing(True, track)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 5, SIZE)), tf.float32)
    keys = [tf.constant(key) for key in ([3, 1], [3, 1], [3, 2], [4, 1])]
    first, again, *others = [head(x, is_training=True, key=key).numpy() for key in keys]
    np.testing.assert_array_equal(first, again)
    for other in others:
        assert not np.array_equal(first, other)
    for compiled in (False, True):
        traced = tf.function(lambda x, key: head(x, is_training=True, key=key), jit_compile=compiled)
        np.testing.assert_allclose(traced(x, keys[0]), first, rtol=1e-5)


@pytest.mark.parametrize("track", [False, True])
def test_dropout_is_off_when_not_training(track):
    head, _ = passing(True, track)
    plain_config = dataclasses.replace(head.config, dropout=0.0)
    plain = TrackHead(plain_config, "human") if track else ActivityHead(plain_config)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 5, SIZE)), tf.float32)
    plain(x)
    for variable, value in zip(plain.variables, head.variables, strict=True):
        variable.assign(value)
    expected = plain(x)
    np.testing.assert_array_equal(head(x), expected)
    np.testing.assert_array_equal(head(x, is_training=False, key=tf.constant([3, 1])), expected)
    np.testing.assert_array_equal(plain(x, is_training=True), expected)  # which needs no key
    assert not np.allclose(head(x, is_training=True, key=tf.constant([3, 1])), expected)


def test_dropout_needs_a_key_and_a_batch_of_known_size():
    head, _ = passing(False, True)
    with pytest.raises(ValueError, match="is_training=True needs key"):
        head(tf.ones([1, 5, SIZE]), is_training=True)
    traced = tf.function(lambda x: head(x, is_training=True, key=tf.constant([3, 1])))
    with pytest.raises(ValueError, match="needs a fixed batch size, found None"):
        traced.get_concrete_function(tf.TensorSpec([None, 5, SIZE]))


@pytest.mark.parametrize("track", [False, True])
def test_a_head_alone_begins_as_the_one_in_its_model(track):
    """Their variables have the same names, whatever the scope that one is made in."""
    trunk = toy_model()
    if track:
        config = TrackHeadConfig(4, hidden_size=6, num_heads=2, key_size=4, value_size=4)
        model = TrackModel(trunk, config, "a lab", seed=5)
    else:
        config = ActivityHeadConfig(2, 4, 4, hidden_size=6)
        model = ActivityModel(trunk, config, seed=5)
    with tf.name_scope("somewhere"):
        head = track_head(config, "a lab") if track else activity_head(config)
    head(tf.zeros([1, trunk.config.num_bins, 2 * trunk.config.channels]))
    initial.initialize(head, 5)
    expected, found = checkpoints.arrays(model.head.variables), checkpoints.arrays(head.variables)
    assert expected.keys() == found.keys() and len(found) == 7
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
