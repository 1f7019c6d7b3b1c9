import numpy as np
import pytest
import tensorflow as tf

from enformer_core.contribution import contribution_scores
from toys import toy_model, toy_sequence


def test_contribution_scores_equal_finite_differences():
    model, x = toy_model(), toy_sequence()[0].numpy()
    x[100] = 0  # an N
    mask = np.zeros((14, 3), np.float32)
    mask[5:8, 1] = [1, 2, 1]
    scores = contribution_scores(model, x, mask, "human").numpy()
    assert scores.shape == (2048,) and scores[100] == 0

    def masked_mean(sequence):
        prediction = (
            model(tf.constant(sequence[None]), is_training=False)["human"][0].numpy().astype(np.float64)
        )
        return (prediction * mask).sum() / mask.sum()

    # The derivative along the whole input, by central differences: float32 leaves about three digits of it.
    step = 1e-2
    numeric = (masked_mean(x * (1 + step)) - masked_mean(x * (1 - step))) / (2 * step)
    assert scores.sum() == pytest.approx(numeric, rel=2e-2)
