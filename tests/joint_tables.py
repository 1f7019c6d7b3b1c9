"""A made-up MPRA table for tests of `joint`."""

import numpy as np
import pandas as pd

LETTERS = 40


def made_up(rows=90):
    """A table with activity in two columns, and chromosomes in its labels."""
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list("ACGT"), random.integers(30, LETTERS + 1))) for _ in range(rows)]
    share = np.array([(one.count("G") + one.count("C")) / len(one) for one in sequences])
    noise = random.normal(0, 0.05, (2, rows))
    return pd.DataFrame(
        {
            "label": [f"chr{n % 9 + 1}-{n}00-{n}40_WT" for n in range(rows)],
            "sequence": sequences,
            "log2_K562": 3 * share + noise[0],
            "log2_HepG2": 1 + 2 * share + noise[1],
        }
    ).round(4)
