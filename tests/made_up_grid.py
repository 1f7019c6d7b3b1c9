"""Trainings whose numbers are made up, and hostile words to call things."""

import dataclasses

import numpy as np
import pandas as pd

from mlproject import reporting

HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    "![x](http://evil.example/x.png) [x](javascript:window.hacked=1) :red[x] $x^2$ \u202etxt.exe "
    + "long "
    * 300
)
SHORT = "<b onmouseover=window.hacked=1>bold</b>"


@dataclasses.dataclass(frozen=True)
class Options:
    """Of a grid that is made up."""

    variants: tuple[str, ...] = ("vanilla", "rope")
    seeds: tuple[int, ...] = (1, 2)
    organisms: tuple[str, ...] = ("human",)
    experiment: str = "made-up"


def train(grid, variant, seed, words="", category="DNASE"):
    """A training whose numbers are made up; its tracks are called as is said."""
    key = {"grid": grid.id, "variant": variant, "seed": str(seed)}
    with grid.child(f"{variant}-{seed}", key=key, params={"variant": variant, "seed": seed}) as child:
        random = np.random.default_rng(seed)
        targets = pd.DataFrame(
            {
                "index": range(6),
                "identifier": [f"{words}T{number}" for number in range(6)],
                "description": words or "a track",
                "category": category,
            }
        )
        pearson = random.uniform(0.2, 0.8, 6)
        tables, numbers = reporting.track_results(targets, pearson, pearson**2, 9, organism="human")
        for name, table in tables.items():
            child.keep_table(name, table)
        child.summarize(numbers)
