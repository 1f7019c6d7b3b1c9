"""Trunk embeddings that stand in for letters are those of the sequence in a window of whole bins."""

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import dna
from enformer_core.perceiver import PADDING, Perceiver
from mlproject import weights
from mlproject.joint_trunk import JointTrunk, TrunkTokens, window
from toys import toy_perceiver_config


@pytest.mark.parametrize("longest, expected", [(1, 128), (128, 128), (129, 256), (1_000, 1_024)])
def test_a_window_is_whole_bins(longest, expected):
    assert window(longest) == expected


def test_tokens_are_the_trunk_of_the_sequence_with_n_behind_it(tmp_path):
    enformer = weights.untrained("tiny", 256, 0)
    tokens = TrunkTokens(enformer, tmp_path)
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (3, 150)).astype(np.uint8)
    codes[1, 100:] = PADDING
    codes[2, 5] = 4
    tokens.fill(codes)
    one_hot = np.zeros((3, 256, 4), np.float32)
    one_hot[:, :150] = dna.ONE_HOT[np.minimum(codes, 4)]
    expected = enformer.trunk(tf.constant(one_hot), is_training=False).numpy()
    found = tokens.read(codes[[2, 0]])
    # what is kept is float16
    np.testing.assert_allclose(found, expected[[2, 0]], rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert found.shape == (2, 2, tokens.channels)
    assert JointTrunk(tokens, None).channels == tokens.channels
    assert JointTrunk(tokens, None).digest == tokens.digest
    assert JointTrunk(None, None).channels == 0
    other = TrunkTokens(weights.untrained("tiny", 256, 1), tmp_path)
    assert other.digest != tokens.digest


def test_a_model_of_trunk_embeddings_refuses_letters_alone():
    model = Perceiver(toy_perceiver_config(trunk_channels=6))
    codes, cell = tf.zeros([1, 5], tf.int32), tf.zeros([1], tf.int32)
    with pytest.raises(ValueError, match="reads trunk embeddings of 6 channels, and letters alone are given"):
        model.activity(codes, cell)
    with pytest.raises(ValueError, match="letters alone"):
        model.coverage(codes, tf.zeros([1, 5]), cell)
    assert np.isfinite(model.activity(codes, cell, trunk=tf.zeros([1, 1, 6]))).all()
    assert model.nucleotides(codes, tf.zeros([1]), cell).shape == (1, 5, 4)
