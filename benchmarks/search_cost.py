"""A search of thirty trials against one pass of the trunk, and against trials that run the trunk in every step.

    python benchmarks/search_cost.py

`quarter`, 25,600 bp, 200 windows on 25 made-up constructs whose activity follows their GC content; 15 of them are
trained on. `search_head` runs thirty trials of ten epochs with its default space, sampler, pruner and workers; counted
are the embeddings (compilation included) and all trials, from the command's own metrics. The reference is the trunk on
every window, compiled before, its answers thrown away.

What trials cost that run the trunk in every step is extrapolated: the time of a step and of a prediction with the
trunk, each measured a few times, for as many epochs as the search's trials had before they were pruned.

Then twelve trials that are not pruned, once with one worker and once with two, embeddings and parameters the same.
"""

import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measuring import case_of, command, fastest, in_child, verdict

LENGTH, CONSTRUCTS, SAMPLES, BATCH = 25_600, 25, 8, 4
FOLDS = ["train"] * 3 + ["valid", "test"]
TRIALS, EPOCHS = 30, 10
PASSES_LIMIT, TIMES_LIMIT, WORKERS_LIMIT = 2.5, 20, 1.6
HOW = ["--preset", "quarter", "--window", str(LENGTH), "--samples", str(SAMPLES), "--batch_size", str(BATCH)]


def write_constructs(path: Path) -> None:
    """A table of random constructs, longer than a window, whose activity follows their GC content."""
    import numpy as np

    from mlproject.data.constructs import Construct, as_table

    random = np.random.default_rng(0)
    constructs = []
    for index in range(CONSTRUCTS):
        gc = random.uniform(0.3, 0.7)
        probability = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
        codes = random.choice(4, LENGTH + 1000, p=probability)
        letters = np.frombuffer(b"ACGT", np.uint8)[codes].tobytes().decode()
        activity = float(3 * (gc - 0.3) + 0.1 * random.random())
        fold = FOLDS[index % len(FOLDS)]
        constructs.append(Construct(index, f"c{index}", "g", f"c{index}", fold, activity, (), letters))
    path.write_text(as_table(constructs), encoding="utf-8")


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of one pass of the trunk, and of a step and a prediction that run it."""
    import numpy as np

    from enformer_core.heads import ACTIVITY_HEADS
    from mlproject import weights
    from mlproject.data.construct_windows import ConstructWindows
    from mlproject.data.constructs import read_constructs
    from mlproject.tuning import Tuner

    windows = ConstructWindows(read_constructs(case["data"]), LENGTH, samples=SAMPLES, stride=1, seed=42)
    tuner = Tuner(
        weights.untrained("quarter", LENGTH, 42),
        ACTIVITY_HEADS["single_64_64"],
        windows,
        moving_blocks=0,
        lora_rank=0,
        fixed_norms=True,
        batch_size=BATCH,
        clip_norm=1.0,
    )
    rows = np.arange(len(windows))
    tuner.embed(rows[:2])
    began = time.perf_counter()
    tuner.embed(rows)
    trunk = time.perf_counter() - began
    tuner.compile()
    batch = next(tuner.batches(windows.in_folds(["train"]), 0, 0))
    key = np.zeros(2, np.int32)
    return {
        "windows": len(windows),
        "train": len(windows.in_folds(["train"])),
        "valid": len(windows.in_folds(["valid"])),
        "trunk": trunk,
        "step": fastest(lambda: tuner.step(batch, 0.0, key)["loss"].numpy(), 5),
        "predict": fastest(lambda: tuner.predict(rows[:BATCH]), 5),
    }


def metrics_of(folder: Path, experiment: str) -> dict[str, float]:
    """The metrics of the only parent run of an experiment, and `epochs`, what its trials have reported together."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        runs = "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
        parents = "SELECT run_uuid FROM tags WHERE key = 'command'"
        latest = (
            f"SELECT key, value FROM latest_metrics WHERE run_uuid IN ({runs}) AND run_uuid IN ({parents})"
        )
        found = dict(store.execute(latest, [experiment]).fetchall())
        trials = "SELECT run_uuid FROM tags WHERE key = 'trial'"
        reports = "SELECT COUNT(*) FROM metrics WHERE key = 'validation/loss'"
        reports += f" AND run_uuid IN ({runs}) AND run_uuid IN ({trials})"
        found["epochs"] = store.execute(reports, [experiment]).fetchone()[0]
    return found


def search(folder: Path, experiment: str, *words: str) -> dict[str, float]:
    """Runs `search_head` in a folder and returns its `metrics_of`."""
    command(folder, "search_head", "--data", "constructs.tsv", "--experiment", experiment, "--study", experiment,
        "--trial_epochs", str(EPOCHS), "--epochs", "1", *HOW, *words)  # fmt: skip
    return metrics_of(folder, experiment)


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(measure(case)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
        write_constructs(folder / "constructs.tsv")
        found = in_child(__file__, {"data": str(folder / "constructs.tsv")})
        if found is None:
            return 1
        searched = search(folder, "searched", "--trials", str(TRIALS))
        alike = ["--trials", "12", "--sampler", "random", "--pruner", "none", "--published_first", "false"]
        one, two = (search(folder, f"by_{n}", "--workers", str(n), *alike) for n in (1, 2))
    met = list(_verdicts(found, searched, one, two))
    return 0 if all(met) else 1


def _verdicts(
    found: dict[str, float], searched: dict[str, float], one: dict[str, float], two: dict[str, float]
) -> Iterable[bool]:
    total = searched["seconds/embeddings"] + searched["seconds/trials"]
    print(
        f"{found['windows']:.0f} windows: one pass of the trunk {found['trunk']:.1f} s; embeddings computed and "
        f"written {searched['seconds/embeddings']:.1f} s; {TRIALS} trials ({searched['trials/complete']:.0f} complete, "
        f"{searched['trials/pruned']:.0f} pruned, {searched['epochs']:.0f} epochs) {searched['seconds/trials']:.1f} s"
    )
    yield verdict("search / one pass of the trunk", total / found["trunk"], PASSES_LIMIT)
    steps, predictions = -(-found["train"] // BATCH), -(-found["valid"] // BATCH)
    epoch = steps * found["step"] + predictions * found["predict"]
    print(
        f"with the trunk: a step {found['step']:.2f} s, a prediction {found['predict']:.2f} s, so an epoch "
        f"{epoch:.0f} s; {searched['epochs']:.0f} epochs {searched['epochs'] * epoch / 60:.0f} min (extrapolated)"
    )
    times = searched["epochs"] * epoch / total
    print(f"times faster than trials with the trunk: {times:.0f} (limit {TIMES_LIMIT} or more)")
    yield times >= TIMES_LIMIT
    print(f"12 whole trials: one worker {one['seconds/trials']:.1f} s, two {two['seconds/trials']:.1f} s")
    faster = one["seconds/trials"] / two["seconds/trials"]
    print(f"times faster with two workers: {faster:.2f} (limit {WORKERS_LIMIT:g} or more)")
    yield faster >= WORKERS_LIMIT


if __name__ == "__main__":
    sys.exit(main())
