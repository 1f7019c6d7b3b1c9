"""What heads say of yeast transcription starts on a chromosome that was held out, beside guesses and replicates.

    python benchmarks/yeast.py

Twelve stranded STRIPE-seq tracks (three untreated and three diamide-treated cultures; GSE142524), 16,384 bp, square
roots of sums, II to validate, XVI to test, the rest to train. `ablation` trains a tiny `vanilla` on them; `train_head`
then trains linear heads, three seeds, on that trunk and on one of random weights, both frozen. Printed is each track's
Pearson r on XVI, beside the training mean of each bin, GC content, and what the replicates of the same strand and
treatment say of it. It takes some minutes and needs `../shared/data/yeast`; without that it ends with a line.
"""

import itertools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from measuring import ROOT, command, verdict

DATA = ROOT.parent / "shared" / "data" / "yeast"
CULTURES = [f"{treatment}_{number}" for treatment in ("WT", "D") for number in (1, 2, 3)]
SEEDS = "42,123,2025"


def main() -> int:
    if not DATA.exists():
        print(f"{DATA} is absent: nothing to measure")
        return 0
    sys.path.insert(0, str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _build(folder)
        command(folder, "ablation", "--data", "data", "--organisms", "yeast", "--variants", "vanilla", "--seeds", "42",
                "--epochs", "100", "--batch_size", "4", "--reverse_complement", "true", "--max_shift", "3")  # fmt: skip
        (trunk,) = folder.glob("mlruns/*/*/artifacts/checkpoint")
        for weights in (str(trunk), "random"):
            command(folder, "train_head", "--data", "data", "--organism", "yeast", "--weights", weights,
                    "--seeds", SEEDS, "--reverse_complement", "true")  # fmt: skip
        table = _table(folder)
    print(table.to_string(float_format="%.3f"))
    mean = table.mean()
    print("\nmean over tracks: " + ", ".join(f"{name} {value:.3f}" for name, value in mean.items()))
    return 0 if verdict("random trunk / trained trunk", mean["random"] / mean["trained"], 1) else 1


def _build(folder: Path) -> None:
    rows = ["index\tidentifier\tfile\tclip\tscale\tsum_stat\tstrand_pair\tdescription"]
    for culture, (strand, sign) in itertools.product(CULTURES, (("fwd", 1), ("rev", -1))):
        index = len(rows) - 1
        path = DATA / "stripeseq" / f"S288C_{culture}.{strand}.bw"
        description = f"CAGE:STRIPE-seq {culture} {strand}"
        rows.append(f"{index}\t{culture}_{strand}\t{path}\t\t1\tsum_sqrt\t{index + sign}\t{description}")
    (folder / "targets.txt").write_text("\n".join(rows) + "\n")
    (fasta,) = DATA.glob("*.fa.gz")
    command(folder, "build_tracks", "--output", "data", "--organism", "yeast", "--fasta", str(fasta),
            "--targets", "targets.txt", "--valid", "II", "--test", "XVI",
            "--sequence_length", "16384", "--crop_bp", "1024", "--workers", "2")  # fmt: skip


def _table(folder: Path) -> pd.DataFrame:
    """A row for each track: r of heads on the trained and on the random trunk, baselines, and replicates."""
    from mlproject.data.batches import windows_in_order
    from mlproject.data.records import open_dataset
    from mlproject.tracking.reading import read_runs

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    runs = read_runs(finished=True)
    children = runs[(runs["tags.command"].isna()) & runs["params.head"].notna()]
    found: dict[str, list[pd.DataFrame]] = {"trained": [], "random": []}
    for row in children.to_dict("records"):
        (path,) = folder.glob(f"mlruns/*/{row['run_id']}/artifacts/tracks_yeast.parquet")
        found["random" if row["params.weights"] == "random" else "trained"].append(pd.read_parquet(path))
    tables = {name: pd.concat(frames).groupby("identifier") for name, frames in found.items()}
    table = pd.DataFrame({name: groups["pearson_r"].mean() for name, groups in tables.items()})
    table["trained_sd"] = tables["trained"]["pearson_r"].std()
    for name in ("bin_mean", "gc"):
        table[name] = tables["trained"][f"pearson_r_{name}"].mean()
    dataset = open_dataset(folder / "data", "yeast")
    signal = np.concatenate([target for _, target in windows_in_order(dataset, "test")]).astype(np.float64)
    names = dataset.targets["identifier"]
    # both scales: that of the targets, y = sqrt(1 + sum) - 1, and logarithms, in which replicates are often compared
    for column, values in (("replicates", signal), ("replicates_log", np.log1p((signal + 1) ** 2 - 1))):
        between = pd.DataFrame(np.corrcoef(values.T), names, names)
        for name in names:
            treatment, number, strand = name.split("_")
            others = [f"{treatment}_{n}_{strand}" for n in "123" if n != number]
            table.loc[name, column] = between.loc[name, others].mean()
    ablation = runs[runs["params.variant"].notna()]["metrics.pearson/mean"].item()
    print(f"the trunk's own head, trained with it: {ablation:.3f}, a mean over tracks\n")
    return table.loc[names]


if __name__ == "__main__":
    sys.exit(main())
