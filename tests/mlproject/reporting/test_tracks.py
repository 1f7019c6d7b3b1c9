import numpy as np
import pandas as pd
import pytest

from mlproject import reporting

TARGETS = pd.DataFrame(
    {
        "index": [4, 0, 1, 2, 3],
        "identifier": list("abcde"),
        "description": "x",
        "category": ["CHIP", "RNA", "CHIP", "DNASE", "RNA"],
    }
)
R = np.array([0.5, np.nan, 0.1, 0.7, np.nan])


def test_results_are_tables_and_final_numbers():
    tables, numbers = reporting.track_results(TARGETS, R, R**2, 640, organism="lab")
    assert list(tables) == ["tracks_lab", "categories_lab"]
    pd.testing.assert_frame_equal(tables["tracks_lab"], reporting.track_table(TARGETS, R, R**2, 640))
    pd.testing.assert_frame_equal(tables["categories_lab"], reporting.category_summary(tables["tracks_lab"]))
    assert list(numbers) == [
        "pearson/DNASE", "pearson/CHIP", "pearson/RNA", "pearson/mean", "pearson/nan_tracks"
    ]  # fmt: skip
    assert numbers["pearson/CHIP"] == pytest.approx(0.3) and numbers["pearson/DNASE"] == pytest.approx(0.7)
    assert np.isnan(numbers["pearson/RNA"]) and numbers["pearson/nan_tracks"] == 2
    assert numbers["pearson/mean"] == pytest.approx(np.mean([0.5, 0.1, 0.7]))


def test_a_prefix_of_their_own_for_another_organism():
    _, numbers = reporting.track_results(TARGETS, R, R, 1, organism="mouse", prefix="pearson_mouse")
    assert {name.partition("/")[0] for name in numbers} == {"pearson_mouse"}


def test_where_all_tracks_are_nan_so_is_their_mean():
    _, numbers = reporting.track_results(TARGETS, R * np.nan, R, 1, organism="lab")
    assert np.isnan(numbers["pearson/mean"]) and numbers["pearson/nan_tracks"] == 5


def test_numbers_are_a_table_of_means_and_deviations_over_runs():
    text = reporting.numbers_text({"mean": [0.2, 0.4], "gc": [0.25], "RNA": [float("nan"), float("nan")]})
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    assert lines[0] == ["mean"]
    assert lines[2:] == [
        ["mean", f"0.3000 ± {np.std([0.2, 0.4], ddof=1):.4f}"],
        ["gc", "0.2500"],
        ["RNA", "missing"],
    ]
    assert (
        len(
            {
                line.index(word)
                for line, word in zip(text.splitlines()[2:], ("0.3", "0.2", "miss"), strict=True)
            }
        )
        == 1
    )
