"""What is done for speed and memory changes no number: against the plain formulation, written here."""

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import convolution, enformer, layers
from enformer_core.enformer import Enformer, variant
from enformer_core.losses import poisson
from toys import toy_config, toy_sequence

KEY = tf.constant([5, 7])


def loss_and_gradients(model, *, compiled):
    """Of one training step on two made-up windows: loss, gradient by variable name, all other variables after it."""
    sequence = toy_sequence(batch=2)
    target = tf.constant(np.random.default_rng(1).gamma(1, 1, (2, 14, 3)), tf.float32)

    @tf.function(jit_compile=compiled, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(poisson(target, model(sequence, is_training=True, key=KEY)["human"]))
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, gradients = step()
    names = [variable.name for variable in model.trainable_variables]
    averages = {v.name: v.numpy() for v in model.variables if not v.trainable}
    return loss, dict(zip(names, gradients, strict=True)), averages


def spread_weights(model):
    """Random weights everywhere: attention starts at zero otherwise, and half of the gradients with it."""
    random = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(size=variable.shape, scale=0.05))
    return model


def assert_equal_steps(one, other):
    (loss, gradients, averages), (loss2, gradients2, averages2) = one, other
    np.testing.assert_allclose(loss, loss2, rtol=1e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        # Float32 sums in another order: 1e-3 of the largest element of each gradient. What normalisation takes away
        # again, such as the bias before it, has a gradient of rounding errors alone.
        tolerance = 1e-3 * np.abs(gradient).max() + 1e-5 * largest
        np.testing.assert_allclose(gradient, gradients2[name], rtol=0, atol=tolerance, err_msg=name)
    for name, average in averages.items():
        np.testing.assert_allclose(average, averages2[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "compiled", "stages"), [("vanilla", True, True), ("all", False, True), ("vanilla", False, False)]
)
def test_activations_computed_again_give_the_gradients_of_those_that_were_kept(
    monkeypatch, name, compiled, stages
):
    config = variant(toy_config(heads={"human": 3}), name)
    monkeypatch.setattr(enformer, "RECOMPUTE_ELEMENTWISE_ABOVE", 0)
    kept, again = (
        spread_weights(Enformer(config, recompute=how)) for how in ("never", "always" if stages else "auto")
    )
    assert_equal_steps(
        loss_and_gradients(kept, compiled=compiled), loss_and_gradients(again, compiled=compiled)
    )


@pytest.mark.parametrize(("fixed_norms", "again"), [(False, True), (True, False)])
def test_stages_are_computed_again_from_a_smaller_size_on_where_norms_move(monkeypatch, fixed_norms, again):
    model = Enformer(toy_config())
    computed = []

    def recompute_grad(function):
        computed.append(function)
        return function

    monkeypatch.setattr(tf, "recompute_grad", recompute_grad)
    monkeypatch.setattr(enformer, "RECOMPUTE_STAGES_ABOVE", 2048 * 48 - 1)  # bp x channels of one window
    monkeypatch.setattr(enformer, "RECOMPUTE_FIXED_STAGES_ABOVE", 2048 * 48)
    model.trunk(toy_sequence(1), True, tf.constant([0, 1]), fixed_norms=fixed_norms)
    assert len(computed) == (7 if again else 0)  # stem and six blocks of the tower


def test_the_compiled_step_has_the_gradients_of_the_published_formulation(monkeypatch):
    config = toy_config(heads={"human": 3})
    monkeypatch.setattr(convolution, "MIN_CHANNELS", 1)  # as at full width
    fast = loss_and_gradients(spread_weights(Enformer(config, recompute="always")), compiled=True)

    def linear(self, x):
        self._initialize(x.shape[-1])
        y = tf.einsum("...i,ij->...j", x, self.w)
        return y if self.b is None else y + self.b

    def conv(self, x):
        self._initialize(x.shape[-1])
        return tf.nn.convolution(x, self.w, padding="SAME") + self.b

    def pool(self, x):
        self._initialize(x.shape[-1])
        x = tf.reshape(x, [-1, x.shape[1] // 2, 2, x.shape[2]])
        return tf.reduce_sum(x * tf.nn.softmax(self._logit(x), axis=2), axis=2)

    monkeypatch.setattr(layers.Linear, "__call__", linear)
    monkeypatch.setattr(layers.Conv1D, "__call__", conv)
    monkeypatch.setattr(layers.SoftmaxPool, "__call__", pool)
    plain = loss_and_gradients(spread_weights(Enformer(config, recompute="never")), compiled=False)
    assert_equal_steps(fast, plain)


@pytest.mark.parametrize("name", ["vanilla", "all"])
def test_a_step_in_bfloat16_is_traced_with_float32_gradients(name):
    """Traced, not run: some processors kill a process that computes in bfloat16."""
    model = Enformer(variant(toy_config(heads={"human": 3}), name), precision="bfloat16", recompute="always")

    @tf.function(autograph=False)
    def step(sequence):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(sequence, is_training=True, key=KEY)["human"])
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec([2, 2048, 4]))
    assert {gradient.dtype for gradient in graph.structured_outputs} == {tf.float32}
    products = [op for op in graph.graph.get_operations() if op.type in ("MatMul", "Conv2D")]
    in_bfloat16 = [op for op in products if op.outputs[0].dtype == tf.bfloat16]
    assert len(in_bfloat16) >= len(products) - 3  # the head's own three are float32


def test_a_training_step_for_any_size_of_batch_is_refused():
    model = Enformer(toy_config(heads={"human": 3}))
    step = tf.function(lambda x: model(x, is_training=True, key=KEY), autograph=False)
    with pytest.raises(ValueError, match="fixed batch size"):
        step.get_concrete_function(tf.TensorSpec([None, 2048, 4]))


def test_long_batches_compute_again_and_short_ones_keep():
    def marks(batch, length):
        model = Enformer(toy_config(heads={"human": 3}))
        graph = tf.function(lambda x: model.trunk(x, True, KEY), autograph=False).get_concrete_function(
            tf.TensorSpec([batch, length, 4])
        )
        return sum(node.op == "IdentityN" for node in graph.graph.as_graph_def().node)

    # Of 48 channels: 0.75 Mi, 12 Mi and 96 Mi. What is computed again as one stands in one node more: fourteen
    # convolution blocks, then also the seven stages around thirteen of them.
    kept = marks(1, 2**14)
    assert marks(1, 2**18) == kept + 14
    assert marks(8, 2**18) == kept + 21


@pytest.mark.parametrize(("option", "value"), [("precision", "float8"), ("recompute", "sometimes")])
def test_unknown_ways_to_compute_list_the_known(option, value):
    with pytest.raises(ValueError, match=f"{option} is '{value}'; it can be "):
        Enformer(toy_config(), **{option: value})
