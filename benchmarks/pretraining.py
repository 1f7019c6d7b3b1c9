"""What a trunk trained on the demo's tracks knows of the demo's constructs, beside one of random weights.

    python benchmarks/pretraining.py

`ablation` trains `vanilla` on the demo's tracks, human and mouse. From it, and from random weights, `finetune` trains
on the demo's constructs in four folds of whole groups, all weights, with three seeds. Printed is the Pearson r between
measured activity and what was predicted for every construct when its fold was held out, beside that of both ridge
regressions. It takes half an hour; everything is kept in a temporary folder that is removed.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from measuring import ROOT, command, verdict

SEEDS = (1, 2, 3)


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command(folder, "build_constructs", "--num_folds", "4", "--output", "constructs")
        command(folder, "ablation", "--variants", "vanilla", "--seeds", "42", "--organisms", "human,mouse",
            "--epochs", "20", "--steps_per_epoch", "50", "--valid_steps", "4")  # fmt: skip
        (checkpoint,) = folder.glob("mlruns/*/*/artifacts/checkpoint")
        for seed in SEEDS:
            for weights in (str(checkpoint), "random"):
                command(folder, "finetune", "--data", "constructs", "--weights", weights, "--seed", str(seed),
                    "--epochs", "15", "--learning_rate", "2e-4", "--samples", "4")  # fmt: skip
        found = _pearson(folder)
    for name, values in found.items():
        print(f"{name}: Pearson r {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
    met = verdict("random / pretrained", np.mean(found["random"]) / np.mean(found["pretrained"]), 1)
    return 0 if met else 1


def _pearson(folder: Path) -> dict[str, list[float]]:
    """Pearson r of each parent run of `finetune`, and of the baselines."""
    sys.path.insert(0, str(ROOT / "src"))
    from mlproject.tracking.reading import read_runs

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    runs = read_runs("finetune")
    parents = runs[runs["parent"].isna()]
    random = parents["params.weights"] == "random"
    name = "metrics.pearson/{}".format
    return {
        "pretrained": parents[~random][name("constructs")].tolist(),
        "random": parents[random][name("constructs")].tolist(),
        **{
            f"ridge on {kind}": parents[name(f"ridge_{kind}")].unique().tolist()
            for kind in ("sites", "kmers")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
