"""Results of a grid as the published ablation wrote them: CSV files, a row for each variant and seed."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mlproject.data.files import number, read_text, whole_number
from mlproject.data.genome import name_some
from mlproject.errors import InputError

_START, _END = "experiment_results_", "_all_seeds.csv"


class Results(NamedTuple):
    """What the files say, and of which organism."""

    organism: str
    runs: pd.DataFrame
    """variant, seed, score (the mean Pearson r over tracks, NaN where it is empty), train_loss; in file order."""
    categories: pd.DataFrame | None
    """variant, and the mean over seeds of each category, by its name; None without such a file."""


def read_results(folder: str | os.PathLike, organism: str = "") -> Results:
    """Reads `experiment_results_ORGANISM_all_seeds.csv`, and `..._categories.csv` where it is.

    Args:
        folder: with the files.
        organism: which; may be left out where there is one.

    Raises:
        InputError: no such file, a column that is absent, or a field that is no number; names the line.
    """
    found = sorted(path.name for path in Path(folder).glob(f"{_START}*{_END}"))
    organisms = [name.removeprefix(_START).removesuffix(_END) for name in found]
    if not found:
        raise InputError(
            f"csv {folder}: has no {_START}ORGANISM{_END}, as ablation and the published code write them"
        )
    if not organism and len(organisms) > 1:
        raise InputError(f"csv {folder}: has {name_some(organisms, 5)}; choose one with --organism")
    chosen = organism or organisms[0]
    if chosen not in organisms:
        raise InputError(f"--organism: found {organism!r}; csv {folder} has {name_some(organisms, 5)}")
    path = Path(folder) / f"{_START}{chosen}{_END}"
    score, loss = f"pearson_{chosen}_mean", f"train_loss_{chosen}"
    rows = []
    seen: set[tuple[str, int]] = set()
    for where, row in _rows(path, ("seed", "experiment", score)):
        key = (row["experiment"], whole_number(row["seed"], where, "seed"))
        if key in seen:
            raise InputError(f"{where}: {key[0]} with seed {key[1]} is there twice")
        seen.add(key)
        values = [_number(row.get(name, ""), where, name) for name in (score, loss)]
        rows.append((*key, *values))
    runs = pd.DataFrame(rows, columns=["variant", "seed", "score", "train_loss"])
    return Results(chosen, runs, _categories(Path(folder) / f"{_START}{chosen}_categories.csv"))


def _categories(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    rows = []
    for where, row in _rows(path, ("experiment",)):
        names = [name for name in row if name.endswith("_mean")]
        values = {name.removesuffix("_mean"): _number(row[name], where, name) for name in names}
        rows.append({"variant": row["experiment"], **values})
    return pd.DataFrame(rows)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by column, each with the words for where it is."""
    reader = csv.DictReader(io.StringIO(read_text(path, "csv"), newline=""))
    names = reader.fieldnames or []
    if missing := [name for name in columns if name not in names]:
        raise InputError(f"csv {path}: has no column {missing[0]!r}; it has {name_some(names, 12)}")
    for row in reader:
        where = f"csv {path}, line {reader.line_num}"
        if None in row or None in row.values():
            raise InputError(f"{where}: has another number of columns than the header, {len(names)}")
        yield where, {name: word.strip() for name, word in row.items()}
    if reader.line_num < 2:
        raise InputError(f"csv {path}: has no rows; expected a header line and one line per row.")


def _number(word: str, where: str, name: str) -> float:
    return float("nan") if not word.strip() else number(word, where, name)
