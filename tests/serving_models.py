"""Toy models as what is served of them, and a small reference genome, for tests of serving."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core import dna
from enformer_core.enformer import Enformer
from enformer_core.saved_model import Predictor
from mlproject.serving.about import about_of
from mlproject.serving.sequence_model import SequenceModel

TRACKS = [
    {"index": "10", "identifier": "open", "description": "DNASE:a", "strand_pair": "10"},
    {"index": "11", "identifier": "plus", "description": "CAGE:b", "strand_pair": "12"},
    {"index": "12", "identifier": "minus", "description": "CAGE:b", "strand_pair": "11"},
]


class Toy(NamedTuple):
    """A model, its SavedModel and `about`."""

    model: Any
    saved_model: Path
    about: Path

    def native(self, windows: list[str], head: str = "human") -> np.ndarray:
        """What the model itself says of windows of its own length."""
        sequences = tf.constant(np.stack([dna.one_hot(window) for window in windows]))
        return self.model(sequences, is_training=False)[head].numpy()


def made(folder: Path, model: Any) -> Toy:
    """The model in the two artifacts of what is served."""
    Predictor(model).save(folder / "saved_model")
    (folder / "about.json").write_text(json.dumps(about_of(model)))
    return Toy(model, folder / "saved_model", folder / "about.json")


def known(model: Enformer) -> Enformer:
    """The same, with a table of the tracks of one head."""
    model.tracks = {"human": TRACKS}
    return model


CHROMOSOMES = {"c1": 6000, "c2": 700}
_random = np.random.default_rng(1)
GENOME = {name: "".join(_random.choice(list("ACGTacgtN"), size)) for name, size in CHROMOSOMES.items()}


def read(toy: Toy):
    """What MLflow does when it loads the model."""
    model = SequenceModel()
    model.load_context(
        SimpleNamespace(artifacts={"saved_model": str(toy.saved_model), "about": str(toy.about)})
    )
    return model
