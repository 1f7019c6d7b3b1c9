import numpy as np
import tensorflow as tf

from mlproject.evaluation import evaluate


def test_equals_numpy_over_all_windows():
    random = np.random.default_rng(0)
    sequences = random.normal(size=(7, 8, 4)).astype(np.float32)
    targets = random.normal(size=(7, 2, 3)).astype(np.float32)
    noise = random.normal(size=(4, 3)).astype(np.float32)

    def predict(sequence):
        return tf.tensordot(sequence[:, 3:5], noise, 1)

    batches = [
        {"sequence": tf.constant(sequences[i : i + 3]), "target": tf.constant(targets[i : i + 3])}
        for i in (0, 3, 6)
    ]
    found = evaluate(predict, batches, 3)
    predictions = (sequences[:, 3:5] @ noise).reshape(-1, 3).astype(np.float64)
    flat = targets.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(
        found.pearson_r, [np.corrcoef(flat[:, t], predictions[:, t])[0, 1] for t in range(3)], rtol=1e-6
    )
    expected = 1 - ((flat - predictions) ** 2).sum(0) / ((flat - flat.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(found.r2, expected, rtol=1e-6)
    assert found.n == 14
