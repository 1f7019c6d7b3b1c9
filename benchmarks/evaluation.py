"""What correlating the predictions of a window costs beside predicting them.

    python benchmarks/evaluation.py

The model is `full`: 196,608 bp in, 896 bins x 5,313 tracks out, one window a batch, compiled as in evaluation, its
weights untrained. Time to compile is no part of a forward pass. An update is the mean of five, the first of which
touches its memory for the first time.
"""

import sys
import time

import numpy as np

from measuring import ROOT, fastest, one_hot, verdict

UPDATES = 5
LIMIT_PERCENT = 2


def main() -> int:
    sys.path.insert(0, str(ROOT / "src"))
    from enformer_core.enformer import Enformer, preset
    from enformer_core.metrics import TrackCorrelation
    from enformer_core.saved_model import Predictor

    config = preset("full", heads={"human": 5313})
    predictor = Predictor(Enformer(config))
    sequence = one_hot(config.sequence_length)
    prediction = predictor.predict(sequence, "human").numpy()  # compiles
    forward = fastest(lambda: predictor.predict(sequence, "human").numpy(), 1)
    target = np.random.default_rng(0).gamma(1, 1, prediction.shape).astype(np.float32)
    correlation = TrackCorrelation(prediction.shape[-1])
    began = time.perf_counter()
    for _ in range(UPDATES):
        correlation.update(target, prediction)
    update = (time.perf_counter() - began) / UPDATES
    print(f"forward pass {forward:.2f} s, update {1000 * update:.0f} ms")
    name = "an update of the correlations, of the time of a forward pass"
    return 0 if verdict(name, 100 * update / forward, LIMIT_PERCENT, "%") else 1


if __name__ == "__main__":
    sys.exit(main())
