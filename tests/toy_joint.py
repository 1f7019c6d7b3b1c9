"""Toy data of joint trainings: short sequences with activity in cell types, and windows with coverage."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from mlproject.data.coverage import CoverageWindows
from mlproject.data.joint import JointData, MpraExamples, TrackExamples
from mlproject.data.mpra import MpraTable, codes
from mlproject.data.mpra_split import MpraSplit

CELL_TYPES = ("a", "b", "c")  # the model's: of tracks a and b, of labels b and c
MPRA_LEN, SEQ_LEN = 12, 16


def toy_table(count: int = 30, seed: int = 0) -> MpraTable:
    """Sequences of 5 to 12 letters, some N, measured in b and c; activity follows the share of G and C."""
    random = np.random.default_rng(seed)
    sequences = tuple(
        "".join(random.choice(list("ACGTN"), random.integers(5, MPRA_LEN + 1), p=[0.24] * 4 + [0.04]))
        for _ in range(count)
    )
    assert len(set(sequences)) == count
    share = np.array([sum(letter in "GC" for letter in one) / len(one) for one in sequences])
    sequence, cell = np.divmod(np.arange(2 * count), 2)
    return MpraTable(
        tuple(f"s{n}" for n in range(count)), sequences, ("",) * count, ("b", "c"), sequence, cell,
        3 * share[sequence] + cell + random.normal(0, 0.1, 2 * count),
        np.full(2 * count, 0.2), np.full(2 * count, 2.0),
    )  # fmt: skip


def toy_split(count: int = 30) -> MpraSplit:
    """Two thirds train; clusters of two."""
    subset = np.array([("train", "train", "train", "train", "valid", "test")[n % 6] for n in range(count)])
    return MpraSplit(subset, np.arange(count) // 2, ())


def toy_windows(count: int = 6, seed: int = 0, length: int = SEQ_LEN) -> CoverageWindows:
    """Windows in the cell types a and b, with coverage at G and C."""
    random = np.random.default_rng(seed)
    letters = random.integers(0, 5, (count, length)).astype(np.uint8)
    high = np.isin(letters, [1, 2])[:, np.newaxis] * np.array([2.0, 3.0])[:, np.newaxis]
    coverage = (high + random.uniform(0, 0.5, high.shape)).astype(np.float16)
    return CoverageWindows(letters, coverage, ["c1"] * count, np.arange(count), ())


def toy_joint(table: MpraTable | None = None, count: int = 30) -> JointData:
    """Tracks of a and b beside labels of b and c."""
    table = table or toy_table(count)
    mpra = MpraExamples(
        table, toy_split(len(table.names)), codes(table.sequences, MPRA_LEN), np.array([1, 2], np.int32)[table.cell]
    )  # fmt: skip
    source = SimpleNamespace(cell_types=("a", "b"), digest="", notes=())
    return JointData(CELL_TYPES, mpra, TrackExamples(source, SEQ_LEN, np.array([0, 1], np.int32)))


def with_activity(data: JointData, activity: np.ndarray) -> JointData:
    """The same with other measured values."""
    table = dataclasses.replace(data.mpra.table, activity=activity)
    return dataclasses.replace(data, mpra=dataclasses.replace(data.mpra, table=table))
