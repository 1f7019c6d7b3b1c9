import itertools
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mlproject import reporting

VARIANTS = ("vanilla", "komlos", "rope", "rank1", "komlos_rope", "komlos_rank1", "rope_rank1", "all")
REFERENCE = Path(__file__).parents[4] / "shared" / "reference" / "ecozoi_results"


def made_up(variants, seeds, tracks, failed=()):
    """Results and track tables of a grid, with two NaN tracks."""
    random = np.random.default_rng(0)
    targets = pd.DataFrame(
        {
            "index": range(tracks),
            "identifier": [f"T{index}" for index in range(tracks)],
            "description": "made up",
            "category": np.array(["CHIP", "DNASE", "CAGE", "OTHER"])[np.arange(tracks) % 4],
        }
    )
    rows, tables = [], {}
    for variant in variants:
        for seed in seeds:
            row = {"variant": variant, "seed": seed, "train_loss": np.nan, "pearson_mean": np.nan}
            if (variant, seed) in failed:
                rows.append(row | {"failure": "loss became nan at step 3"})
                continue
            r = random.normal(0.3, 0.1, tracks)
            r[:2] = np.nan
            table = reporting.track_table(targets, r, r**2, 128)
            tables[variant, seed] = table
            summary = reporting.category_summary(table).set_index("category")["mean"]
            rows.append(
                row | {"train_loss": 0.7, "pearson_mean": pd.Series(r).mean(), **summary, "failure": None}
            )
    return pd.DataFrame(rows), tables


def test_track_table_keeps_the_order_and_the_columns():
    targets = pd.DataFrame(
        {
            "genome": 0,
            "index": [3, 1],
            "identifier": ["a", "b"],
            "description": ["x", "y"],
            "category": "CAGE",
        },
        index=[7, 5],
    )
    table = reporting.track_table(targets, np.array([0.5, np.nan]), np.array([0.2, np.nan]), 128)
    assert list(table.columns) == ["index", "identifier", "description", "category", "pearson_r", "r2", "n"]
    assert table["index"].tolist() == [3, 1]
    assert table["pearson_r"].tolist()[0] == 0.5
    assert table["n"].tolist() == [128, 128]


def test_category_summary_counts_nan_and_leaves_it_out():
    table = pd.DataFrame(
        {"category": ["CHIP", "CHIP", "CHIP", "DNASE", "MINE"], "pearson_r": [0.1, 0.4, np.nan, 0.3, np.nan]}
    )
    summary = reporting.category_summary(table)
    assert list(summary.columns) == [
        *("category", "tracks", "nan_tracks", "mean", "median", "std", "min", "max")
    ]
    assert summary["category"].tolist() == ["DNASE", "CHIP", "MINE"]
    assert summary["tracks"].tolist() == [1, 3, 1]
    assert summary["nan_tracks"].tolist() == [0, 1, 1]
    chip = summary.iloc[1]
    assert chip["mean"] == pytest.approx(0.25)
    assert chip["std"] == pytest.approx(np.std([0.1, 0.4], ddof=1))
    assert (chip["min"], chip["max"]) == (0.1, 0.4)
    assert np.isnan(summary.iloc[2]["mean"])


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published results are not beside this checkout")
def test_the_published_seeds_give_the_published_tables():
    def read(name):
        return pd.read_csv(REFERENCE / f"experiment_results_human_{name}.csv")

    published = read("all_seeds")
    results = published.rename(
        columns={
            "experiment": "variant",
            "train_loss_human": "train_loss",
            "pearson_human_mean": "pearson_mean",
        }
    )
    shuffled = results.sample(frac=1, random_state=0)[["variant", "seed", "train_loss", "pearson_mean"]]
    tables = reporting.grid_tables(shuffled, "human")
    for name in ("all_seeds", "avg", "seed_42", "seed_123", "seed_2025"):
        expected = read(name)
        ours = tables[f"experiment_results_human_{name}.csv"]
        assert list(ours.columns)[: len(expected.columns)] == list(expected.columns)
        pd.testing.assert_frame_equal(ours[expected.columns], expected, rtol=0, atol=1e-12)
    assert tables["experiment_results_human_avg.csv"]["seeds"].tolist() == [3] * 8


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published results are not beside this checkout")
def test_the_category_table_is_laid_out_as_the_published_one():
    published = pd.read_csv(REFERENCE / "experiment_results_human_categories.csv")
    results = published.rename(columns=lambda name: name.removesuffix("_mean")).rename(
        columns={"experiment": "variant"}
    )
    results = results.assign(seed=42, train_loss=0.0, pearson_mean=0.0)
    ours = reporting.grid_tables(results, "human")["experiment_results_human_categories.csv"]
    pd.testing.assert_frame_equal(ours, published, rtol=0, atol=1e-12)


