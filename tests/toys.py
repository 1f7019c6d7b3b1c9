"""Toy models and sequences, small enough to build in every test."""

import dataclasses

import h5py
import numpy as np
import pandas as pd
import tensorflow as tf

from enformer_core.enformer import Enformer, EnformerConfig, preset
from enformer_core.perceiver import PerceiverConfig
from mlproject.data.batches import windows_in_order
from mlproject.data.constructs import Construct, Site
from mlproject.data.published_h5 import unnamed_targets
from mlproject.data.records import Example, Statistics, TrackDataset, open_dataset, write_shard
from mlproject.data.targets import write_targets

TRACK_WINDOWS = {"train": 7, "valid": 5, "test": 3}


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


def toy_perceiver_config(**changes) -> PerceiverConfig:
    """Cell types a and b, windows of 12 bp, MPRA of 9 letters; sizes that are seldom the same."""
    small = {
        "cell_types": ("a", "b"),
        "seq_len": 12,
        "mpra_len": 9,
        "d_model": 8,
        "d_latent": 10,
        "num_latents": 3,
        "num_blocks": 2,
        "num_self_attention_layers": 2,
        "num_cross_attn_heads": 2,
        "num_self_attn_heads": 5,
        "widening_factor": 3,
        "num_bins": 6,
        "max_cov": 4.0,
    }
    return PerceiverConfig(**{**small, **changes})


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


def toy_tracks(folder, pool_width: int = 128) -> TrackDataset:
    """A dataset `lab` of `TRACK_WINDOWS` of 2,048 bp, for `toy_model`: random letters, three tracks of random signal.

    The second and the third are of two strands.
    """
    random = np.random.default_rng(0)
    path = folder / "lab"
    (path / "tfrecords").mkdir(parents=True)
    bins = 14 * 128 // pool_width
    places = []
    for subset, count in TRACK_WINDOWS.items():
        sequences = random.integers(0, 5, (count, 2048)).astype(np.uint8)
        targets = random.gamma(1.0, 2.0, (count, bins, 3)).astype(np.float16)
        write_shard(path / "tfrecords" / f"{subset}-0.tfr", map(Example, sequences, targets))
        places += [f"c{subset}\t{3000 * n}\t{3000 * n + 2048}\t{subset}\n" for n in range(count)]
    (path / "sequences.bed").write_text("".join(places))
    counts = {f"{subset}_seqs": count for subset, count in TRACK_WINDOWS.items()}
    Statistics(3, 2048, bins, pool_width, 128, **counts).write(path / "statistics.json")
    table = unnamed_targets(3).assign(sum_stat="sum", description=["DNASE:a", "CAGE:b +", "CAGE:b -"])
    table["strand_pair"] = pd.array([0, 2, 1], dtype="Int64")
    write_targets(path / "targets.txt", table)
    return open_dataset(folder, "lab")


def toy_h5(folder, sequence_length: int = 2048) -> str:
    """The PREFIX of the windows of `toy_tracks` in the published code's form: a file for valid, test and train each."""
    dataset = toy_tracks(folder / "records")
    rows = np.concatenate([np.eye(4), np.full([1, 4], 0.25)]).astype(np.float16)
    cut = (2048 - sequence_length) // 2
    for number, subset in enumerate(("valid", "test", "train")):
        windows = list(windows_in_order(dataset, subset))
        codes = [window.sequence[cut : 2048 - cut] for window in windows]
        with h5py.File(folder / f"tracks.{number}.h5", "w") as file:
            file.create_dataset("input", data=rows[codes], compression="gzip")
            file.create_dataset("outcome", data=np.stack([w.target for w in windows]), compression="gzip")
    return str(folder / "tracks")
