"""The table of tracks, `targets.txt`: one row per target, in the order of the target axis."""

import io
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd

from mlproject.errors import InputError

SUM_STATS = ("sum", "mean", "max", "median", "sum_sqrt", "mean_sqrt", "max_sqrt", "median_sqrt")
_REQUIRED = ("identifier", "file", "description")
_SPELLINGS = {"avg": "mean", "avg_sqrt": "mean_sqrt"}


def category(description: str) -> str:
    """The kind of assay: what precedes the first colon, upper case ("CHIP", ...); "OTHER" without one."""
    prefix, colon, _ = str(description).partition(":")
    return prefix.strip().upper() if colon and prefix.strip() else "OTHER"


def read_targets(path: str | os.PathLike) -> pd.DataFrame:
    """The table of tracks with typed columns, one row per target.

    Every word is read as text first, so that an identifier `NA` or `007` stays what it is; a byte order mark
    and CRLF are accepted. The first column may have no name, or there may be no index column at all.

    Returns:
      Columns index (int, the row number where the file has none), genome (int, default 0), identifier, file
      (str), clip, clip_soft (float, NaN for none), scale (float, default 1), sum_stat (one of `SUM_STATS`,
      default sum), strand_pair (nullable Int64: position of the track of the other strand), description and
      category (str); then whatever other columns the file has, as text.

    Raises:
      InputError: the file, a column or a row is wrong; the message names it.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"targets {path}: cannot be read ({error.strerror}).") from None
    except UnicodeError:
        raise InputError(f"targets {path}: is not a text file.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(f"targets {path}: has no rows; expected a header line and one line per track.")
    width = len(lines[0].split("\t"))
    for number, line in enumerate(lines[1:], 1):
        if len(line.split("\t")) != width:
            found = len(line.split("\t"))
            raise InputError(f"targets {path}, row {number}: has {found} columns, the header has {width}.")
    raw = pd.read_csv(
        io.StringIO("\n".join(lines)), sep="\t", dtype=str, keep_default_na=False, quoting=3, index_col=False
    )
    raw.columns = [str(name).strip() for name in raw.columns]
    first = raw.columns[0]
    if (first == "" or first.startswith("Unnamed")) and "index" not in raw.columns:
        raw = raw.rename(columns={first: "index"})
    missing = [name for name in _REQUIRED if name not in raw.columns]
    if missing:
        raise InputError(
            f"targets {path}: has no column {missing[0]!r}; "
            f"it has {', '.join(raw.columns)} (separated by tabs)."
        )
    rows = len(raw)
    table = pd.DataFrame(
        {
            "index": _whole_numbers(raw, "index", path, list(range(rows))),
            "genome": _whole_numbers(raw, "genome", path, [0] * rows),
            "identifier": raw["identifier"],
            "file": raw["file"].str.strip(),
            "clip": _numbers(raw, "clip", path, math.nan, lowest=0.0),
            "clip_soft": _numbers(raw, "clip_soft", path, math.nan, lowest=0.0),
            "scale": _numbers(raw, "scale", path, 1.0),
            "sum_stat": _sum_stats(raw, path),
            "strand_pair": _strand_pairs(raw, path),
            "description": raw["description"],
        }
    )
    table["category"] = [category(description) for description in table["description"]]
    for name in raw.columns:
        if name not in table.columns:
            table[name] = raw[name]
    return table


def _words(raw: pd.DataFrame, name: str) -> list[str]:
    return [word.strip() for word in raw[name]]


def _whole_numbers(raw, name: str, path, default: list[int]) -> list[int]:
    if name not in raw.columns:
        return default
    values = []
    for row, word in enumerate(_words(raw, name)):
        if not word.removeprefix("-").isdecimal():
            raise InputError(f"targets {path}, row {row + 1}: {name} is {word!r}, expected a whole number.")
        values.append(int(word))
    return values


def _numbers(raw, name: str, path, default: float, lowest: float | None = None) -> list[float]:
    values = [default] * len(raw)
    if name not in raw.columns:
        return values
    for row, word in enumerate(_words(raw, name)):
        if word.lower() in ("", "na", "nan", "none"):
            continue
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (lowest is not None and value <= lowest):
            wanted = "a number" if lowest is None else f"a number above {lowest:g}"
            raise InputError(f"targets {path}, row {row + 1}: {name} is {word!r}, expected {wanted}.")
        values[row] = value
    return values


def _sum_stats(raw, path) -> list[str]:
    if "sum_stat" not in raw.columns:
        return ["sum"] * len(raw)
    values = [_SPELLINGS.get(word, word) or "sum" for word in _words(raw, "sum_stat")]
    for row, value in enumerate(values):
        if value not in SUM_STATS:
            raise InputError(
                f"targets {path}, row {row + 1}: sum_stat is {value!r}, "
                f"expected one of {', '.join(SUM_STATS)}."
            )
    return values


def _strand_pairs(raw, path) -> pd.Series:
    """Partners by the file's own index column, as Baskerville writes them, turned into row positions."""
    if "strand_pair" not in raw.columns:
        return pd.Series([pd.NA] * len(raw), dtype="Int64")
    index = _whole_numbers(raw, "index", path, list(range(len(raw))))
    positions = {value: row for row, value in enumerate(index)}
    pairs: list[int | None] = []
    for row, word in enumerate(_words(raw, "strand_pair")):
        if word.lower() in ("", "na", "nan"):
            pairs.append(None)
            continue
        if not word.isdecimal() or int(word) not in positions:
            raise InputError(
                f"targets {path}, row {row + 1}: strand_pair is {word!r}, expected the index of another row."
            )
        pairs.append(positions[int(word)])
    for row, partner in enumerate(pairs):
        if partner is not None and pairs[partner] != row:
            raise InputError(
                f"targets {path}, row {row + 1}: strand_pair names row {partner + 1}, which names another."
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
    """Write a table of `read_targets` so that `read_targets` gives it back.

    `strand_pair` is written as the partner's index, absent numbers as nothing, `category` not at all.
    """
    table = targets.drop(columns="category").astype(object)
    pair = targets["strand_pair"]
    table["strand_pair"] = ["" if pd.isna(p) else int(targets["index"].iloc[int(p)]) for p in pair]
    for name in ("clip", "clip_soft", "scale"):
        table[name] = ["" if math.isnan(value) else f"{value:.12g}" for value in targets[name]]
    lines = ["\t".join(table.columns)]
    lines += ["\t".join(str(value) for value in row) for row in table.itertuples(index=False)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
