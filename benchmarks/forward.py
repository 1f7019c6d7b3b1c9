"""One forward pass of the full model at full length, beside the arithmetic it needs and the PyTorch port.

    python benchmarks/forward.py

196,608 bp, batch 1, both heads, float32. The limit is a multiple of the time that the matrix products of the published
model would take at the rate of one large product, measured in the same run.
"""

import json
import sys
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
    verdict,
)

LENGTH = 196_608
LIMIT = 1.35


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of a compiled forward pass, peak memory, the rate of products and the arithmetic of the pass."""
    import tensorflow as tf

    from enformer_core.enformer import Enformer
    from enformer_core.saved_model import Predictor

    config = config_of(case)
    predictor = Predictor(Enformer(config))
    sequence = tf.constant(one_hot(config.sequence_length))

    def forward() -> None:
        predictor.predict(sequence, "human").numpy()  # one program gives both heads

    forward()
    return {
        "seconds": fastest(forward, case["times"]),
        "peak_gb": peak_gb(),  # before the product, whose matrices are not the model's
        "rate": matrix_rate(),
        "gflop": forward_gflop(config),
    }


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    heads = {"human": 5313, "mouse": 1643}
    ours = in_child(__file__, {"preset": "full", "length": LENGTH, "heads": heads, "times": 2})
    port = in_child(
        pytorch_port.__file__,
        {"kind": "forward", "length": LENGTH, "times": 2},
        pytorch_port.python(),
    )
    if ours is None or port is None:
        return 1
    floor = ours["gflop"] / ours["rate"]
    print(
        f"reference: {ours['gflop']:.0f} GFLOP at {ours['rate']:.0f} GFLOP/s, "
        f"the rate of a 4096 x 4096 product: {floor:.1f} s"
    )
    print(f"ours: {ours['seconds']:.1f} s, peak {ours['peak_gb']:.1f} GB")
    print(
        f"PyTorch port: {port['seconds']:.1f} s, {port['seconds'] / floor:.2f} of the reference, "
        f"peak {port['peak_gb']:.1f} GB"
    )
    print(f"ours / PyTorch port: {ours['seconds'] / port['seconds']:.2f}")
    return 0 if verdict("ours / reference", ours["seconds"] / floor, LIMIT) else 1


if __name__ == "__main__":
    sys.exit(main())
