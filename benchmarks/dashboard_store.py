"""A store as a lab has it after some months, with numbers that are made up: for `dashboard.py`, and to look at.

    MLFLOW_TRACKING_URI=sqlite:///mlflow.db python benchmarks/dashboard_store.py

1,000 runs: a grid of 24 with 5,313 tracks each, smaller grids, and what other commands leave.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from mlproject import reporting
from mlproject.tracking import runs

VARIANTS = ("vanilla", "komlos", "rope", "rank1", "komlos_rope", "komlos_rank1", "rope_rank1", "all")
SEEDS = (1, 2, 3)
TRACKS = {"DNASE": 674, "ATAC": 10, "CHIP": 3_991, "CAGE": 638}  # 5,313, as the published human head has
STEPS, VALIDATIONS = 600, 20
RUNS = 1_000


@dataclasses.dataclass(frozen=True)
class Options:
    """What a grid's parent has as parameters."""

    variants: tuple[str, ...] = VARIANTS
    seeds: tuple[int, ...] = SEEDS
    organisms: tuple[str, ...] = ("human",)
    data: str = "made-up"


def make_store() -> str:
    """Fills the store of MLFLOW_TRACKING_URI; returns the ID of the large grid's run."""
    random = np.random.default_rng(0)
    with runs.start_run("ablation", Options()) as large:
        for seed in SEEDS:
            for variant in VARIANTS:
                _train(large, variant, seed, random)
    made = 1 + len(SEEDS) * len(VARIANTS)
    while made < RUNS:
        with runs.start_run("ablation", Options(variants=VARIANTS[:1], seeds=tuple(range(48)))) as small:
            small.summarize({"best/pearson_mean": 0.5})
            for seed in range(min(48, RUNS - made - 1)):
                key = {"grid": small.id, "variant": "vanilla", "seed": str(seed)}
                params = {"variant": "vanilla", "seed": seed, **{f"option_{n}": n for n in range(20)}}
                with small.child(f"vanilla-{seed}", key=key, params=params) as child:
                    child.summarize(_keep_tracks(child, dict.fromkeys(TRACKS, 1), 0.0, random))
                made += 1
        made += 1
    return large.id


def _train(grid: runs.Run, variant: str, seed: int, random: np.random.Generator) -> None:
    key = {"grid": grid.id, "variant": variant, "seed": str(seed)}
    with grid.child(f"{variant}-{seed}", key=key, params={"variant": variant, "seed": seed}) as child:
        child.use_dataset(name="made-up/human", digest="0" * 16, source="none", context="training")
        for step in range(1, STEPS + 1):
            child.log(step, {"loss": 1 / step + random.random() / 10})
            if step % (STEPS // VALIDATIONS) == 0:
                child.log(step, {"validation/pearson": 0.5 - 0.4 / step})
        numbers = _keep_tracks(child, TRACKS, 0.02 * ("rope" in variant), random)
        child.summarize(
            {**numbers, "seconds/train": 3_000.0, "seconds/evaluate": 300.0, "seconds/total": 3_500.0}
        )


def _keep_tracks(
    child: runs.Run, tracks: dict[str, int], gain: float, random: np.random.Generator
) -> dict[str, float]:
    categories = np.repeat([*tracks], [*tracks.values()])
    number = len(categories)
    targets = pd.DataFrame(
        {
            "index": np.arange(number),
            "identifier": [f"ENCFF{place:06d}" for place in range(number)],
            "description": [
                f"{name}:tissue {place % 211}, adult male, {place % 89} years"
                for place, name in enumerate(categories)
            ],
            "category": categories,
        }
    )
    of_track = np.random.default_rng(1).beta(6, 4, number)
    pearson = np.clip(of_track + gain + random.normal(0, 0.02, number), -1, 1)
    tables, numbers = reporting.track_results(targets, pearson, pearson**2, 1_000, organism="human")
    for name, table in tables.items():
        child.keep_table(name, table)
    return numbers


if __name__ == "__main__":
    print(make_store())
