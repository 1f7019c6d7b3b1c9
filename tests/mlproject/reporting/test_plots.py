"""Figures that several kinds of study share: names beside axes, points and intervals."""

import numpy as np
import pandas as pd
import pytest

from mlproject.reporting import plots


def test_labels_are_text_and_short():
    assert plots.label("<b>a</b>\n b") == "&lt;b&gt;a&lt;/b&gt; b"
    assert len(plots.label("x" * 200)) == 40
    assert plots.label("y" * 40) == "y" * 40


def test_names_that_are_cut_to_the_same_are_numbered():
    long = [f"{'a' * 30}{number}{'b' * 30}" for number in range(2)]
    found = plots.labels([*long, "short", long[0]])
    assert found[0] == found[3] != found[1] and found[2] == "short"
    assert plots.labels(["same", "same"]) == ["same", "same"]


def test_intervals_may_be_uneven_or_unknown():
    table = pd.DataFrame(
        {
            "name": ["a", "b"],
            "value": [0.5, 0.2],
            "low": [0.1, np.nan],
            "high": [0.6, np.nan],
            "stands": [True, False],
        }
    )
    (marks,) = plots.interval_plot(table, "r", zero=True).data
    np.testing.assert_allclose(marks.error_x.array, [0.1, 0.0])
    np.testing.assert_allclose(marks.error_x.arrayminus, [0.4, 0.0])
    assert list(marks.marker.symbol) == ["circle", "circle-open"]


def frame(count):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"n{number}" for number in range(count)],
            "activity": random.normal(size=count),
            "predicted": random.normal(size=count),
            "group": [f"g{number % 20}" for number in range(count)],
        }
    )


def test_many_points_are_a_sample_and_many_groups_have_no_colours():
    figure = plots.measured_plot(frame(plots.MOST_POINTS + 500), "u", by="group")
    _, points = figure.data
    assert len(points.x) == plots.MOST_POINTS and not points.showlegend


@pytest.mark.parametrize("count", [0, 1])
def test_little_is_drawn_or_not_at_all(count):
    drawn = plots.measured_plot(frame(count), "u")
    assert (drawn is None) == (count == 0)
    assert plots.versus_plot(frame(count), "activity", ["predicted"], "r") is None
    assert plots.measured_plot(frame(3).assign(predicted=np.nan), "u") is None
