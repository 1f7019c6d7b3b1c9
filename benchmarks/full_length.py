"""A training step of the full model at 196,608 bp, batch 1, Adam: that it fits, and what it costs.

    python benchmarks/full_length.py

The published code asks for 232 GB in one buffer of this step. `recompute` is left to choose by length.
"""

import sys

import training_step
from measuring import in_child, step_floor, verdict

LENGTH = 196_608
MEMORY_LIMIT_GB = 18


def main() -> int:
    found = in_child(training_step.__file__, {"preset": "full", "length": LENGTH, "times": 1})
    if found is None:
        return 1
    floor = step_floor(found)
    print(
        f"a step: {found['seconds']:.1f} s, {found['seconds'] / floor:.2f} of the reference; "
        f"loss {found['loss']:.4f}"
    )
    return 0 if verdict("peak memory", found["peak_gb"], MEMORY_LIMIT_GB, " GB") else 1


if __name__ == "__main__":
    sys.exit(main())
