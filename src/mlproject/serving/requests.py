"""The body of a request as a table and parameters, or why it is none: nothing of it reaches MLflow unchecked.

The four JSON forms and CSV are those of MLflow's scoring server. Rows are counted from 0, as in the answers.
"""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

JSON, CSV = "application/json", "text/csv"
FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")

_MOST_DEPTH = 8  # {"dataframe_split": {"data": [[...]]}} has four
_WHOLE = {"integer": 2**31, "long": 2**63}
_WORDS = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "a whole number",
    "long": "a whole number",
    "float": "a number",
    "double": "a number",
}
TYPES = tuple(_WORDS)
_DTYPES = {
    "boolean": np.bool_,
    "integer": np.int32,
    "long": np.int64,
    "float": np.float32,
    "double": np.float64,
}
# one that is not closed goes to the end: to look for its other end from each quote in it would take for ever
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)

csv.field_size_limit(2**31 - 1)  # the body has a limit of its own


class Refused(Exception):
    """A request that gets no prediction: the HTTP status, and one line that says what was found and where."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Schema(NamedTuple):
    """What a model takes: types are those of MLflow's signatures, by name."""

    columns: Mapping[str, tuple[str, bool]]
    """Name of a column: its type, and whether it is required."""
    params: Mapping[str, tuple[str, bool]]
    """Name of a parameter: its type, and whether it is a list of them."""


class Asked(NamedTuple):
    """A request that the model may see."""

    table: pd.DataFrame
    params: dict[str, Any]

    @property
    def key(self) -> str:
        """Requests of one key can be one call: the same parameters, and columns of the same names and types."""
        columns = [(str(name), str(self.table[name].dtype)) for name in self.table]
        return json.dumps([self.params, columns], sort_keys=True)


def media_type(content_type: str | None, encoding: str | None) -> str:
    """JSON or CSV.

    Raises:
        Refused: 415 for anything else, as for what is not UTF-8 or is compressed.
    """
    known = f"expected {JSON} or {CSV}"
    if not content_type:
        raise Refused(415, f"content-type: none was sent; {known}")
    kind, *parameters = [part.strip().lower() for part in content_type.split(";")]
    if kind not in (JSON, CSV):
        raise Refused(415, f"content-type: found {short(content_type)}; {known}")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip() != "charset" or value.strip().strip('"') not in ("utf-8", "utf8"):
            raise Refused(415, f"content-type: found {short(parameter)}; only charset=utf-8 may follow")
    if encoding and encoding.strip().lower() != "identity":
        raise Refused(415, f"content-encoding: found {short(encoding)}; send the body as it is")
    return kind


def read(media: str, body: bytes, schema: Schema, max_rows: int) -> Asked:
    """The table and the parameters that a body holds.

    Args:
        media: JSON or CSV.
        body: all of it.
        schema: what the model takes.
        max_rows: that one request may have.

    Raises:
        Refused: 400 and what is wrong where, or 413 for more rows.
    """
    if not body.strip():
        raise Refused(400, "body: it is empty")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"body: byte {error.start} is not UTF-8") from None
    params: dict[str, Any] = {}
    if media == CSV:
        columns, rows = _csv(text, schema, max_rows)
    else:
        columns, rows, params = _json(body, text, schema, max_rows)
    if rows == 0:
        raise Refused(400, "body: found no rows; send at least one")
    return Asked(_table(columns, rows, schema), params)


def short(value: object) -> str:
    """A value as a message shows it: quoted, on one line and of a bounded length."""
    word = repr(str(value)[:61])
    return word if len(str(value)) <= 60 else f"{word[:60]}…'"


# --- JSON -----------------------------------------------------------------------------------------------------------


