"""Tables and text of how well tracks are predicted, one by one and by category."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mlproject.reporting.style import aligned

_FIRST_CATEGORIES = ("DNASE", "CAGE", "CHIP", "ATAC")


def track_table(
    targets: pd.DataFrame, pearson: np.ndarray, r2: np.ndarray, n: int | np.ndarray
) -> pd.DataFrame:
    """One row for each track: index, identifier, description, category, pearson_r, r2, n.

    Args:
        targets: columns index, identifier, description and category, in the order of the arrays.
        pearson: shape=(tracks,); NaN where the track or its prediction does not vary.
        r2: shape=(tracks,).
        n: values that each number is of.
    """
    table = targets[["index", "identifier", "description", "category"]].reset_index(drop=True)
    return table.assign(pearson_r=np.asarray(pearson), r2=np.asarray(r2), n=n)


def category_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Pearson r by category: category, tracks, nan_tracks, mean, median, std (of a sample), min, max.

    `tracks` counts all of them; the statistics leave the NaN ones out.
    """
    groups = table.groupby("category")["pearson_r"]
    summary = groups.agg(["mean", "median", "std", "min", "max"])
    summary.insert(0, "nan_tracks", groups.size() - groups.count())
    summary.insert(0, "tracks", groups.size())
    return summary.loc[categories_in_order(list(summary.index))].reset_index()


def track_results(
    targets: pd.DataFrame,
    pearson: np.ndarray,
    r2: np.ndarray,
    n: int,
    *,
    organism: str,
    prefix: str = "pearson",
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """What a run keeps of an evaluation: tables by name, and final numbers.

    Args:
        targets, pearson, r2, n: as `track_table` takes them.
        organism: what the tables are called after.
        prefix: of the numbers.

    Returns:
        Tables `tracks_ORGANISM` and `categories_ORGANISM`; numbers `PREFIX/CATEGORY`, `PREFIX/mean` (over tracks that
        are not NaN; NaN where all are) and `PREFIX/nan_tracks`.
    """
    table = track_table(targets, pearson, r2, n)
    categories = category_summary(table)
    numbers = {f"{prefix}/{row.category}": row.mean for row in categories.itertuples()}
    numbers[f"{prefix}/mean"] = float(table["pearson_r"].mean())
    numbers[f"{prefix}/nan_tracks"] = int(table["pearson_r"].isna().sum())
    return {f"tracks_{organism}": table, f"categories_{organism}": categories}, numbers


def numbers_text(numbers: Mapping[str, Sequence[float]]) -> str:
    """A table for the terminal: each number's mean and standard deviation over runs."""
    return aligned(
        [["", "mean"], *([name, mean_and_sd(pd.Series(values))] for name, values in numbers.items())]
    )


def mean_and_sd(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "missing"
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def categories_in_order(categories: list[str]) -> list[str]:
    """The four categories of the published data first, in its order; then the others as they come."""
    return [name for name in _FIRST_CATEGORIES if name in categories] + [
        name for name in categories if name not in _FIRST_CATEGORIES
    ]
