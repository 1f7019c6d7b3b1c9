import numpy as np
import pytest
import tensorflow as tf

from enformer_core import initial
from enformer_core.heads import ACTIVITY_HEADS, ActivityHead, ActivityHeadConfig


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("config", [ActivityHeadConfig(1, 4, 6), ActivityHeadConfig(3, 5, 2)])
def test_the_activity_head_is_attention_flattened_through_one_dense_unit(config):
    """Against NumPy, head by head."""
    embedding = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)
    head = ActivityHead(config)
    head(embedding)
    initial.initialize(head, seed=1)
    w = {initial.variable_name(v).removeprefix("activity/"): v.numpy() for v in head.variables}
    assert set(w) == {"query/w", "key/w", "value/w", "dense/w", "dense/b"}
    attended = []
    for h in range(config.num_heads):
        keys = slice(h * config.key_size, (h + 1) * config.key_size)
        values = slice(h * config.value_size, (h + 1) * config.value_size)
        logits = (embedding @ w["query/w"][:, keys]) @ (embedding @ w["key/w"][:, keys]).swapaxes(1, 2)
        attended.append(softmax(logits / np.sqrt(config.key_size)) @ (embedding @ w["value/w"][:, values]))
    flat = np.concatenate(attended, -1).reshape(2, -1)
    expected = np.log1p(np.exp(flat @ w["dense/w"] + w["dense/b"]))
    assert expected.shape == (2, 1)
    np.testing.assert_allclose(head(embedding), expected, rtol=1e-5)


def test_the_presets_are_the_published_three():
    assert {name: (c.num_heads, c.key_size, c.value_size) for name, c in ACTIVITY_HEADS.items()} == {
        "single_64_64": (1, 64, 64),
        "single_64_128": (1, 64, 128),
        "multi_64_64": (4, 64, 64),
    }


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


@pytest.mark.parametrize("field", ["num_heads", "key_size", "value_size"])
@pytest.mark.parametrize("value", [2.0, "2", True, None, [2]])
def test_sizes_are_whole_numbers(field, value):
    with pytest.raises(ValueError) as caught:
        ActivityHeadConfig(**{field: value})
    assert str(caught.value) == f"{field} is {value!r}; it must be a whole number, 1 or more"
