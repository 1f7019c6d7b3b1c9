"""One training step at 24,576 bp, beside its arithmetic, the PyTorch port and pooling as published.

    python benchmarks/training_step.py

Human head, batch 1, Poisson loss, Adam, float32. The published pooling applies its linear layer to `[B, L/2, 2, C]`,
whose weight gradient TensorFlow builds once per position: at full width it does not fit in 24 GiB, so it is measured at
a quarter of the width. Each case runs in a process of its own, so that its peak memory is its own.
"""

import json
import sys
import time
from typing import Any

import pytorch_port
from measuring import (
    case_of,
    config_of,
    fastest,
    forward_gflop,
    in_child,
    matrix_rate,
    one_hot,
    peak_gb,
    step_floor,
    verdict,
)

LENGTH = 24_576
ARITHMETIC_LIMIT = 1.5  # of three forward passes' products
PORT_LIMIT = 0.5
MEMORY_LIMIT_GB = 6


def poisson_of(model: Any) -> Any:
    """The loss of the human head, as `make_step` takes it."""
    import tensorflow as tf

    from enformer_core.losses import poisson

    def loss(batch, is_training, key):
        prediction = model(batch["sequence"], is_training, key)["human"]
        return tf.reduce_mean(poisson(batch["target"], prediction)), {}

    return loss


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step and of the first call, peak memory, and the arithmetic of a forward pass."""
    import numpy as np
    import tensorflow as tf

    from enformer_core import layers
    from enformer_core.enformer import Enformer
    from mlproject import compilation
    from mlproject.training import Adam, make_step

    if case.get("published"):

        def pool(self, x):
            self._initialize(x.shape[-1])
            self._logit._initialize(x.shape[-1])
            x = tf.reshape(x, [-1, x.shape[1] // 2, 2, x.shape[2]])
            return tf.reduce_sum(x * tf.nn.softmax(tf.matmul(x, self._logit.w), axis=2), axis=2)

        layers.SoftmaxPool.__call__ = pool
    config = config_of(case)
    began = time.perf_counter()
    model = Enformer(config, recompute="never" if case.get("published") else "auto")
    optimizer = Adam(model.trainable_variables)

    step = make_step(poisson_of(model), optimizer, compiled=not case.get("published"))
    target = np.random.default_rng(0).gamma(1, 1, (1, config.num_bins, config.heads["human"]))
    batch = {
        "sequence": tf.constant(one_hot(config.sequence_length)),
        "target": tf.constant(target, tf.float32),
    }
    with compilation.compiling():
        found = float(step(batch, 1e-4, np.array([0, 1]))["loss"])
    first = time.perf_counter() - began
    seconds = fastest(lambda: float(step(batch, 1e-4, np.array([0, 2]))["loss"]), case["times"])
    return {
        "first_s": first,
        "seconds": seconds,
        "peak_gb": peak_gb(),  # before the product, whose matrices are not the model's
        "rate": matrix_rate(),
        "gflop": forward_gflop(config),
        "loss": found,
    }


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    full = in_child(__file__, {"preset": "full", "length": LENGTH, "times": 3})
    port = in_child(
        pytorch_port.__file__, {"kind": "step", "length": LENGTH, "times": 3}, pytorch_port.python()
    )
    quarter = {"preset": "quarter", "length": LENGTH, "config": {"num_transformer_layers": 4}, "times": 3}
    fast, published = in_child(__file__, quarter), in_child(__file__, {**quarter, "published": True})
    if full is None or port is None or fast is None or published is None:
        return 1
    print(
        f"quarter, 4 layers: {fast['seconds']:.2f} s, {fast['peak_gb']:.1f} GB; pooling as published, without XLA: "
        f"{published['seconds']:.2f} s, {published['peak_gb']:.1f} GB; ratios "
        f"{fast['seconds'] / published['seconds']:.2f} and {fast['peak_gb'] / published['peak_gb']:.2f}"
    )
    floor = step_floor(full)
    print(f"PyTorch port: {port['seconds']:.1f} s, peak {port['peak_gb']:.1f} GB")
    print(f"full: {full['seconds']:.1f} s, peak {full['peak_gb']:.1f} GB")
    met = [
        verdict("full / reference", full["seconds"] / floor, ARITHMETIC_LIMIT),
        verdict("full / PyTorch port", full["seconds"] / port["seconds"], PORT_LIMIT),
        verdict("full, peak memory", full["peak_gb"], MEMORY_LIMIT_GB, " GB"),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
