import numpy as np
import tensorflow as tf

from enformer_core import checkpoints, initial
from enformer_core.heads import TrackHead, TrackHeadConfig
from enformer_core.saved_model import Predictor
from enformer_core.track_model import TrackModel
from toys import toy_model, toy_sequence

HEAD = TrackHeadConfig(4, hidden_size=5, num_heads=2, key_size=3, value_size=2)


def test_it_is_the_head_on_the_trunk_as_in_inference():
    enformer = toy_model(seed=2)
    x = toy_sequence(2)
    embedding = enformer.trunk(x, is_training=False)
    model = TrackModel(enformer, HEAD, "lab", seed=3)
    assert model.enformer is enformer and model.config.sequence_length == 2048
    for is_training in (False, True):
        outputs = model(x, is_training=is_training)
        assert list(outputs) == ["lab"] and outputs["lab"].shape == (2, 14, 4)
        np.testing.assert_array_equal(outputs["lab"], model.head(embedding))


def test_calls_in_training_leave_every_trunk_variable_as_it_is():
    model = TrackModel(toy_model(seed=2), HEAD, "lab")
    before = checkpoints.arrays(model.enformer.variables)
    model(toy_sequence(), is_training=True)
    after = checkpoints.arrays(model.enformer.variables)
    assert any("moving_mean" in name for name in before)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_heads_of_the_trunk_are_taken_off():
    enformer = toy_model()
    enformer.tracks["human"] = [{"identifier": "a"}] * 3
    model = TrackModel(enformer, HEAD, "human")
    assert enformer.heads == {} and enformer.config.heads == {} and model.config.enformer.heads == {}
    assert model.tracks == {} and model.tracks is enformer.tracks
    heads = [module for module in model.submodules if isinstance(module, TrackHead)]
    assert heads == [model.head] == list(model.heads.values())
    names = [initial.variable_name(variable) for variable in model.variables]
    assert len(set(names)) == len(names)
    assert sum("head_human" in name for name in names) == 7


def test_initial_weights_are_those_of_the_seed_and_no_trunk():
    first, again, other = (
        TrackModel(toy_model(seed=s), HEAD, "lab", seed=t) for s, t in ((0, 1), (5, 1), (0, 2))
    )
    one, two, three = (checkpoints.arrays(model.head.variables) for model in (first, again, other))
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(one[name], three[name]) for name in one)


def test_a_head_may_have_the_name_of_any_folder():
    model = TrackModel(toy_model(), HEAD, "sacCer3.v-1")
    assert list(model(toy_sequence(), is_training=False)) == ["sacCer3.v-1"]


def test_the_saved_model_answers_with_one_tensor(tmp_path):
    model, x = TrackModel(toy_model(), HEAD, "lab", seed=1), toy_sequence(2)
    predictor, expected = Predictor(model), model(x, is_training=False)["lab"]
    predictor.save(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.signatures["serving_default"](sequence=x)
    assert list(served) == ["lab"]
    for answer in (predictor.predict(x, "lab"), loaded(x), served["lab"]):
        # eager, graph and XLA order their sums differently
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)
