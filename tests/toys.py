"""Toy models and sequences, small enough to build in every test."""

import dataclasses

import numpy as np
import tensorflow as tf

from enformer_core.enformer import Enformer, EnformerConfig, preset
from mlproject.data.constructs import Construct, Site


def toy_config(**changes) -> EnformerConfig:
    """2,048 bp in, 14 bins out, 48 channels, one transformer layer; heads human (3 tracks) and mouse (2)."""
    small = {
        "heads": {"human": 3, "mouse": 2},
        "sequence_length": 2048,
        "target_length": 14,
        "channels": 96 // 2,
        "num_transformer_layers": 1,
        "num_position_features": 12,
    }
    return dataclasses.replace(preset("tiny"), **{**small, **changes})


def toy_model(seed: int = 0, **changes) -> Enformer:
    """A model of `toy_config`."""
    return Enformer(toy_config(**changes), seed)


def toy_sequence(batch: int = 1, length: int = 2048, seed: int = 0) -> tf.Tensor:
    """Random one-hot DNA `[batch, length, 4]`."""
    return tf.constant(
        np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, (batch, length))]
    )


def toy_constructs(count: int = 12, length: int = 2304, folds: int = 3, seed: int = 0) -> list[Construct]:
    """Constructs of random letters, two in each cluster, up to three sites on each; folds 0, 1, ... in turn."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        sites = []
        for name in random.choice(["A", "B"], random.integers(0, 4)).tolist():
            start = int(random.integers(0, length - 300))
            sites.append(Site(name, start, start + 300))
        fold = str(index // 2 % folds)
        activity = float(random.random())
        letters = "".join(random.choice(list("ACGT"), length))
        group, cluster = f"group {index % 4}", f"cluster {index // 2}"
        made.append(Construct(index, f"c{index}", group, cluster, fold, activity, tuple(sites), letters))
    return made
