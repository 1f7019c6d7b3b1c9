"""What a search finds beyond the three published heads, on constructs that it never saw.

    python benchmarks/search_gain.py

`ablation` trains `vanilla` on the demo's tracks. On that trunk, which stays as it is, `search_head` runs thirty trials
on the demo's constructs, four folds of whole groups, one held out, with each of three seeds; its first three trials are
the published heads. `finetune --trainable head` then trains each published head on the budget of the search's best one.
Printed is the Pearson r of the constructs held out. The best published head is the one with the highest mean over
seeds, which nobody could know before; beside it is what its validation would have chosen for each seed.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from measuring import ROOT, command, verdict

SEEDS = (1, 2, 3)
HEADS = ("single_64_64", "single_64_128", "multi_64_64")
TRIALS, EPOCHS, HELD_OUT = 30, 20, "3"


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command(folder, "build_constructs", "--num_folds", "4", "--output", "constructs")
        command(folder, "ablation", "--variants", "vanilla", "--seeds", "42", "--organisms", "human,mouse",
            "--epochs", "20", "--steps_per_epoch", "50", "--valid_steps", "4")  # fmt: skip
        (checkpoint,) = folder.glob("mlruns/*/*/artifacts/checkpoint")
        alike = [
            "--data",
            "constructs",
            "--weights",
            str(checkpoint),
            "--samples",
            "4",
            "--epochs",
            str(EPOCHS),
        ]
        for seed in SEEDS:
            command(folder, "search_head", *alike, "--seed", str(seed), "--trials", str(TRIALS),
                "--held_out", HELD_OUT)  # fmt: skip
            for head in HEADS:
                command(folder, "finetune", *alike, "--seed", str(seed), "--head", head, "--trainable", "head",
                    "--steps_per_epoch", "0", "--folds", HELD_OUT, "--experiment", f"finetune_{head}")  # fmt: skip
        searched, validation, published = _found(folder)
    chosen = [published[max(of_seed, key=of_seed.__getitem__)][at] for at, of_seed in enumerate(validation)]
    for name, values in {**published, "published, chosen by validation": chosen, "search": searched}.items():
        print(f"{name}: Pearson r {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
    best = max(np.mean(values) for values in published.values())
    met = verdict("best published / search", best / np.mean(searched), 1)
    verdict("published, chosen by validation / search", np.mean(chosen) / np.mean(searched), 1)
    return 0 if met else 1


def _found(folder: Path) -> tuple[list[float], list[dict[str, float]], dict[str, list[float]]]:
    """By seed: r of the search's head, and validation r of the published ones in it; and r of each of these by seed."""
    sys.path.insert(0, str(ROOT / "src"))
    from mlproject.tracking.reading import read_runs

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    r = "metrics.pearson/constructs"
    runs = read_runs("search_head")
    parents = runs[runs["parent"].isna()].sort_values("start_time")
    validation = []
    for parent in parents["run_id"]:
        trials = runs[(runs["parent"] == parent) & runs["tags.origin"].isin(HEADS)]
        trials = trials.dropna(subset="metrics.objective")  # pruned, where there are many workers
        validation.append(dict(zip(trials["tags.origin"], trials["metrics.objective"], strict=True)))
        best = parents.set_index("run_id").loc[parent, "metrics.best/objective"]
        print(json.dumps({"validation": {**validation[-1], "search": best}}))
    published = {}
    for head in HEADS:
        found = read_runs(f"finetune_{head}")
        published[head] = found[found["parent"].isna()].sort_values("start_time")[r].tolist()
    return parents[r].tolist(), validation, published


if __name__ == "__main__":
    sys.exit(main())
