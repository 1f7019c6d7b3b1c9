"""Time to the first training step after the imports: quarter width, 4 layers, 24,576 bp, XLA's compilation included.

    python benchmarks/first_step.py

From nothing, and again with what the first process left in the cache of compiled programs, as a second run of the same
command finds it. The published code takes 25 to 40 s on two cores. The reference is the step itself: how many steps
the start costs.
"""

import json
import sys
import tempfile
import time
from typing import Any

import training_step
from measuring import case_of, in_child, verdict

CASE = {
    "preset": "quarter",
    "length": 24_576,
    "config": {"num_transformer_layers": 4},
    "times": 3,
}
LIMIT_SECONDS = 12


def measure(case: dict[str, Any]) -> dict[str, float]:
    """As a training step, in a process that uses the cache of compiled programs."""
    import os

    from mlproject import compilation

    os.environ[compilation.FOLDER_VARIABLE] = case["cache"]
    began = time.perf_counter()
    compilation.enable()
    enabling_s = time.perf_counter() - began
    found = training_step.measure(case)
    return {**found, "first_s": found["first_s"] + enabling_s}


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    with tempfile.TemporaryDirectory() as cache:
        fresh, cached = (in_child(__file__, {**CASE, "cache": cache}) for _ in range(2))
    if fresh is None or cached is None:
        return 1
    if fresh["loss"] != cached["loss"]:
        print(f"the loaded program has another loss: {cached['loss']} instead of {fresh['loss']}")
        return 1
    print(
        f"with the cache: {cached['first_s']:.1f} s, {cached['first_s'] / fresh['first_s']:.2f} of a start without"
    )
    print(f"a start costs {fresh['first_s'] / fresh['seconds']:.0f} steps of {fresh['seconds']:.2f} s")
    return 0 if verdict("first step", fresh["first_s"], LIMIT_SECONDS, " s") else 1


if __name__ == "__main__":
    sys.exit(main())
