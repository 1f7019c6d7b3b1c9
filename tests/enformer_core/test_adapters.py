import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints, initial
from enformer_core.adapters import Adapters
from toys import toy_model, toy_sequence


@pytest.fixture
def adapted():
    """A model whose attention output is not zero, and rank-2 adapters of its last block of two."""
    model = toy_model(num_transformer_layers=2)
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name.endswith("attention/output/w:0"):
            variable.assign(random.normal(size=variable.shape, scale=0.1))
    expected = model.trunk(toy_sequence(), False).numpy()
    adapters = Adapters(model, rank=2, blocks=1)
    adapters.initialize(seed=1)
    return model, adapters, expected


def move(adapters):
    random = np.random.default_rng(1)
    for variable in adapters.variables:
        variable.assign_add(random.normal(size=variable.shape, scale=0.3).astype(np.float32))


def test_at_the_start_nothing_changes(adapted):
    model, _, expected = adapted
    np.testing.assert_array_equal(model.trunk(toy_sequence(), False), expected)


def test_they_are_on_the_projections_of_the_chosen_blocks_and_drawn_differently(adapted):
    model, adapters, _ = adapted
    names = {initial.variable_name(v) for v in adapters.variables}
    places = ("query", "key", "value", "relative_key", "output", "mlp_in", "mlp_out")
    assert names == {
        f"transformer_1/{place}/adapter/{factor}/w" for place in places for factor in ("down", "up")
    }
    values = {initial.variable_name(v): v.numpy() for v in adapters.variables}
    assert not np.array_equal(
        values["transformer_1/query/adapter/down/w"], values["transformer_1/key/adapter/down/w"]
    )
    assert names <= {initial.variable_name(v) for v in model.variables}


def test_merged_the_model_answers_the_same_without_them(adapted):
    model, adapters, before = adapted
    move(adapters)
    expected = model.trunk(toy_sequence(), False).numpy()
    assert np.abs(expected - before).max() > 1e-2
    adapters.merge()
    # the factors of a merged weight are summed in another order
    np.testing.assert_allclose(model.trunk(toy_sequence(), False), expected, rtol=1e-4, atol=1e-5)
    adapters.detach()
    np.testing.assert_allclose(model.trunk(toy_sequence(), False), expected, rtol=1e-4, atol=1e-5)
    assert (
        checkpoints.arrays(model.variables).keys()
        == checkpoints.arrays(toy_model(num_transformer_layers=2).variables).keys()
    )


def test_detached_the_model_is_the_one_it_was(adapted):
    model, adapters, expected = adapted
    move(adapters)
    adapters.detach()
    np.testing.assert_array_equal(model.trunk(toy_sequence(), False), expected)
    adapters.attach()
    assert np.abs(model.trunk(toy_sequence(), False) - expected).max() > 1e-2


def test_they_alone_get_gradients_and_the_first_block_none(adapted):
    model, adapters, _ = adapted
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(adapters.variables)
        loss = tf.reduce_sum(model.trunk(toy_sequence(1), True, tf.constant([0, 1]), moving_blocks=1) ** 2)
    gradients = tape.gradient(loss, adapters.variables)
    # at the start the gradient of down is zero, because up is; that of up is not
    for variable, gradient in zip(adapters.variables, gradients, strict=True):
        assert np.any(gradient) == variable.name.endswith("up/w:0"), variable.name


@pytest.mark.parametrize("rank", [0, 12])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}; the smallest projection takes 1 to 11"):
        Adapters(toy_model(), rank=rank, blocks=1)
