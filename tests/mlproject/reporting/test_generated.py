import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection

from mlproject import reporting

JUDGES = {"judged": "by a judge", "predicted": "by itself"}


def sequences(targets, count, seed):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"target": np.repeat(np.asarray(targets, float), count)})
    for column in JUDGES:
        frame[column] = frame["target"] + random.normal(0, 0.1, len(frame))
    return frame


@pytest.mark.parametrize("targets", [[1, 2, 4], [2], np.linspace(0, 1, 40)])
def test_every_sequence_is_a_point_near_its_target(targets):
    generated, random = sequences(targets, 5, 0), sequences(targets, 5, 1)
    figure = reporting.generated_figure(generated, random, JUDGES, "made up")
    assert [axes.get_title() for axes in figure.axes] == list(JUDGES.values())
    room = np.diff(np.unique(targets)).min() / 2 if len(targets) > 1 else 0.5
    for axes, column in zip(figure.axes, JUDGES, strict=True):
        grey, blue = (found for found in axes.collections if isinstance(found, PathCollection))
        for points, frame, side in ((grey, random, 1), (blue, generated, -1)):
            x, y = points.get_offsets().T
            np.testing.assert_allclose(y, frame[column])
            assert (side * (x - frame["target"]) > 0).all() and np.abs(x - frame["target"]).max() < room
        assert tuple(grey.get_facecolor()[0]) != tuple(blue.get_facecolor()[0])
        means = [
            line.get_segments()[0] for line in axes.collections if isinstance(line, LineCollection)
        ]  # of each target, random ones first
        expected = [frame.groupby("target")[column].mean() for frame in (random, generated)]
        np.testing.assert_allclose([segment[0, 1] for segment in means], np.concatenate(expected))
        (equality,) = axes.lines
        np.testing.assert_array_equal(*equality.get_xydata().T)
        assert equality.get_xdata()[0] <= min(min(targets), generated[column].min())
        assert axes.get_xlabel() == "target, in the units of the training labels"
    assert figure.axes[0].get_ylabel() == "activity, in the units of the training labels"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    n = len(generated)
    assert said[:2] == [f"generated, n = {n}", f"random, same constraints, n = {n}"]


def compositions(names, windows=3):
    random = np.random.default_rng(0)

    def shares(rows):
        return pd.DataFrame(random.dirichlet([5] * 4, rows), columns=list("ACGT"))

    groups = shares(len(names)).assign(n=range(3, 3 + len(names)))
    groups.index = names
    positions = {name: shares(windows).assign(position=np.arange(windows) + 0.5) for name in ("new", "old")}
    return groups, positions


@pytest.mark.parametrize("names", [["training", "random", "generated"], [f"g{n}" for n in range(8)]])
def test_the_composition_is_a_bar_for_each_group_and_a_line_for_each_letter(names):
    groups, positions = compositions(names)
    bars, lines = reporting.composition_figure(groups, positions, "made up $x_{$").axes
    heights = np.array([[bar.get_height() for bar in container] for container in bars.containers])
    np.testing.assert_allclose(heights, groups[list("ACGT")])
    places = np.array([[bar.get_x() + bar.get_width() / 2 for bar in one] for one in bars.containers])
    np.testing.assert_array_equal(places.mean(0).round(6), range(4))
    assert len({bar[0].get_facecolor() for bar in bars.containers}) == len(names)
    said = [text.get_text() for text in bars.get_legend().get_texts()]
    assert said == [f"{name}, n = {3 + number}" for number, name in enumerate(names)]
    drawn = {line.get_label(): line for line in lines.lines}
    for name, frame in positions.items():
        for letter in "ACGT":
            line = drawn.pop(f"{letter}, {name}")
            np.testing.assert_allclose(line.get_xydata(), frame[["position", letter]])
            assert (line.get_linestyle() == "-") == (name == "new")
    assert not drawn
    assert "bp" in lines.get_xlabel() and bars.get_ylabel() == "share of letters"
    bars.figure.canvas.draw()


def test_pictures_are_written(tmp_path):
    before = dict(matplotlib.rcParams)
    first = tmp_path / "a.png"
    frames = sequences([1, 2], 3, 0), sequences([1, 2], 3, 1)
    assert reporting.write_generated_figure(*frames, JUDGES, "made up", first) == first
    second = tmp_path / "b.png"
    assert reporting.write_composition_figure(*compositions(["a", "b"]), "made up", second) == second
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (first, second))
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()


def test_the_agreement_is_a_line_for_each_who_says_it():
    names = [f"{kind}{end}" for kind in ("spearman", "pearson") for end in ("", "_low", "_high")]
    rows = [
        {
            "what": "judged",
            **dict(zip(names, (0.8, 0.7, 0.9, 0.5, np.nan, np.nan), strict=True)),
            "error": 0.25,
        },
        {"what": "random, judged", **dict.fromkeys(names, np.nan), "error": 1.0},
    ]
    header, rule, first, second = reporting.generated_text(pd.DataFrame(rows)).splitlines()
    assert "Spearman r with target" in header and set(rule) == {"-", " "}
    assert first.split() == ["judged", "0.800", "(0.700", "to", "0.900)", "0.500", "0.250"]
    assert second.split() == ["random,", "judged", "undefined", "undefined", "1.000"]
