"""What a joint model is worth on held-out sequences and windows, beside simple baselines and what replicates allow."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from mlproject.baselines import gc_content, kmer_shares, ridge_predictions
from mlproject.data.joint import MpraExamples
from mlproject.evaluation import correlation, mean_over_tracks, replicate_ceiling

MEAN_OF_CELLS = "mean_of_cells"  # of a hidden cell type: the mean of what is predicted for those with labels
PREDICTORS = {
    "predicted": "joint model",
    MEAN_OF_CELLS: "mean of cell types",
    "kmers": "ridge on 5-mers",
    "gc": "GC content",
}
COVERAGE = "coverage"


def activity_table(
    examples: MpraExamples,
    rows: np.ndarray,
    predicted: np.ndarray,
    hidden: int | None,
    labelled: Collection[int] | None = None,
) -> pd.DataFrame:
    """A row for each measurement: what was measured, what is predicted, and whether the cell type's labels were seen.

    The column labels is `hidden` where nobody was to see them, `none` where there were none to train on, else `seen`.

    Args:
        examples: of the rows.
        rows: measurements `[r]`.
        predicted: `[r]`, in the units of the table.
        hidden: the cell type whose labels nobody trained on, if there is one.
        labelled: cell types with labels to train on; without it, all but the hidden one.
    """
    table = examples.table
    sequence, cell = table.sequence[rows], examples.cell[rows]
    seen = np.full(len(rows), True) if labelled is None else np.isin(cell, list(labelled))
    is_hidden = np.full(len(rows), False) if hidden is None else cell == hidden
    return pd.DataFrame(
        {
            "name": [table.names[number] for number in sequence],
            "cell_type": [table.cell_types[number] for number in table.cell[rows]],
            "chromosome": [table.chromosomes[number] for number in sequence],
            "cluster": examples.split.clusters[sequence],
            "labels": np.select([is_hidden, seen], ["hidden", "seen"], "none"),
            "activity": table.activity[rows],
            "spread": table.spread[rows],
            "replicates": table.replicates[rows],
            "predicted": predicted,
        }
    )


def mean_of_cells(predictions: Mapping[int, np.ndarray], is_hidden: np.ndarray) -> np.ndarray:
    """The mean of the predictions for several cell types where the row's own is hidden, NaN elsewhere: `[r]` float64.

    Args:
        predictions: for each cell type with labels, of the rows that are hidden `[hidden rows]`; none: all are NaN.
        is_hidden: `[r]` bool.
    """
    found = np.full(len(is_hidden), np.nan)
    if predictions:
        found[is_hidden] = np.mean(list(predictions.values()), axis=0)
    return found


def baselines(examples: MpraExamples, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """What simple features say of the test measurements, by name: `[test rows]` float64 each.

    `kmers` is a ridge regression on shares of 5-mers, one for each cell type with labels; of a cell type without, it is
    fitted to the mean over the others. `gc` is a line through the share of G and C, fitted likewise.

    Args:
        train: measurements whose activity may be read.
        test: measurements to predict.
    """
    table = examples.table
    numbers, place = np.unique(table.sequence[np.concatenate([train, test])], return_inverse=True)
    sequences = [table.sequences[number] for number in numbers]
    features = {"kmers": kmer_shares(sequences), "gc": gc_content(sequences)[:, np.newaxis]}
    clusters = examples.split.clusters[numbers].astype(str)
    of_train, of_test = place[: len(train)], place[len(train) :]
    found = {name: np.full(len(test), np.nan) for name in features}
    seen = np.unique(examples.cell[train])
    fits: dict[
        bytes, list[tuple[int, np.ndarray]]
    ] = {}  # cell types of the same sequences are fitted together
    for cell in np.unique(examples.cell[test]):
        own = examples.cell[train] == cell if cell in seen else np.ones(len(train), bool)
        total = np.bincount(of_train[own], table.activity[train][own], len(numbers))
        count = np.bincount(of_train[own], minlength=len(numbers))
        fits.setdefault((count > 0).tobytes(), []).append((cell, total / np.maximum(1, count)))
    for sequences_known, of_cells in fits.items():
        known = np.frombuffer(sequences_known, bool)
        activity = np.stack([values for _, values in of_cells], 1)
        for name, of_sequences in features.items():
            predicted = ridge_predictions(of_sequences, activity, known, clusters)
            for column, (cell, _) in enumerate(of_cells):
                asked = examples.cell[test] == cell
                found[name][asked] = predicted[of_test[asked], column]
    return found


def compare_cell_types(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each cell type and predictor: r with 95% intervals over clusters, and the ceiling of the replicates.

    A predictor that is NaN in all of a cell type has no row for it.

    Args:
        table: of `activity_table`, with the columns.
        columns: predictions.

    Returns:
        cell_type, labels, predictor, the fields of `Correlation`, ceiling (the r that a perfect predictor would have,
        NaN where replicates say nothing), sequences, clusters.
    """
    rows = []
    for (cell_type, labels), own in table.groupby(["cell_type", "labels"], sort=False):
        ceiling = replicate_ceiling(*(own[name].to_numpy() for name in ("activity", "spread", "replicates")))
        for column in columns:
            if own[column].isna().all():  # the mean of other cell types is asked for where labels are hidden
                continue
            found = correlation(own["activity"].to_numpy(), own[column].to_numpy(), own["cluster"])
            rows.append(
                {
                    "cell_type": cell_type,
                    "labels": labels,
                    "predictor": column,
                    **found._asdict(),
                    "ceiling": ceiling,
                    "sequences": len(own),
                    "clusters": own["cluster"].nunique(),
                }
            )
    return pd.DataFrame(rows)