def _json(
    body: bytes, text: str, schema: Schema, max_rows: int
) -> tuple[dict[str, list[Any]], int, dict[str, Any]]:
    _check_size(body, max_rows)
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise Refused(
            400, f"body: not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise Refused(400, "body: JSON is nested too deeply") from None
    except ValueError:  # a whole number of thousands of digits
        raise Refused(400, "body: JSON has a number that is too long") from None
    if not isinstance(found, dict):
        raise Refused(400, f"body: found {_kind(found)}; expected an object with one of {', '.join(FORMS)}")
    unknown = [key for key in found if key not in (*FORMS, "params")]
    if unknown:
        raise Refused(
            400, f"body: unknown key {short(unknown[0])}; expected params and one of {', '.join(FORMS)}"
        )
    forms = [key for key in found if key != "params"]
    if len(forms) != 1:
        raise Refused(
            400, f"body: found {' and '.join(forms) or 'no rows'}; expected one of {', '.join(FORMS)}"
        )
    params = _params(found.get("params"), schema)
    form, value = forms[0], found[forms[0]]
    columns, rows = _split(value, form) if form == "dataframe_split" else _rows(value, form, schema)
    if rows > max_rows:
        raise _too_many(rows, max_rows)
    return columns, rows, params


def _check_size(body: bytes, max_rows: int) -> None:
    """Before it is parsed: a parser takes 30 times the memory of a body of nothing but brackets."""
    opened = body.count(b"[") + body.count(b"{")
    if opened <= _MOST_DEPTH:
        return
    bare = np.frombuffer(_STRINGS.sub(b"", body), np.uint8)
    step = np.zeros(256, np.int8)
    step[[ord("["), ord("{")]], step[[ord("]"), ord("}")]] = 1, -1
    steps = step[bare]
    if len(steps) and int(np.cumsum(steps, dtype=np.int32).max()) > _MOST_DEPTH:
        raise Refused(400, f"body: JSON is nested more than {_MOST_DEPTH} deep")
    if (rows := int((steps > 0).sum())) > max_rows + _MOST_DEPTH:
        raise _too_many(rows, max_rows)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Refused(400, f"body: the key {short(key)} stands twice in one object")
            seen.add(key)
    return found


def _constant(word: str) -> Any:
    raise Refused(400, f"body: found {word}, which is not JSON; leave the value out or send null")


def _split(value: Any, form: str) -> tuple[dict[str, list[Any]], int]:
    if not isinstance(value, dict):
        raise Refused(400, f"{form}: found {_kind(value)}; expected an object with columns and data")
    for key in value:
        if key not in ("columns", "data", "index"):
            raise Refused(400, f"{form}: unknown key {short(key)}; expected columns and data")
    names, data = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused(400, f"{form}: columns: expected a list of names")
    if len(set(names)) != len(names):
        raise Refused(400, f"{form}: columns: a name stands twice")
    if not isinstance(data, list):
        raise Refused(400, f"{form}: data: found {_kind(data)}; expected a list of rows")
    for row, cells in enumerate(data):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise Refused(
                400, f"{form}: row {row}: expected a list of {len(names)} values, as there are columns"
            )
    return {name: [cells[place] for cells in data] for place, name in enumerate(names)}, len(data)


def _rows(value: Any, form: str, schema: Schema) -> tuple[dict[str, list[Any]], int]:
    """`dataframe_records`, and what `inputs` and `instances` may be besides: a table by column, or one column."""
    if isinstance(value, dict) and form == "inputs":
        columns = {name: cells if isinstance(cells, list) else [cells] for name, cells in value.items()}
        sizes = {name: len(cells) for name, cells in columns.items()}
        if len(set(sizes.values())) > 1:
            raise Refused(400, f"{form}: columns have different numbers of rows")
        return columns, next(iter(sizes.values()), 0)
    if not isinstance(value, list):
        raise Refused(400, f"{form}: found {_kind(value)}; expected a list of rows")
    if form != "dataframe_records" and value and not isinstance(value[0], dict):
        required = [name for name, (_, needed) in schema.columns.items() if needed]
        if len(schema.columns) != 1 and len(required) != 1:
            raise Refused(400, f"{form}: row 0: found {_kind(value[0])}; expected an object, column by name")
        return {(required or list(schema.columns))[0]: value}, len(value)
    for row, cells in enumerate(value):
        if not isinstance(cells, dict):
            raise Refused(400, f"{form}: row {row}: found {_kind(cells)}; expected an object, column by name")
        for name in cells:
            _check_column(name, schema, f"{form}: row {row}")
    names = dict.fromkeys(name for cells in value for name in cells)
    return {name: [cells.get(name) for cells in value] for name in names}, len(value)


def _params(value: Any, schema: Schema) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(400, f"params: found {_kind(value)}; expected an object, parameter by name")
    found = {}
    for name, given in value.items():
        if name not in schema.params:
            known = ", ".join(schema.params) or "none"
            raise Refused(400, f"params: unknown parameter {short(name)}; the model takes {known}")
        kind, is_list = schema.params[name]
        if given is None:  # as if it was left out
            continue
        if is_list:
            if not isinstance(given, list):
                raise Refused(400, f"params: {name}: found {_kind(given)}; expected a list")
            found[name] = [
                _cell(one, kind, f"params: {name}: element {place}") for place, one in enumerate(given)
            ]
        else:
            found[name] = _cell(given, kind, f"params: {name}")
    return found


# --- CSV ------------------------------------------------------------------------------------------------------------


def _csv(text: str, schema: Schema, max_rows: int) -> tuple[dict[str, list[Any]], int]:
    """Cells are read by the type of their column: letters such as NA stay letters. An empty cell is none."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        names = next((row for row in reader if row), [])
        if len(set(names)) != len(names):
            raise Refused(400, "line 1: a name of a column stands twice")
        for name in names:
            _check_column(name, schema, "line 1")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        rows = 0
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise Refused(
                    400, f"row {rows}: found {len(cells)} values; expected {len(names)}, as there are columns"
                )
            for name, cell in zip(names, cells, strict=True):
                columns[name].append(_word(cell, schema.columns[name][0], f"row {rows}, column {name}"))
            rows += 1
            if rows > max_rows:
                raise Refused(413, f"found more than {max_rows} rows; send them in several requests")
    except csv.Error as error:
        raise Refused(400, f"line {reader.line_num}: not CSV: {error}") from None
    return columns, rows


def _word(cell: str, kind: str, where: str) -> Any:
    if kind == "string":
        return cell
    if cell == "":
        return None
    found: Any = cell
    if kind == "boolean":
        found = {"true": True, "false": False}.get(cell.lower(), cell)
    elif re.fullmatch(r"[+-]?[0-9]{1,20}", cell):
        found = int(cell)
    elif kind in ("float", "double") and re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?", cell[:100]):
        with contextlib.suppress(ValueError):
            found = float(cell)
    return _cell(found, kind, where)


# --- cells ----------------------------------------------------------------------------------------------------------


def _table(columns: dict[str, list[Any]], rows: int, schema: Schema) -> pd.DataFrame:
    series = {}
    for name, cells in columns.items():
        _check_column(name, schema, "columns")
        kind = schema.columns[name][0]
        checked = [
            None if cell is None else _cell(cell, kind, f"row {row}, column {name}")
            for row, cell in enumerate(cells)
        ]
        empty = [row for row, cell in enumerate(checked) if cell is None]
        if len(empty) == rows:  # as if it was left out
            continue
        if empty and kind != "string":
            raise Refused(
                400, f"row {empty[0]}, column {name}: found no value; all rows need one, or none has it"
            )
        series[name] = pd.Series(checked, dtype=object if kind == "string" else _DTYPES[kind])
    for name, (_, required) in schema.columns.items():
        if required and name not in series:
            raise Refused(400, f"column {name}: it is missing; the model needs it")
    if not series:
        raise Refused(400, f"columns: found none; the model takes {', '.join(schema.columns)}")
    return pd.DataFrame(series)


def _check_column(name: str, schema: Schema, where: str) -> None:
    if name not in schema.columns:
        raise Refused(
            400, f"{where}: unknown column {short(name)}; the model takes {', '.join(schema.columns)}"
        )


def _cell(value: Any, kind: str, where: str) -> Any:
    """The value, if it is one of that type."""
    if kind in _WHOLE and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (bool, str)):
        right = kind == ("boolean" if isinstance(value, bool) else "string")
    elif isinstance(value, int) and kind in _WHOLE:
        right = -_WHOLE[kind] <= value < _WHOLE[kind]
    elif isinstance(value, (int, float)) and kind in ("float", "double"):
        # 1e999 is read as infinity; a whole number may be too large for a float
        right = math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1000
        right = right and (kind == "double" or abs(value) < 3.4e38)
    else:
        right = False
    if not right:
        raise Refused(400, f"{where}: found {_kind(value)}; expected {_WORDS[kind]}")
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, in words that hold nothing of it but a short number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        try:
            return f"the number {value:.10g}"
        except OverflowError:
            return "a very large number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, Sequence) else "an object"


def _too_many(rows: int, max_rows: int) -> Refused:
    return Refused(413, f"found {rows} rows; at most {max_rows} in one request, send them in several")
