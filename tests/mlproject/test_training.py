import itertools

import numpy as np
import pytest
import tensorflow as tf

from enformer_core.losses import poisson
from mlproject.training import Adam, Diverged, Schedule, fit, make_step, step_function
from toys import toy_model, toy_sequence

SCHEDULE = Schedule(epochs=3, steps_per_epoch=4, warmup_steps=5, learning_rate=0.1)


def quadratic(variable):
    """Loss of a batch `{"target": [n]}`: squared distance of the variable."""

    def loss(batch, is_training, key):
        return tf.reduce_sum((variable - batch["target"]) ** 2), {}

    return loss


def targets(start=0):
    for position in itertools.count(start):
        yield {"target": tf.constant(np.random.default_rng(position).normal(size=3), tf.float32)}


def adam_in_numpy(value, gradients, rates, clip=None):
    first, second = np.zeros_like(value), np.zeros_like(value)
    for count, (gradient_of, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        gradient = gradient_of(value)
        if clip:
            gradient = gradient * min(1, clip / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate *= np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        value = value - rate * first / (np.sqrt(second) + 1e-8)
    return value


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_training_equals_adam_in_numpy(clip, compiled):
    variable = tf.Variable([1.0, -2.0, 3.0], name="value")
    step = make_step(quadratic(variable), Adam([variable]), clip, compiled)
    seen = []
    result = fit(step, targets(), SCHEDULE, lambda count, metrics: seen.append((count, metrics)), seed=0)
    batches = [batch["target"].numpy().astype(np.float64) for batch in itertools.islice(targets(), 12)]
    rates = [0.1 * min(1, count / 5) for count in range(1, 13)]
    gradients = [lambda value, target=target: 2 * (value - target) for target in batches]
    expected = adam_in_numpy(np.array([1.0, -2.0, 3.0]), gradients, rates, clip or None)
    np.testing.assert_allclose(variable, expected, rtol=1e-5)
    assert [count for count, _ in seen] == list(range(1, 13))
    assert [metrics["learning_rate"] for _, metrics in seen] == pytest.approx(rates)
    assert result.step == 12 and result.metrics["loss"] == seen[-1][1]["loss"]


@pytest.mark.parametrize("warmup", [0, 5])
def test_after_the_warm_up_the_rate_may_fall_along_a_cosine(warmup):
    schedule = Schedule(epochs=3, steps_per_epoch=4, warmup_steps=warmup, learning_rate=0.1, final_share=0.2)
    rates = [schedule.rate(step) for step in range(1, 13)]
    steps = np.arange(1, 13)
    falls = (
        0.02 + 0.08 * np.cos(np.pi / 2 * (steps - warmup) / (12 - warmup)) ** 2
    )  # (1 + cos 2x) / 2 = cos² x
    expected = np.where(steps <= warmup, 0.1 * steps / max(1, warmup), falls)
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates[-1] == pytest.approx(0.02) and max(rates) <= 0.1
    constant = Schedule(epochs=3, steps_per_epoch=4, warmup_steps=warmup, learning_rate=0.1)
    assert constant.rate(12) == 0.1 and constant.rate(warmup + 1) == 0.1


def test_a_warm_up_that_is_as_long_as_the_training_has_no_fall():
    schedule = Schedule(epochs=1, steps_per_epoch=4, warmup_steps=4, learning_rate=0.1, final_share=0.2)
    assert [schedule.rate(step) for step in range(1, 5)] == pytest.approx([0.025, 0.05, 0.075, 0.1])


class Mixed:
    """A weight `[3, 2]`, a bias of it, and one of relative positions, under squared errors."""

    def __init__(self):
        random = np.random.default_rng(1)
        shapes = {"linear/w": (3, 2), "linear/b": (2,), "attention/content_bias": (1, 2, 1, 3)}
        self.variables = [
            tf.Variable(random.normal(size=shape), dtype=tf.float32, name=name)
            for name, shape in shapes.items()
        ]

    def loss(self, batch, is_training, key):
        w, b, bias = self.variables
        y = tf.linalg.matvec(w, batch["target"], transpose_a=True) + b
        return tf.reduce_sum((y - 3) ** 2) + tf.reduce_sum(
            (tf.reshape(bias, [2, 3]) - batch["target"]) ** 2
        ), {}

    def gradients(self, values, target):
        w, b, bias = values
        of_y = 2 * (target @ w + b - 3)
        return [np.outer(target, of_y), of_y, 2 * (bias - target)]


DECAY = 0.3


@pytest.mark.parametrize("compiled", [True, False])
def test_weight_decay_equals_adamw_in_numpy(compiled):
    """Of Loshchilov and Hutter, algorithm 2; weights decay, biases do not."""
    model = Mixed()
    values = [v.numpy().astype(np.float64) for v in model.variables]
    without = [v.copy() for v in values]
    step = make_step(model.loss, Adam(model.variables, weight_decay=DECAY), compiled=compiled)
    fit(step, targets(), SCHEDULE, lambda *_: None, seed=0)
    for decay, found in ((DECAY, values), (0.0, without)):
        moments = [[np.zeros_like(v), np.zeros_like(v)] for v in found]
        for count, batch in enumerate(itertools.islice(targets(), 12), 1):
            rate = 0.1 * min(1, count / 5)
            gradients = model.gradients(found, batch["target"].numpy().astype(np.float64))
            for i, gradient in enumerate(gradients):
                moments[i][0] = 0.9 * moments[i][0] + 0.1 * gradient
                moments[i][1] = 0.999 * moments[i][1] + 0.001 * gradient**2
                first, second = moments[i][0] / (1 - 0.9**count), moments[i][1] / (1 - 0.999**count)
                shrunk = rate * decay * found[i] if i == 0 else 0
                found[i] = found[i] - rate * first / (np.sqrt(second) + 1e-8) - shrunk
    for variable, expected in zip(model.variables, values, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(values[0] - without[0]).max() > 0.05


def test_weight_decay_equals_adamw_of_pytorch():
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(1).normal(size=(3, 1))
    variable = tf.Variable(start, dtype=tf.float32, name="w")
    theirs = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], lr=0.1, weight_decay=DECAY)
    ours = Adam([variable], weight_decay=DECAY)
    for batch in itertools.islice(targets(), 12):
        gradient = batch["target"].numpy()[:, np.newaxis]
        ours.apply([tf.constant(gradient)], tf.constant(0.1))
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(variable, theirs.detach().numpy(), rtol=1e-5)


def test_without_weight_decay_a_step_has_no_operation_for_it():
    kinds = []
    for decay in (0.0, 0.1):
        variable = tf.Variable([[1.0, 2.0, 3.0]], name="value")
        step = step_function(quadratic(variable), Adam([variable], weight_decay=decay))
        scalars = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int32)
        traced = step.get_concrete_function({"target": tf.TensorSpec([3])}, *scalars)
        kinds.append([operation.type for operation in traced.graph.get_operations()])
    assert "AssignSubVariableOp" not in kinds[0] and kinds[1].count("AssignSubVariableOp") == 1


