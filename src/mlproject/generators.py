"""What `joint_models` has written, read; and its Perceivers as the plain functions that `design` takes.

Shapes: n sequences, b batch, L letters.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.dna import PADDING
from enformer_core.perceiver import Perceiver
from mlproject.compilation import Batches
from mlproject.data.demo_mpra import GRAMMAR, JointGrammar, read_joint_grammar
from mlproject.data.files import read_rows, read_text
from mlproject.data.mpra import codes
from mlproject.design import Logits, Predict
from mlproject.errors import InputError, reason
from mlproject.joint_models import FACTS, FOLDER, GENERATOR, JUDGE, TRAINING
from mlproject.options import nearest
from mlproject.tracking.registry import fetch_checkpoint, has_folder


class Trained(NamedTuple):
    """A model, and what is known of its training."""

    model: Perceiver
    name: str
    run: str
    seed: int
    held_out: dict[str, tuple[float, float, float]]
    """Pearson r of held-out sequences by cell type, with the ends of its 95% interval; what is not known is NaN."""


class Generators(NamedTuple):
    """Two models and what they were trained on."""

    generator: Trained
    judge: Trained
    cell_types: tuple[str, ...]
    labelled: tuple[str, ...]
    """Cell types with labels that both were trained on."""
    activity: tuple[float, float]
    """5th and 95th percentile of those labels."""
    activity_by_cell_type: dict[str, tuple[float, float]]
    """The same of each cell type with labels."""
    composition: tuple[float, ...]
    """Shares of A, C, G and T."""
    writes: bool
    """Whether masked letters were trained, without which the generator cannot write."""
    names: tuple[str, ...]
    """Of the sequences that one of them or both were trained on."""
    sequences: tuple[str, ...]
    grammar: JointGrammar | None

    @property
    def most_letters(self) -> int:
        """Letters of a sequence that both models take."""
        return min(one.model.config.mpra_len for one in (self.generator, self.judge))

    @property
    def usual_length(self) -> int:
        """The median length of the training sequences, as far as the models take it."""
        return min(int(np.median([len(sequence) for sequence in self.sequences])), self.most_letters)

    def cell(self, cell_type: str) -> tuple[str, int]:
        """The name of a cell type and its number in the models; without a name, the first with labels.

        Raises:
            InputError: there is none of that name; offers those that there are.
        """
        name = cell_type or self.labelled[0]
        if name not in self.cell_types:
            raise InputError(
                f"--cell_type: found {cell_type!r}{nearest(cell_type, self.cell_types)}; the models have "
                f"{', '.join(self.cell_types)}"
            )
        if any(name in one.model.config.unseen_cell_types for one in (self.generator, self.judge)):
            raise InputError(
                f"--cell_type: found {name!r}; the models have seen neither tracks nor labels of it; take one of "
                f"{', '.join(self.labelled)}"
            )
        return name, self.cell_types.index(name)


# --- reading ------------------------------------------------------------------------------------------------------


def newest() -> str:
    """The address of the last finished run of `joint` that has models, and a line that says which.

    Raises:
        InputError: the store has none.
    """
    from mlproject.tracking.reading import read_runs  # takes seconds to import

    runs = read_runs(finished=True)
    runs = runs[runs["tags.command"] == "joint"] if "tags.command" in runs else runs[:0]
    for run in runs.itertuples():
        if has_folder(run.run_id, FOLDER):
            address = f"runs:/{run.run_id}"
            print(f"model: {run.name} of {run.start_time:%Y-%m-%d %H:%M} UTC, {address}", flush=True)
            return address
    raise InputError(
        "--model newest: this store has no finished run of joint that kept models; `mlflow run . -e joint` makes one, "
        "or name its run (runs:/ID) or a folder"
    )


def is_address(word: str) -> bool:
    """Whether a word names something in the store, and no folder."""
    return word == "newest" or word.startswith(("runs:", "models:"))


def read(word: str, work_dir: Path) -> Generators:
    """The models that the option `model` names.

    Args:
        word: `runs:/ID`, or a folder.
        work_dir: for what is fetched, as long as it is read.

    Raises:
        InputError: there are none, a file is damaged, or they do not fit each other; one line.
    """
    try:
        with _folder(word, work_dir) as folder:
            return _read(folder)
    except (InputError, ValueError, OSError) as error:
        raise InputError(f"--model {word}: {reason(error).removeprefix(f'{word}: ')}") from error


@contextlib.contextmanager
def _folder(word: str, work_dir: Path) -> Iterator[Path]:
    if not is_address(word):
        check_folder(word)
        yield Path(word)
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".models-", dir=work_dir) as folder:
        yield fetch_checkpoint(word, Path(folder), FOLDER)


def check_folder(word: str) -> None:
    """Refuses what is no folder of models.

    Raises:
        InputError: without the name of the option.
    """
    if not os.path.isfile(Path(word, FACTS)):  # which is false where a name is too long, and no error
        raise InputError(
            f"no folder with {FACTS}, as joint keeps its {FOLDER}; name one, a run (runs:/ID), or newest"
        )


def _read(folder: Path) -> Generators:
    facts = _facts(folder / FACTS)
    trained: dict[str, Any] = {
        name: Trained(_perceiver(folder / name), *facts.pop(name)) for name in (GENERATOR, JUDGE)
    }
    for name, one in trained.items():
        if one.model.config.cell_types != facts["cell_types"]:
            raise InputError(
                f"{name} has the cell types {', '.join(one.model.config.cell_types)}; {FACTS} names "
                f"{', '.join(facts['cell_types'])}"
            )
    if len({checkpoints.model_digest(one.model) for one in trained.values()}) == 1:
        raise InputError("generator and judge are the same model, which cannot judge itself; run joint again")
    rows = read_rows(folder / TRAINING, "training", ("name", "sequence"))
    has_grammar = (folder / GRAMMAR).exists()
    return Generators(
        **trained,
        **facts,
        names=tuple(row["name"] for _, row in rows),
        sequences=tuple(row["sequence"] for _, row in rows),
        grammar=read_joint_grammar(folder) if has_grammar else None,
    )


def _perceiver(folder: Path) -> Perceiver:
    model = checkpoints.load(folder)
    if not isinstance(model, Perceiver):
        raise InputError(f"{folder.name} is of kind {type(model).__name__}; expected a Perceiver of joint")
    if model.config.trunk_channels:
        raise InputError(
            f"{folder.name} takes Enformer trunk embeddings in place of letters, of which it can neither write nor "
            "judge new ones; name models that take letters"
        )
    return model


def _facts(path: Path) -> dict[str, Any]:
    """What models.json says, by the fields of `Generators`; of both models what `Trained` has."""
    try:
        read = json.loads(read_text(path, "models"))
        found = {
            name: (
                *(str(read[name]["name"]), str(read[name]["run"]), int(read[name]["seed"])),
                {str(cell): tuple(map(float, r)) for cell, r in read[name]["held_out"].items()},
            )
            for name in (GENERATOR, JUDGE)
        }
        cell_types, labelled = tuple(map(str, read["cell_types"])), tuple(map(str, read["labelled"]))
        activity = _range(read["activity"])
        by_cell_type = {str(name): _range(own) for name, own in read["activity_by_cell_type"].items()}
        composition = tuple(map(float, read["base_composition"]))
        writes = bool(read["has_nucleotides"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); run joint again") from error
    if not labelled:
        raise InputError(
            "these models were trained on tracks alone, without any activity; name those of joint with modalities=both "
            "or mpra"
        )
    sound = len(composition) == 4 and min(composition) >= 0 and 0 < sum(composition) < math.inf
    sound = sound and set(labelled) <= set(cell_types) and set(labelled) == set(by_cell_type)
    if not (
        sound and all(-math.inf < low <= high < math.inf for low, high in (activity, *by_cell_type.values()))
    ):
        raise InputError(
            f"{path}: is damaged: base_composition, labelled or activity are not possible; run joint again"
        )
    return {
        **found,
        "cell_types": cell_types,
        "labelled": labelled,
        "activity": activity,
        "activity_by_cell_type": by_cell_type,
        "composition": composition,
        "writes": writes,
    }


def _range(read: dict[str, Any]) -> tuple[float, float]:
    return float(read["low"]), float(read["high"])


# --- plain functions ----------------------------------------------------------------------------------------------


class Functions:
    """One Perceiver in one cell type as functions on NumPy arrays.

    Each compiles at its first call, for one shape: sequences are padded to `mpra_len` and batches filled up.

    Args:
        model: takes letters.
        cell: number of the cell type.
        batch_size: rows of a batch.
    """

    def __init__(self, model: Perceiver, cell: int, batch_size: int):
        self._length = model.config.mpra_len
        self._cell = cell
        self._batch_size = batch_size
        self._activity = tf.function(model.activity, jit_compile=True, autograph=False)
        self._nucleotides = tf.function(model.nucleotides, jit_compile=True, autograph=False)
        self._batches = Batches()

    @property
    def predict(self) -> Predict:
        """Of codes `[n, L]` uint8 the activity `[n]` float64, in the units of the training labels."""
        return lambda codes: self._in_batches(self._activity, codes)

    @property
    def logits(self) -> Logits:
        """Of codes `[n, L]` uint8 with MASKED and targets `[n]` float32, NaN for none, the logits `[n, L, 4]`."""
        return lambda codes, targets: self._in_batches(self._nucleotides, codes, targets)[:, : codes.shape[1]]

    def _in_batches(self, call: Callable[..., tf.Tensor], codes: np.ndarray, *more: np.ndarray) -> np.ndarray:
        padded = np.full([len(codes), self._length], PADDING, np.int32)
        padded[:, : codes.shape[1]] = codes
        cells = np.full(len(codes), self._cell, np.int32)
        (found,) = self._batches(call, self._batch_size, padded, *more, cells)
        return found.astype(np.float64)


def letter_codes(sequences: Sequence[str], length: int) -> np.ndarray:
    """The first `length` letters of each sequence, `[n, length]` uint8; `PADDING` beyond the end."""
    return codes([sequence[:length] for sequence in sequences], length)
