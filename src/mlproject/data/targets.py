"""The table of tracks, `targets.txt`: one row per target, in the order of the target axis."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlproject.data.files import read_lines, whole_number
from mlproject.errors import InputError

SUM_STATS = ("sum", "mean", "max", "median", "sum_sqrt", "mean_sqrt", "max_sqrt", "median_sqrt")
_REQUIRED = ("identifier", "file", "description")
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_SPELLINGS = {"avg": "mean", "avg_sqrt": "mean_sqrt"}


def category(description: str) -> str:
    """The kind of assay: what precedes the first colon, upper case ("CHIP", ...); "OTHER" without one."""
    prefix, colon, _ = str(description).partition(":")
    return prefix.strip().upper() if colon and prefix.strip() else "OTHER"


def read_targets(path: str | os.PathLike) -> pd.DataFrame:
    """The table of tracks with typed columns, one row per target.

    Every word is read as text first, so that an identifier `NA` or `007` stays what it is; a byte order mark
    and CRLF are accepted. The first column may have no name, or there may be no index column at all; any
    other column without a name is left out.

    Returns:
      Columns index (int, the row number where the file has none), genome (int, default 0), identifier, file
      (str), clip, clip_soft (float, NaN for none), scale (float, default 1), sum_stat (one of `SUM_STATS`,
      default sum), strand_pair (nullable Int64: position of the track of the other strand), description and
      category (str); then whatever other columns the file has, as text.

    Raises:
      InputError: the file, a column or a row is wrong; the message names it, a row by its line in the file.
    """
    lines = [(number, line.split("\t")) for number, line in read_lines(path, "targets")]
    if len(lines) < 2:
        raise InputError(f"targets {path}: has no rows; expected a header line and one line per track.")
    (_, names), *rows = lines
    names = [name.strip() for name in names]
    for number, words in rows:
        if len(words) != len(names):
            raise InputError(
                f"targets {path}, line {number}: has {len(words)} columns, the header has {len(names)}."
            )
    if (names[0] == "" or names[0].startswith("Unnamed")) and "index" not in names:
        names[0] = "index"
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"targets {path}: the header names column {twice[0]!r} twice; remove one of them.")
    # its index is the number of each row's line, for messages
    raw = pd.DataFrame([words for _, words in rows], [number for number, _ in rows], names, dtype=object)
    raw = raw[[name for name in names if name]]
    missing = [name for name in _REQUIRED if name not in raw.columns]
    if missing:
        raise InputError(
            f"targets {path}: has no column {missing[0]!r}; "
            f"it has {', '.join(raw.columns)} (separated by tabs)."
        )
    count = len(raw)
    table = pd.DataFrame(
        {
            "index": _whole_numbers(raw, "index", path, range(count)),
            "genome": _whole_numbers(raw, "genome", path, [0] * count),
            "identifier": _filled(raw, "identifier", path),
            "file": _filled(raw, "file", path),
            "clip": _numbers(raw, "clip", path, math.nan, lowest=0.0),
            "clip_soft": _numbers(raw, "clip_soft", path, math.nan, lowest=0.0),
            "scale": _numbers(raw, "scale", path, 1.0),
            "sum_stat": _sum_stats(raw, path),
            "strand_pair": _strand_pairs(raw, path),
            "description": raw["description"].tolist(),
        }
    )
    again = table["identifier"].duplicated()
    if again.any():
        row = int(again.argmax())
        raise InputError(
            f"targets {path}, line {raw.index[row]}: identifier {table['identifier'][row]!r} is that of "
            "another row too; each track needs its own."
        )
    table["category"] = [category(description) for description in table["description"]]
    for name in raw.columns:
        if name not in table.columns:
            table[name] = raw[name].tolist()
    return table


def _words(raw: pd.DataFrame, name: str, path) -> list[tuple[str, str]]:
    """The words of a column, each with where it stands."""
    return [(f"targets {path}, line {line}", word.strip()) for line, word in raw[name].items()]


def _filled(raw, name: str, path) -> list[str]:
    words = _words(raw, name, path)
    for where, word in words:
        if not word:
            raise InputError(f"{where}: {name} is empty.")
    return [word for _, word in words]


def _whole_numbers(raw, name: str, path, default: Sequence[int]) -> list[int]:
    if name not in raw.columns:
        return list(default)
    return [whole_number(word, where, name) for where, word in _words(raw, name, path)]


def _numbers(raw, name: str, path, default: float, lowest: float = -math.inf) -> list[float]:
    """Numbers that a float32 can hold, but for 0; nothing (or NA, where that is the default) is the default."""
    if name not in raw.columns:
        return [default] * len(raw)
    absent = ("", "na", "nan", "none") if math.isnan(default) else ("",)
    values = []
    for where, word in _words(raw, name, path):
        try:
            value = default if word.lower() in absent else float(word)
            held = word.isascii() and value > lowest and _LEAST <= abs(value) <= _MOST
            good = held or word.lower() in absent
        except ValueError:
            good = False
        if not good:
            wanted = (
                "a number that is not 0 and fits a float32" if lowest < 0 else f"a number above {lowest:g}"
            )
            raise InputError(f"{where}: {name} is {word[:40]!r}, expected {wanted}.")
        values.append(value)
    return values


def _sum_stats(raw, path) -> list[str]:
    if "sum_stat" not in raw.columns:
        return ["sum"] * len(raw)
    values = []
    for where, word in _words(raw, "sum_stat", path):
        values.append(_SPELLINGS.get(word, word) or "sum")
        if values[-1] not in SUM_STATS:
            raise InputError(f"{where}: sum_stat is {word!r}, expected one of {', '.join(SUM_STATS)}.")
    return values


def _strand_pairs(raw, path) -> pd.Series:
    """Partners by the file's own index column, as Baskerville writes them, turned into row positions."""
    if "strand_pair" not in raw.columns:
        return pd.Series([pd.NA] * len(raw), dtype="Int64")
    index = _whole_numbers(raw, "index", path, range(len(raw)))
    positions = {value: row for row, value in enumerate(index)}
    words = _words(raw, "strand_pair", path)
    pairs: list[int | None] = []
    for where, word in words:
        partner = None if word.lower() in ("", "na", "nan") else whole_number(word, where, "strand_pair")
        if partner is not None and partner not in positions:
            raise InputError(f"{where}: strand_pair is {word!r}, expected the index of another row.")
        pairs.append(None if partner is None else positions[partner])
    for row, ((where, _), partner) in enumerate(zip(words, pairs, strict=True)):
        if partner is not None and pairs[partner] != row:
            raise InputError(
                f"{where}: strand_pair names the track of line {raw.index[partner]}, which names another."
            )
    return pd.Series(pairs, dtype="Int64")


def strand_order(targets: pd.DataFrame) -> np.ndarray:
    """For each track the position of the track that is read on the other strand: `[tracks]` int64.

    A track with no `strand_pair` is its own partner.
    """
    own = np.arange(len(targets))
    pair = targets["strand_pair"]
    return np.where(pair.isna(), own, pair.fillna(0).astype("int64"))


def write_targets(path: str | os.PathLike, targets: pd.DataFrame) -> None:
    """Write a table of `read_targets` so that `read_targets` gives it back; what is written is as `as_rows` says."""
    rows = as_rows(targets)
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def as_rows(targets: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a table of `read_targets` as words by column, which a model keeps of its tracks.

    `strand_pair` is the partner's index, absent numbers are empty, `category` is left out.
    """
    table = targets.drop(columns="category").astype(object)
    pair = targets["strand_pair"]
    table["strand_pair"] = ["" if pd.isna(p) else int(targets["index"].iloc[int(p)]) for p in pair]
    for name in ("clip", "clip_soft", "scale"):
        table[name] = ["" if math.isnan(value) else f"{value:.12g}" for value in targets[name]]
    return table.astype(str).to_dict("records")
