"""A small pair of models as `joint` keeps it, for tests of `generate`."""

import json
import shutil
from pathlib import Path

import numpy as np

from enformer_core import checkpoints
from enformer_core.perceiver import Perceiver
from toys import toy_perceiver_config

TRAINING = {"first": "ACGTACGT", "second": "GGGGCCCC", "third": "TTTTAAAAT"}


def toy_pair(folder: Path, judge_seed: int = 2, facts: dict | None = None, **changes) -> Path:
    """FOLDER/models, of sequences of up to 9 letters in the cell types a and b, of which b has labels.

    Args:
        folder: where to.
        judge_seed: the generator's is 1.
        facts: what models.json says otherwise.
        changes: of both configurations.
    """
    models = folder / "models"
    config = toy_perceiver_config(**{"activity_mean": 2.0, "activity_sd": 0.5, **changes})
    for name, seed in (("generator", 1), ("judge", judge_seed)):
        checkpoints.save(models / name, Perceiver(config, seed))
    rows = "".join(f"{name}\t{sequence}\n" for name, sequence in TRAINING.items())
    (models / "training.tsv").write_text(f"name\tsequence\n{rows}")
    document = {
        "generator": {
            "run": "0" * 32,
            "seed": 1,
            "name": "both seed 1",
            "held_out": {"b": [0.5, 0.25, 0.75]},
        },
        "judge": {
            **{"run": "1" * 32, "seed": judge_seed, "name": f"both seed {judge_seed}"},
            "held_out": {"b": [0.25, -0.25, 0.5]},
        },
        "cell_types": list(config.cell_types),
        "labelled": ["b"],
        "activity": {"low": 0.5, "high": 3.5},
        "activity_by_cell_type": {"b": {"low": 1.0, "high": 3.0}},
        "base_composition": [0.3, 0.2, 0.2, 0.3],
        "has_nucleotides": True,
    }
    (models / "models.json").write_text(json.dumps(document | (facts or {})))
    return models


def copied(models: Path, folder: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(models, folder / "copy"))


def with_grammar(models: Path) -> None:
    """A grammar of both cell types is put beside the models: in a AC counts 1, in b GG."""
    grammar = {"motifs": ["AC", "GG"], "cell_types": ["a", "b"], "weights": [[1.0, 0.0], [0.0, 2.0]]}
    grammar |= {"gain": 1.0, "depth": 1.0, "baseline": 0.0, "spread_bp": 1.0}
    (models / "grammar.json").write_text(json.dumps(grammar))


def grammar_of(sequence: str, cell_type: str) -> float:
    """What that grammar says of a sequence, by reading it letter by letter on both strands."""
    motif, weight = {"a": ("AC", 1.0), "b": ("GG", 2.0)}[cell_type]
    other = sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))
    count = sum(strand.startswith(motif, at) for strand in (sequence, other) for at in range(len(sequence)))
    return float(np.log2(1 + weight * count))
