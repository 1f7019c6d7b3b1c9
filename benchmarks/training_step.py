"""Time and peak memory of one training step: ours against softmax pooling as published.

    python benchmarks/training_step.py

The published pooling applies its linear layer to `[B, L/2, 2, C]`, whose weight gradient TensorFlow builds once per
position; ours is one product of the difference of neighbours. Each case runs in a process of its own, so that its peak
memory is its own. The published pooling at full width does not fit in 24 GiB, so full width has no reference.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

CASES = {
    "quarter, 4 layers, 24,576 bp, pooling as published": {
        "preset": "quarter",
        "layers": 4,
        "published": True,
    },
    "quarter, 4 layers, 24,576 bp": {"preset": "quarter", "layers": 4},
    "full, 11 layers, 24,576 bp": {"preset": "full", "layers": 11, "limit_gb": 10},
}


def measure(size: str, layers: int, published: bool, steps: int = 3) -> dict[str, float]:
    """Seconds of a step (the fastest) and of the first call, and the peak resident memory of this process in GB."""
    import numpy as np
    import tensorflow as tf

    from enformer_core import layers as blocks
    from enformer_core.enformer import Enformer, preset
    from enformer_core.losses import poisson
    from mlproject.training import Adam, make_step

    if published:

        def pool(self, x):
            self._initialize(x.shape[-1])
            x = tf.reshape(x, [-1, x.shape[1] // 2, 2, x.shape[2]])
            return tf.reduce_sum(x * tf.nn.softmax(self._logit(x), axis=2), axis=2)

        blocks.SoftmaxPool.__call__ = pool
    config = preset(
        size, heads={"human": 5313}, sequence_length=24_576, target_length=None, num_transformer_layers=layers
    )
    model = Enformer(config)
    optimizer = Adam(model.trainable_variables)

    def loss(batch, is_training, key):
        return tf.reduce_mean(
            poisson(batch["target"], model(batch["sequence"], is_training, key)["human"])
        ), {}

    step = make_step(loss, optimizer, compiled=not published)
    random = np.random.default_rng(0)
    batch = {
        "sequence": tf.constant(np.eye(4, dtype=np.float32)[random.integers(0, 4, (1, 24_576))]),
        "target": tf.constant(random.gamma(1, 1, (1, 192, 5313)), tf.float32),
    }
    seconds = []
    for count in range(steps + 1):
        began = time.perf_counter()
        float(step(batch, 1e-4, np.array([0, count]))["loss"])
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"step_s": min(seconds[1:]), "first_s": seconds[0], "peak_gb": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    case = parser.parse_args().case
    if case:
        chosen = json.loads(case)
        print(json.dumps(measure(chosen["preset"], chosen["layers"], chosen.get("published", False))))
        return 0
    reference = None
    met = True
    for name, chosen in CASES.items():
        words = [sys.executable, __file__, "--case", json.dumps(chosen)]
        ended = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        )
        if ended.returncode:
            print(f"{name}: ended with {ended.returncode}")
            met = False
            continue
        found = json.loads(ended.stdout.splitlines()[-1])
        line = f"{name}: step {found['step_s']:.2f} s, first {found['first_s']:.1f} s, peak {found['peak_gb']:.1f} GB"
        if chosen.get("published"):
            reference = found
            line += " (the reference)"
        elif chosen["preset"] == "quarter" and reference:
            ratios = [found[key] / reference[key] for key in ("step_s", "peak_gb")]
            line += f"; {ratios[0]:.2f} of the reference's time, {ratios[1]:.2f} of its memory"
        if limit := chosen.get("limit_gb"):
            met &= found["peak_gb"] <= limit
            line += f"; limit {limit} GB: {'met' if found['peak_gb'] <= limit else 'NOT met'}"
        print(line, flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
