"""One fine-tuning step on constructs: `full`, 25,600 bp, batch 4, all weights of trunk and activity head, float32.

    python benchmarks/finetune_step.py

BatchNorm averages are fixed, as by default. The reference is the same step composed from the PyTorch port: its trunk,
with normalisations in inference mode, the same head in PyTorch, mean squared error, Adam. Each case runs in a process
of its own.
"""

import json
import sys
from typing import Any

import pytorch_port
from measuring import case_of, fastest, in_child, peak_gb, verdict

LENGTH = 25_600
BATCH = 4
MEMORY_LIMIT_GB = 20
PORT_LIMIT = 0.5


def random_windows(count: int) -> Any:
    """Windows of 25,600 bp, one on each of so many random constructs."""
    import numpy as np

    from mlproject.data.construct_windows import ConstructWindows
    from mlproject.data.constructs import Construct

    random = np.random.default_rng(0)
    constructs = []
    for index in range(count):
        letters = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, LENGTH)].tobytes().decode()
        fold = ("train", "valid", "test")[index % 8 // 6 + index % 8 // 7]  # 6 : 1 : 1
        constructs.append(
            Construct(index, f"c{index}", "g", f"c{index}", fold, float(random.random()), (), letters)
        )
    return ConstructWindows(constructs, LENGTH, samples=1, stride=1, seed=0)


def tuner_of(windows: Any, **changes: Any) -> Any:
    """A tuner of the full model with the head of the published configuration."""
    from enformer_core.enformer import Enformer, preset
    from enformer_core.heads import ACTIVITY_HEADS
    from mlproject.tuning import Tuner

    enformer = Enformer(preset("full", sequence_length=LENGTH, target_length=None))
    how = {"moving_blocks": None, "lora_rank": 0, "fixed_norms": True, "batch_size": BATCH, "clip_norm": 1.0}
    return Tuner(enformer, ACTIVITY_HEADS["single_64_64"], windows, **{**how, **changes})


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step after the first, and peak memory."""
    import numpy as np

    windows = random_windows(BATCH)
    tuner = tuner_of(windows)
    batch = next(tuner.batches(np.arange(BATCH), 0, 0))

    def step() -> float:
        return float(tuner.step(batch, 1e-5, np.array([0, 1], np.int32))["loss"])

    step()
    return {"seconds": fastest(step, case["times"]), "peak_gb": peak_gb()}


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    ours = in_child(__file__, {"times": 3})
    port_case = {"kind": "finetune", "length": LENGTH, "batch": BATCH, "times": 2}
    port = in_child(pytorch_port.__file__, port_case, pytorch_port.python())
    if ours is None or port is None:
        return 1
    print(f"PyTorch port: {port['seconds']:.1f} s, peak {port['peak_gb']:.1f} GB")
    print(f"ours: {ours['seconds']:.1f} s, peak {ours['peak_gb']:.1f} GB")
    met = [
        verdict("ours / PyTorch port", ours["seconds"] / port["seconds"], PORT_LIMIT),
        verdict("peak memory", ours["peak_gb"], MEMORY_LIMIT_GB, " GB"),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
