"""A SavedModel in the TF-Hub form whose answer says what stood in each bin."""

import numpy as np
import pytest
import tensorflow as tf

from mlproject.tensorhub import TensorHubModel
from toys import toy_sequence


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Head human: how often A, C and G stand in each bin; head mouse: how often T does."""

    class Inner(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 393_216, 4], tf.float32)])
        def predict_on_batch(self, sequence):
            counts = tf.reduce_sum(tf.reshape(sequence, [-1, 3072, 128, 4]), 2)[:, 1088:-1088]
            return {"human": counts[..., :3], "mouse": counts[..., 3:]}

    outer = tf.Module()
    outer.model = Inner()
    folder = tmp_path_factory.mktemp("hub") / "enformer"
    tf.saved_model.save(outer, str(folder))
    return TensorHubModel(folder)


def counts(sequence):
    """The same counts, of the bins of a sequence itself."""
    return np.reshape(sequence, [len(sequence), -1, 128, 4]).sum(2)


def test_heads_are_found(model):
    assert model.heads == {"human": 3, "mouse": 1}


@pytest.mark.parametrize("bins", [1, 2, 15, 16, 895, 896])
def test_bins_are_those_of_the_sequence(model, bins):
    sequence = toy_sequence(2, 128 * bins).numpy()
    found = model.predict(sequence, "human")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, counts(sequence)[..., :3])
    np.testing.assert_array_equal(model.predict(sequence, "mouse"), counts(sequence)[..., 3:])


@pytest.mark.parametrize(
    ("bins", "wanted"),
    [(1536, 896), (897, 896), (897, 895), (3071, 896), (3072, 895), (3072, 896), (17, 5), (17, 4), (16, 5)],
)
def test_the_central_bins_of_a_longer_sequence(model, bins, wanted):
    sequence = toy_sequence(1, 128 * bins).numpy()
    first = (bins - wanted) // 2
    found = model.predict(sequence, "mouse", wanted)
    assert found.shape == (1, wanted, 1)
    np.testing.assert_array_equal(found, counts(sequence)[:, first : first + wanted, 3:])


@pytest.mark.parametrize(
    ("length", "head", "wanted", "said"),
    [
        (100, "human", None, "multiples of 128 bp"),
        (128 * 897, "human", None, r"897 bins of a sequence of 114816 bp: .* the central 896 bins"),
        (393_216 + 128, "human", 896, "896 bins of a sequence of 393344 bp"),
        (1024, "human", 9, "a target of 9 bins"),
        (1024, "fly", None, "no head 'fly'; it has human, mouse"),
    ],
)
def test_what_it_cannot_predict(model, length, head, wanted, said):
    with pytest.raises(ValueError, match=said):
        model.predict(np.zeros([1, length, 4], np.float32), head, wanted)


def test_a_head_of_other_bins_is_refused(model, monkeypatch):
    monkeypatch.setattr(model, "_predict", lambda padded: {"human": np.zeros([len(padded), 895, 3])})
    with pytest.raises(ValueError, match=r"head human is \(1, 895, 3\); expected \(1, 896, tracks\)"):
        model.predict(np.zeros([1, 1024, 4], np.float32), "human")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*: not a SavedModel, or a damaged one \([^\n]*\)$"):
        TensorHubModel(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"other: a SavedModel without model\.predict_on_batch"):
        TensorHubModel(tmp_path / "other")
    (tmp_path / "other" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    with pytest.raises(ValueError, match=r"not a SavedModel, or a damaged one \([^\n]*\)$"):
        TensorHubModel(tmp_path / "other")
