"""What a model has predicted, as compact JSON: the shortest digits that read back as the same number."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd


def predictions(found: Any) -> bytes:
    """`{"predictions": ...}` as MLflow's scoring server has it, without spaces; NaN and infinity are null."""
    if isinstance(found, pd.DataFrame):
        names = [str(name) for name in found.columns]
        columns = [_plain_column(found.iloc[:, place]) for place in range(len(names))]
        found = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    elif isinstance(found, pd.Series):
        found = _plain_column(found)
    return compact({"predictions": found})


def compact(value: Any) -> bytes:
    """A value as one line of JSON without spaces."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValueError:  # NaN or infinity, which JSON has no words for
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.encode()


def _plain_column(column: pd.Series) -> list[Any]:
    if column.dtype == object:
        return column.tolist()
    if isinstance(column.dtype, np.dtype):
        return _plain(column.to_numpy())
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def _plain(value: Any) -> Any:
    """What JSON has no words for, as what it has: a float32 as the shortest number that is read as the same one."""
    if isinstance(value, (np.floating, np.ndarray)) and value.dtype in (np.float32, np.float16):
        if not value.ndim:
            return float(str(value))
        flat = list(map(float, map(str, value.ravel())))
        return flat if value.ndim == 1 else np.array(flat).reshape(value.shape).tolist()
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return value.to_dict()
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return _finite(_plain(value))
