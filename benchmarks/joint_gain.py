"""What tracks add to MPRA in a cell type without labels, and whether sequences written for an activity have it.

    python benchmarks/joint_gain.py                    the demo's made-up data: `joint` and `generate` with no options
    python benchmarks/joint_gain.py --retina FOLDER    then the MPRA of mouse retina (Barak Cohen's laboratory,
                                                       CRX-Information-Content) in that folder: chr8, 9 and 10 held out
    python benchmarks/joint_gain.py --folder work      keeps all in a folder, and goes on with trainings

Of the demo: Pearson r of held-out sequences; `both` against `mpra` in the cell type whose labels were hidden, three
seeds, paired; Spearman r of targets with what a second model, and the grammar that made the data, say of the generated
sequences and of random ones; how different sequences are at several temperatures.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

from measuring import ROOT, command, verdict

RETINA = (
    *("--modalities", "mpra", "--seeds", "1,2,3", "--mpra_len", "164", "--mpra_cell_type_name", "retina"),
    *("--mpra_activity", "expression", "--mpra_log2", "1", "--mpra_test", "chr8,chr9,chr10"),
    *("--mpra_spread", "expression_std", "--mpra_replicate_count", "expression_reps"),
    *("--epochs", "30", "--batch_size", "64", "--learning_rate", "3e-3", "--nucleotide_weight", "0"),
    *("--dropout", "0.2", "--weight_decay", "0.1"),
)
_BASELINES = (
    *("pearson/kmers", "pearson/gc", "ceiling/activity"),
    *("pearson/kmers_hidden", "pearson/gc_hidden", "ceiling/activity_hidden"),
)


_TEMPERATURES = ("0.1", "0.25", "0.5", "1", "2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--retina", type=Path, help="folder of the MPRA of mouse retina")
    parser.add_argument("--folder", type=Path, help="folder to work in; without it one that is removed")
    given = parser.parse_args()
    met = True
    with contextlib.ExitStack() as stack:
        folder = (given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        command(folder, "joint")
        for temperature in _TEMPERATURES:
            command(folder, "generate", "--temperature", temperature, "--output", f"sample-{temperature}",
                "--experiment", f"sample-{temperature}")  # fmt: skip
        command(folder, "generate", "--method", "evolve", "--output", "evolved", "--experiment", "evolve")
        if given.retina:
            data = given.retina.resolve()
            command(folder, "joint", "--experiment", "retina", *RETINA,
                "--mpra", str(data / "rhoActivityJoinedAnnotated.txt"),
                "--mpra_fasta", str(data / "library1And2.fasta"))  # fmt: skip
        numbers = _numbers(folder)
        _print_intervals(folder)
    for experiment, found in numbers.items():
        print(f"{experiment}: {json.dumps(found)}")
    joint, sample, evolved = numbers["joint"], numbers["sample-0.5"], numbers["evolve"]
    met &= verdict("0.8 / r of held-out sequences", 0.8 / joint["pearson/activity/both"], 1)
    gain, low, high = (joint[f"gain/activity_hidden{end}"] for end in ("", "_low", "_high"))
    print(f"both - mpra, labels hidden: {gain:.3f} (95% interval {low:.3f} to {high:.3f}; limit: above 0)")
    met &= low > 0
    met &= verdict("0.7 / Spearman r of targets and judged, sample", 0.7 / sample["judged/spearman"], 1)
    met &= verdict("0.7 / Spearman r of targets and judged, evolve", 0.7 / evolved["judged/spearman"], 1)
    found = abs(sample["random/judged_spearman"])
    met &= verdict("|Spearman r| of targets and judged, random sequences", found, 0.3)
    diverse = [numbers[f"sample-{temperature}"]["diversity/kmers"] for temperature in _TEMPERATURES]
    print(f"effective number of 5-mers at temperature {', '.join(_TEMPERATURES)}: {diverse}")
    ratio = max(colder / warmer for colder, warmer in itertools.pairwise(diverse))
    met &= verdict("effective 5-mers, largest ratio of one temperature to the next", ratio, 1)
    if "retina" in numbers:
        retina = numbers["retina"]
        ratio = retina["pearson/kmers/mpra"] / retina["pearson/activity/mpra"]
        met &= verdict("retina: r of 5-mer ridge / of the model", ratio, 1)
    return 0 if met else 1


def _numbers(folder: Path) -> dict[str, dict[str, float]]:
    """Final numbers of the commands' runs by experiment; of trainings on MPRA alone the mean baselines."""
    sys.path.insert(0, str(ROOT / "src"))
    from mlproject.tracking.reading import read_runs

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    runs = read_runs(finished=True)
    found = {}
    for _, parent in runs[runs["parent"].isna()].iterrows():
        own = {name.removeprefix("metrics."): parent[name] for name in runs if name.startswith("metrics.")}
        children = runs[(runs["parent"] == parent["run_id"]) & (runs["params.modalities"] == "mpra")]
        for name in _BASELINES:
            column = f"metrics.{name}"
            if column in children and children[column].notna().any():
                own[f"{name}/mpra"] = children[column].mean()
        experiment = _experiment_name(parent["experiment_id"])
        # the newest run comes first
        found.setdefault(
            experiment, {name: round(float(value), 4) for name, value in own.items() if value == value}
        )
    return found


def _print_intervals(folder: Path) -> None:
    """Of the trainings on real data: r of each predictor with the interval over clusters of near-duplicates."""
    import pandas as pd

    from mlproject.tracking.reading import read_runs

    runs = read_runs()
    for _, child in runs[runs["parent"].notna() & (runs["params.mpra"] != "demo")].iterrows():
        for path in folder.glob(f"mlruns/*/{child['run_id']}/artifacts/comparison.parquet"):
            for row in pd.read_parquet(path).itertuples():
                print(
                    f"{child['name']}, {row.cell_type}, {row.predictor}: r {row.pearson:.3f} "
                    f"({row.pearson_low:.3f} to {row.pearson_high:.3f}; n = {row.sequences}, ceiling {row.ceiling:.3f})"
                )


def _experiment_name(number: str) -> str:
    from mlproject.tracking import store

    return store.open_store().get_experiment(number).name


if __name__ == "__main__":
    sys.exit(main())
