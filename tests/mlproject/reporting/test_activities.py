import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection

from mlproject import reporting


def activities(groups, sd=0.05):
    """A construct table with these groups."""
    random = np.random.default_rng(0)
    values = random.uniform(0.1, 1, (2, len(groups)))
    columns = {
        "group": groups,
        "cluster": groups,
        "activity": values[0],
        "predicted": values[1],
        "predicted_sd": sd,
    }
    return pd.DataFrame({**columns, "peaksum": values[1] * 30, "peaksum_sd": sd})


def drawn(constructs, column="predicted", label="predicted activity"):
    """The axes of the figure, the places of its points, and the names in its legend."""
    (axes,) = reporting.activity_figure(constructs, "made up", column, label).axes
    points = [found for found in axes.collections if isinstance(found, PathCollection)]
    places = np.concatenate([found.get_offsets() for found in points])
    return axes, places, [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_construct_is_a_point_with_its_deviation():
    constructs = activities([f"g{n % 3}" for n in range(20)])
    axes, places, names = drawn(constructs)
    np.testing.assert_allclose(places, constructs[["predicted", "activity"]])
    assert names == ["g0", "g1", "g2"]
    (bars,) = (found for found in axes.collections if isinstance(found, LineCollection))
    ends = np.array(bars.get_segments())  # [n, 2, 2]
    np.testing.assert_allclose(np.ptp(ends[:, :, 0], axis=1), 0.1)
    np.testing.assert_allclose(ends.mean(1), constructs[["predicted", "activity"]])
    assert axes.get_xlabel() == "predicted activity\n(points: mean over offsets; lines: ± 1 sd over offsets)"
    assert axes.get_ylabel() == "measured activity" and axes.get_title() == "made up, n = 20"


@pytest.mark.parametrize(("count", "last"), [(12, "g11"), (13, "other"), (40, "other")])
def test_a_legend_names_twelve_groups_at_most(count, last):
    """The largest ones: group n has one construct more than group n + 1, up to the twelfth."""
    groups = [f"g{n}" for n in range(count) for _ in range(max(1, 13 - n))]
    axes, places, names = drawn(activities(groups))
    assert len(places) == len(groups)
    assert names == [*(f"g{n}" for n in range(11)), last]
    (points,) = (found for found in axes.collections if isinstance(found, PathCollection))
    shapes = [path.vertices.tobytes() for path in points.get_paths()]
    colors = map(tuple, points.get_facecolors())
    assert len(set(zip(colors, shapes, strict=True))) == 12  # of ten colours, each with a marker of its own


def test_a_group_that_is_called_other_is_no_second_one():
    groups = ["other"] * 30 + [f"g{n}" for n in range(20)]
    _, places, names = drawn(activities(groups))
    assert len(places) == 50 and names.count("other") == 1 and len(names) == 11


def test_equality_is_a_line_of_activities_only():
    constructs = activities(["g"] * 5)

    def line(column):
        axes, places, _ = drawn(constructs, column, "sum of mouse 10")
        np.testing.assert_allclose(places, constructs[[column, "activity"]])
        return [found.get_xydata() for found in axes.lines if len(found.get_xydata())]  # not the legend's

    (equality,) = line("predicted")
    np.testing.assert_array_equal(equality[:, 0], equality[:, 1])
    both = constructs[["activity", "predicted"]]
    assert equality[0, 0] <= both.min(axis=None) and equality[1, 0] >= both.max(axis=None)
    assert not line("peaksum")


def test_one_window_for_each_construct_has_no_deviation(tmp_path):
    before = dict(matplotlib.rcParams)
    path = reporting.write_activity_figure(activities(["g"] * 4, np.nan), "made up", tmp_path / "a.png")
    assert path == tmp_path / "a.png" and path.read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()


def test_the_comparison_is_a_line_for_each_predictor():
    numbers = {"pearson": 0.1234, "pearson_low": -0.5, "pearson_high": 0.75}
    more = {"spearman": 0.5, "spearman_low": np.nan, "spearman_high": np.nan}
    more["pearson_within"] = np.nan
    comparison = pd.DataFrame([{"predictor": name, **numbers, **more} for name in ("fine-tuned", "ridge")])
    header, rule, first, second = reporting.comparison_text(comparison).splitlines()
    assert header.split("  ")[0] == "predictor" and "Pearson r" in header and "Spearman r" in header
    assert set(rule) == {"-", " "}
    assert first.split() == ["fine-tuned", "0.123", "(-0.500", "to", "0.750)", "undefined", "0.500"]
    assert second.startswith("ridge ") and first.index("0.123") == second.index("0.123")


def test_many_groups_of_few_clusters_are_coloured_by_cluster():
    constructs = activities([f"g{n}" for n in range(20)]).assign(cluster=["_a", "$x_{$"] * 10)
    axes, places, names = drawn(constructs)
    assert axes.get_legend().get_title().get_text() == "cluster" and len(places) == 20
    assert sorted(name.lstrip("\N{ZERO WIDTH SPACE}") for name in names) == [r"\$x_{\$", "_a"]
    axes.figure.canvas.draw()  # neither hidden nor read as mathematics


def test_long_names_stay_different():
    constructs = activities(["a" * 40 + end for end in "bc"] * 3)
    _, _, names = drawn(constructs)
    assert len(set(names)) == 2 and max(map(len, names)) < 36