def activity_numbers(comparison: pd.DataFrame) -> dict[str, float]:
    """Final numbers: r of each predictor, means over cell types whose labels were seen, and of the hidden one.

    Names are KIND/activity and KIND/activity_hidden for the model, KIND/kmers and KIND/gc (and _hidden) for baselines,
    KIND/mean_of_cells_hidden, and ceiling/activity. Cell types without any labels to train on do not count.
    """
    numbers: dict[str, float] = {}
    for labels, own in comparison[comparison["labels"] != "none"].groupby("labels"):
        ending = "_hidden" if labels == "hidden" else ""
        for predictor, rows in own.groupby("predictor"):
            name = "activity" if predictor == "predicted" else predictor
            for kind in ("pearson", "spearman"):
                numbers[f"{kind}/{name}{ending}"] = mean_over_tracks(rows[kind].to_numpy())
        ceiling = own["ceiling"].dropna()
        if len(ceiling):
            numbers[f"ceiling/activity{ending}"] = float(ceiling.mean())
    return numbers


def coverage_numbers(
    loss: float, of_cells: Sequence[tuple[float, float]], cells: np.ndarray, hidden: int | None
) -> dict[str, float]:
    """Final numbers of coverage from sequence alone: means over cell types, and those of the hidden one.

    Args:
        loss: cross-entropy in nats.
        of_cells: Pearson and Spearman r of each cell type.
        cells: which cell types these are.
        hidden: the cell type whose labels nobody trained on, if there is one; its coverage was trained on.
    """
    values = np.array(of_cells)
    numbers = {"coverage/loss": loss}
    for column, kind in enumerate(("pearson", "spearman")):
        numbers[f"{kind}/{COVERAGE}"] = mean_over_tracks(values[:, column])
        if hidden is not None and hidden in cells:
            numbers[f"{kind}/{COVERAGE}_hidden"] = float(values[list(cells).index(hidden), column])
    return numbers


def paired_differences(
    results: pd.DataFrame, numbers: Sequence[str], first: str, second: str
) -> pd.DataFrame:
    """What `first` modalities bring over `second`, seed by seed: mean difference with a 95% interval of Student's t.

    Args:
        results: a row for each training: setting (all but modalities and seed, as a word), modalities, seed, numbers.
        numbers: columns to compare.

    Returns:
        setting, number, seeds (pairs), first, second (means), difference, low, high (NaN for fewer than two pairs).
    """
    rows = []
    for setting, own in results.groupby("setting", sort=False):
        by_seed = {name: part.set_index("seed") for name, part in own.groupby("modalities")}
        if first not in by_seed or second not in by_seed:
            continue
        for number in numbers:
            if number not in own:
                continue
            pair = pd.concat(
                [by_seed[first][number], by_seed[second][number]], axis=1, keys=["a", "b"]
            ).dropna()
            if pair.empty:
                continue
            difference = (pair["a"] - pair["b"]).to_numpy()
            half = float("nan")
            if len(difference) > 1:
                error = difference.std(ddof=1) / np.sqrt(len(difference))
                half = float(error * stats.t.ppf(0.975, len(difference) - 1))
            rows.append(
                {
                    "setting": setting,
                    "number": number,
                    "seeds": len(pair),
                    first: pair["a"].mean(),
                    second: pair["b"].mean(),
                    "difference": difference.mean(),
                    "low": difference.mean() - half,
                    "high": difference.mean() + half,
                }
            )
    return pd.DataFrame(rows)
