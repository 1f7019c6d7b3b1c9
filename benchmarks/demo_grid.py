"""The demo grid of 24 runs: minutes in all, and the share of them outside training and evaluation steps.

    python benchmarks/demo_grid.py

Runs the command of the README in an empty folder. The reference is the time in training and evaluation steps of the
same run; everything else (building data, tracing, compiling, tracking, exporting, drawing) is overhead.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT_MINUTES = 6
LIMIT_SHARE = 0.5


def main() -> int:
    source = Path(__file__).parents[1] / "src"
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        environment = {
            **os.environ,
            "PYTHONPATH": str(source),
            "MLFLOW_TRACKING_URI": store,
            "MLPROJECT_COMPILATION_CACHE": f"{folder}/cache",  # as on a machine that has compiled nothing
        }
        words = [sys.executable, "-m", "mlproject", "ablation", *sys.argv[1:]]
        subprocess.run(words, cwd=folder, env=environment, check=True)
        os.environ["MLFLOW_TRACKING_URI"] = store
        sys.path.insert(0, str(source))
        from mlproject.tracking.reading import read_runs

        runs = read_runs("ablation")
    parent = runs[runs["parent"].isna()].iloc[0]
    total, steps = parent["metrics.seconds/total"], parent["metrics.seconds/in_steps"]
    share = 1 - steps / total
    print(f"\n{len(runs) - 1} runs in {total / 60:.2f} minutes; limit {LIMIT_MINUTES}")
    print(f"outside training and evaluation steps: {share:.2f} of the time; limit {LIMIT_SHARE}")
    return 0 if total <= 60 * LIMIT_MINUTES and share < LIMIT_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
