import numpy as np
import tensorflow as tf

from enformer_core import initial
from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer, variant
from enformer_core.heads import ActivityHeadConfig
from enformer_core.saved_model import Predictor
from toys import toy_config, toy_model, toy_sequence


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