def test_failed_runs_stay_as_empty_rows():
    failed = {("rope", 1), ("all", 1), ("all", 2)}
    results, _ = made_up(("vanilla", "rope", "all"), (1, 2), 8, failed)
    tables = reporting.grid_tables(results, "mouse")
    every = tables["experiment_results_mouse_all_seeds.csv"]
    assert len(every) == 6
    assert every[every["pearson_mouse_mean"].isna()]["failure"].tolist() == ["loss became nan at step 3"] * 3
    average = tables["experiment_results_mouse_avg.csv"].set_index("experiment")
    assert average["seeds"].to_dict() == {"vanilla": 2, "rope": 1, "all": 0}
    assert np.isnan(average.loc["all", "pearson_mouse_mean"])
    by_hand = results.set_index(["variant", "seed"])["pearson_mean"]
    assert average.loc["rope", "pearson_mouse_mean"] == by_hand["rope", 2]
    assert average.loc["vanilla", "pearson_mouse_sd"] == pytest.approx(np.std(by_hand["vanilla"], ddof=1))
    text = reporting.results_text(results)
    assert "failed: rope seed 1: loss became nan at step 3" in text
    assert [line.split()[:3] for line in text.splitlines()[2:5]] == [
        ["vanilla", "2/2", f"{by_hand['vanilla'].mean():.4f}"],
        ["rope", "1/2", f"{by_hand['rope', 2]:.4f}"],
        ["all", "0/2", "missing"],
    ]


@pytest.mark.parametrize(
    ("variants", "seeds", "tracks", "failed"),
    [
        (VARIANTS, (42, 123, 2025), 64, {("rope", 42), ("rank1", 42), ("rank1", 123), ("rank1", 2025)}),
        (("vanilla",), (42,), 5, ()),
        (("vanilla", "all"), (42,), 2, ()),  # all tracks NaN
        (("vanilla", "all"), (42,), 8, {("vanilla", 42), ("all", 42)}),
    ],
)
def test_every_figure_is_drawn(tmp_path, variants, seeds, tracks, failed):
    before = dict(matplotlib.rcParams)
    results, tables = made_up(variants, seeds, tracks, failed)
    paths = reporting.write_grid(results, tables, "human", tmp_path / "grid")
    assert {path.name for path in paths} == set(os.listdir(tmp_path / "grid"))
    figures = [path for path in paths if path.suffix == ".png"]
    both = {"vanilla", "all"} <= {variant for variant, _ in tables}
    assert [path.name for path in figures] == [
        "overall_human.png",
        *(["categories_human.png"] if results["pearson_mean"].notna().any() else []),
        *(["scatter_human.png"] if both else []),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()


def finite_lines(axes):
    """Without the error bars of a single value."""
    return [line for line in axes.lines if np.isfinite(line.get_xydata()).all()]


def test_bars_are_means_and_their_lines_one_standard_deviation():
    results, tables = made_up(VARIANTS, (42, 123, 2025), 16, {("rope", 42), ("rank1", 42), ("rank1", 123)})
    groups = results.groupby("variant", sort=False)
    overall = reporting.overall_figure(results, "human").axes[0]
    bars = [container.patches[0] for container in overall.containers]
    assert [bar.get_width() for bar in bars] == pytest.approx(groups["pearson_mean"].mean().tolist())
    colors = list(reporting.variant_colors(VARIANTS).values())
    assert [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars] == colors
    lines = [np.ptp(line.get_xdata()) for line in finite_lines(overall)]
    np.testing.assert_allclose(lines, 2 * groups["pearson_mean"].std().dropna())
    (categories,) = reporting.category_figure(results, "human", tables).axes
    names = ["DNASE", "CAGE", "CHIP", "OTHER"]
    assert [label.get_text() for label in categories.get_xticklabels()] == [
        f"{name}\nn = 4" for name in names
    ]
    bars = [[bar.get_height() for bar in container.patches] for container in categories.containers]
    np.testing.assert_allclose(bars, groups[names].mean())
    lines = [np.ptp(line.get_ydata()) for line in finite_lines(categories)]
    np.testing.assert_allclose(lines, 2 * groups[names].std().dropna().to_numpy().ravel())


def test_labels_of_a_figure_do_not_overlap():
    results, tables = made_up(VARIANTS, (42, 123), 16)
    for figure in (
        reporting.overall_figure(results, "human"),
        reporting.category_figure(results, "human", tables),
        reporting.scatter_figure(tables, "human"),
    ):
        figure.draw_without_rendering()
        for axes, (name, low, high) in itertools.product(
            figure.axes, (("xaxis", "x0", "x1"), ("yaxis", "y0", "y1"))
        ):
            axis = getattr(axes, name)
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            boxes.sort(key=lambda box: getattr(box, low))
            for left, right in itertools.pairwise(boxes):
                assert getattr(left, high) <= getattr(right, low)
