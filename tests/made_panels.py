"""Made-up signal of one track, for tests of its figure and of its plot."""

import numpy as np

from mlproject.reporting import SignalPanel

RANDOM = np.random.default_rng(0)


def panel(bins=50, **changes):
    values = {
        "label": "DNASE:made up",
        "chrom": "chr1",
        "start": 1_000_064,
        "bin_size": 128,
        "predicted": RANDOM.gamma(1.0, 1.0, bins),
    }
    return SignalPanel(**{**values, **changes})
