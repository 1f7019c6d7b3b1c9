"""A prediction averaged over ten shifts against a single one: each window on its own, and with shared convolutions.

    python benchmarks/prediction_shifts.py

Batch 1, human head, float32, for three sizes. Ratios are to a single prediction of the same process, by the clock and
by processor time, which other work on the machine changes less. They have no limit; that the last window is predicted
as on its own has one. Arithmetic is counted as published.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from measuring import case_of, config_of, forward_gflop, in_child, one_hot, peak_gb, verdict

SHIFTS = 10
SIZES = (("quarter", 196_608), ("full", 24_576), ("full", 196_608))
LIMIT = 5.0  # 1e-5 of the largest value


class Timed(NamedTuple):
    """Seconds of a call, by the clock and of all processors, and what it returned."""

    clock: float
    processor: float
    returned: Any


def timed(call: Callable[[], Any]) -> Timed:
    """One call, measured."""
    clock, processor = time.perf_counter(), time.process_time()
    returned = call()
    return Timed(time.perf_counter() - clock, time.process_time() - processor, returned)


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Ratios of all windows to a single one, peak memory, arithmetic saved, and the difference of the last window."""
    import numpy as np

    from enformer_core.enformer import Enformer
    from enformer_core.shifts import ShiftedTrunk, products

    config = config_of(case)
    model, length = Enformer(config), config.sequence_length
    plain = ShiftedTrunk(model, length, 0, model.heads["human"])
    shared = ShiftedTrunk(model, length, SHIFTS, model.heads["human"])
    sequence = one_hot(length + SHIFTS)
    mean = np.zeros([1, config.num_bins, config.heads["human"]], np.float32)

    def single(shift: int = SHIFTS) -> np.ndarray:
        return next(plain(sequence[:, shift : shift + length])).numpy()

    def together() -> np.ndarray:
        if case["shared"]:
            signals = (signal.numpy() for signal in shared(sequence))
        else:
            signals = (single(shift) for shift in range(SHIFTS + 1))
        for last in signals:
            np.add(mean, last / (SHIFTS + 1), out=mean)
        return last

    if case["shared"]:  # compiles
        next(shared(sequence))
    else:
        single()
    every, peak = timed(together), peak_gb()
    expected = single()
    alone = [timed(single) for _ in range(2)]
    counts = [products(model.stages, length, SHIFTS, stages) for stages in (0, shared.shared)]
    return {
        "seconds": every.clock,
        "clock": every.clock / min(one.clock for one in alone),
        "processor": every.processor / min(one.processor for one in alone),
        "peak_gb": peak,
        "difference": float(np.abs(every.returned - expected).max() / expected.max()),
        "stages": shared.shared,
        "saved": 2 * (counts[0] - counts[1]) / 1e9 / ((SHIFTS + 1) * forward_gflop(config)),
    }


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    met = []
    for preset, length in SIZES:
        case = {"preset": preset, "length": length}
        plain, shared = (in_child(__file__, {**case, "shared": way}) for way in (False, True))
        if plain is None or shared is None:
            return 1
        print(f"{preset}, {length:,} bp, {SHIFTS} shifts over a single prediction:")
        for way, found in (("each window on its own", plain), ("shared", shared)):
            print(
                f"  {way}: {found['clock']:.1f} by the clock, {found['processor']:.1f} by processor time; "
                f"{found['seconds']:.1f} s, peak {found['peak_gb']:.1f} GB"
            )
        print(
            f"  saved of processor time: {1 - shared['processor'] / plain['processor']:.0%}, of the arithmetic by "
            f"counting: {shared['saved']:.0%}, {shared['stages']:.0f} stages shared"
        )
        met.append(verdict("  difference of the last window", shared["difference"] * 1e5, LIMIT, "e-5"))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
