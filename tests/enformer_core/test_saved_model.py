import numpy as np
import tensorflow as tf

from enformer_core import initial
from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer, variant
from enformer_core.heads import ActivityHeadConfig
from enformer_core.perceiver import PADDING, UNKNOWN, Perceiver
from enformer_core.saved_model import Predictor
from toys import toy_config, toy_model, toy_perceiver_config, toy_sequence


def test_loaded_model_takes_one_hot_whatever_the_variant(tmp_path):
    model = Enformer(variant(toy_config(), "all"))
    predictor = Predictor(model)
    predictor.save(tmp_path / "both")
    loaded = tf.saved_model.load(str(tmp_path / "both"))
    x = toy_sequence(batch=2)
    expected = model(x, is_training=False)
    served = loaded.signatures["serving_default"](sequence=x)
    for head in ("human", "mouse"):
        for answer in (loaded(x)[head], served[head], predictor.predict(x, head)):
            # eager, graph and XLA order their sums differently
            np.testing.assert_allclose(answer, expected[head], rtol=1e-4, atol=1e-6)


def test_one_head_answers_with_one_tensor_and_follows_new_weights(tmp_path):
    model = Enformer(toy_config(heads={"human": 3}))
    predictor, x = Predictor(model), toy_sequence()
    before = predictor.predict(x, "human")
    initial.initialize(model, 9)
    expected = model(x, is_training=False)["human"]
    assert not np.allclose(before, expected)
    np.testing.assert_allclose(predictor.predict(x, "human"), expected, rtol=1e-4, atol=1e-6)
    predictor.save(tmp_path / "one")
    loaded = tf.saved_model.load(str(tmp_path / "one"))
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-4, atol=1e-6)
    assert list(loaded.signatures["serving_default"].structured_outputs) == ["human"]


def test_an_activity_model_answers_with_one_number_for_each_sequence(tmp_path):
    model, x = ActivityModel(toy_model(), ActivityHeadConfig(1, 4, 4)), toy_sequence(batch=2)
    predictor, expected = Predictor(model), model(x, is_training=False)["activity"]
    assert expected.shape == (2, 1)
    predictor.save(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.signatures["serving_default"](sequence=x)
    for answer in (predictor.predict(x, "activity"), loaded(x), served["activity"]):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)


def test_a_loaded_model_has_gradients(tmp_path):
    """For contribution scores: layers tie gradients together in a way of their own, which has to travel."""
    model, x = Enformer(toy_config(heads={"human": 3})), toy_sequence()
    Predictor(model).save(tmp_path / "model")
    gradients = []
    for function in (tf.saved_model.load(str(tmp_path / "model")), lambda x: model(x, False)["human"]):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(function(x))
        gradients.append(tape.gradient(y, x))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4 * np.abs(gradients[0]).max())


def test_a_perceiver_answers_with_the_activity_in_each_cell_type(tmp_path):
    model = Perceiver(toy_perceiver_config(activity_mean=2.0, activity_sd=3.0), seed=1)
    codes = np.random.default_rng(0).integers(0, 4, (3, 9), np.int32)
    codes[1, 6:], codes[1, 2], codes[2, 0], codes[2, -1] = PADDING, UNKNOWN, UNKNOWN, PADDING
    x = tf.constant(np.eye(7, 4, dtype=np.float32)[codes])  # neither N nor the end is any of the four
    expected = np.stack([model.activity(codes, np.full(3, cell, np.int32)) for cell in (0, 1)], 1)
    assert np.ptp(expected, 0).min() > 0.01 and np.abs(np.diff(expected)).min() > 0.01
    predictor = Predictor(model)
    predictor.save(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.signatures["serving_default"](sequence=x)
    assert list(served) == ["activity"]
    for answer in (model(x)["activity"], predictor.predict(x, "activity"), loaded(x), served["activity"]):
        # eager, graph and XLA order their sums differently
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loaded(x[1:2]), expected[1:2], rtol=1e-5, atol=1e-5)
    shorter = model.activity(codes[1:2, :6], np.zeros(1, np.int32))  # the end of a sequence changes nothing
    np.testing.assert_allclose(shorter, expected[1:2, 0], rtol=1e-5, atol=1e-5)
