"""Ten epochs of an activity head on stored embeddings against one pass of the trunk over the same windows.

    python benchmarks/head_training.py

`full`, 25,600 bp, batch 4, `trainable=head`. Counted are the embeddings computed and written, the head's compilation,
ten epochs that show each training window once, validation after each, and the predictions at the end. The reference is
the trunk on every window, compiled before, its answers thrown away.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from finetune_step import LENGTH, random_windows, tuner_of
from measuring import case_of, in_child, verdict

EPOCHS = 10
WINDOWS = 96
LIMIT = 1.3


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of one pass of the trunk, and of the whole training of a head."""
    import numpy as np

    from mlproject.embeddings import EmbeddingCache
    from mlproject.training import Schedule, fit

    windows = random_windows(case["windows"])
    rows = np.arange(len(windows))
    train, valid, test = (windows.in_folds([fold]) for fold in ("train", "valid", "test"))
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder), LENGTH // 128, 2 * 1536)
        tuner = tuner_of(windows, moving_blocks=0, embeddings=cache)
        tuner.embed(rows[:4])
        began = time.perf_counter()
        for start in range(0, len(rows), 4):
            tuner.embed(rows[start : start + 4])
        trunk = time.perf_counter() - began

        began = time.perf_counter()
        tuner.fill_embeddings()
        filled = time.perf_counter() - began
        tuner.compile()
        tuner.reset(seed=0)
        schedule = Schedule(EPOCHS, -(-len(train) // 4), 0, 1e-3)

        def validate(step: int) -> None:
            np.mean((tuner.predict(valid) - windows.targets(valid)[:, 0]) ** 2)

        fit(tuner.step, tuner.batches(train, 0, 0), schedule, lambda *_: None, seed=0, end_of_epoch=validate)
        tuner.predict(test)
        return {"trunk": trunk, "filled": filled, "all": time.perf_counter() - began}


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    found = in_child(__file__, {"windows": WINDOWS})
    if found is None:
        return 1
    print(
        f"{WINDOWS} windows: one pass of the trunk {found['trunk']:.0f} s; embeddings computed and written "
        f"{found['filled']:.0f} s, {EPOCHS} epochs and predictions {found['all'] - found['filled']:.0f} s more"
    )
    met = verdict("all / one pass of the trunk", found["all"] / found["trunk"], LIMIT)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