def test_decay_leaves_what_has_no_gradient():
    used, unused = tf.Variable([[1.0, 2.0, 3.0]], name="used"), tf.Variable([[5.0]], name="unused")
    step = make_step(quadratic(used), Adam([used, unused], weight_decay=0.5))
    fit(step, targets(), SCHEDULE, lambda *_: None, seed=0)
    assert unused.numpy() == 5.0


def test_epochs_end_after_their_steps():
    variable = tf.Variable([0.0, 0.0, 0.0], name="value")
    ends, steps = [], []
    step = make_step(quadratic(variable), Adam([variable]))
    fit(step, targets(), SCHEDULE, lambda *_: None, seed=0, end_of_epoch=ends.append, after_step=steps.append)
    assert ends == [4, 8, 12] and steps == list(range(1, 13))


def test_nan_stops_by_name_and_step():
    variable = tf.Variable([1.0, 1.0, 1.0], name="value")
    batches = itertools.chain(
        itertools.islice(targets(), 2), iter([{"target": tf.constant([1.0, np.nan, 1.0])}]), targets()
    )
    with pytest.raises(Diverged, match="loss became nan at step 3 of 12"):
        fit(make_step(quadratic(variable), Adam([variable])), batches, SCHEDULE, lambda *_: None, seed=0)


def test_a_head_without_gradient_stays_where_it_is():
    used, unused = tf.Variable([1.0, 2.0, 3.0], name="used"), tf.Variable([5.0], name="unused")
    step = make_step(quadratic(used), Adam([used, unused]))
    fit(step, targets(), SCHEDULE, lambda *_: None, seed=0)
    assert unused.numpy() == 5.0


@pytest.fixture(scope="module")
def enformer_step():
    """One traced step of a toy Enformer with dropout: model, optimizer, step."""
    model = toy_model(heads={"human": 3})
    optimizer = Adam(model.trainable_variables)

    def loss(batch, is_training, key):
        return tf.reduce_mean(
            poisson(batch["target"], model(batch["sequence"], is_training, key)["human"])
        ), {}

    return model, optimizer, make_step(loss, optimizer)


def enformer_batches(start):
    for position in itertools.count(start):
        target = np.random.default_rng(position).gamma(1, 1, (1, 14, 3))
        yield {"sequence": toy_sequence(seed=position), "target": tf.constant(target, tf.float32)}


def test_every_variable_of_the_model_gets_a_gradient(enformer_step):
    _, optimizer, step = enformer_step
    before = [v.numpy() for v in optimizer.variables]
    schedule = Schedule(
        1, 3, 0, 1e-3
    )  # the attention output starts at zero: its inputs move from the second step
    fit(step, enformer_batches(0), schedule, lambda *_: None, seed=1)
    still = [v.name for v, b in zip(optimizer.variables, before, strict=True) if np.array_equal(v, b)]
    # The bias of a convolution in front of BatchNorm changes nothing, so its gradient may round to zero.
    assert not [name for name in still if not name.endswith("/b:0")]


def test_a_resumed_training_ends_with_the_same_bits(enformer_step):
    from enformer_core import initial

    model, optimizer, step = enformer_step
    schedule = Schedule(3, 2, 4, 1e-3)

    def restart():
        initial.initialize(model, 7)
        optimizer.reset()

    restart()
    fit(step, enformer_batches(0), schedule, lambda *_: None, seed=7)
    expected = [v.numpy() for v in model.variables]

    restart()
    fit(step, enformer_batches(0), Schedule(1, 3, 4, 1e-3), lambda *_: None, seed=7)
    weights, state = [v.numpy() for v in model.variables], optimizer.state()
    restart()
    fit(
        step, enformer_batches(9), Schedule(1, 2, 4, 1e-3), lambda *_: None, seed=3
    )  # something else in between
    for variable, value in zip(model.variables, weights, strict=True):
        variable.assign(value)
    optimizer.restore(state)
    fit(step, enformer_batches(3), schedule, lambda *_: None, seed=7, start=3)
    for variable, value in zip(model.variables, expected, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.name)


def test_an_epoch_may_be_the_last():
    variable = tf.Variable([0.0, 0.0, 0.0])
    seen = []
    result = fit(
        make_step(quadratic(variable), Adam([variable])),
        targets(),
        SCHEDULE,
        lambda *_: None,
        seed=0,
        end_of_epoch=lambda step: step == 8,
        after_step=seen.append,
    )
    assert result.step == 8 and seen == list(range(1, 9))
