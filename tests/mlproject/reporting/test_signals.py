import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import StepPatch

from made_panels import RANDOM, panel
from mlproject.reporting import signal_figure, write_signal_figure


def steps(axes):
    """What is drawn as steps, by label: values and edges."""
    return {p.get_label(): p.get_data()[:2] for p in axes.patches if isinstance(p, StepPatch)}


def test_every_bin_is_drawn_where_it_lies():
    one = panel(measured=RANDOM.gamma(1.0, 1.0, 50), sd=np.full(50, 0.25))
    (axes,) = signal_figure([one], "made up").axes
    drawn = steps(axes)
    assert set(drawn) == {"predicted", "measured"}
    edges = 1_000_064 + 128 * np.arange(51)
    for name, values in (("predicted", one.predicted), ("measured", one.measured)):
        np.testing.assert_array_equal(drawn[name][0], values)
        np.testing.assert_allclose(drawn[name][1], edges / 1_000)  # 6.4 kb
    assert axes.get_xlabel() == "chr1, position in kb"
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    np.testing.assert_allclose(corners[:, 1].max(), one.predicted.max() + 0.25)
    np.testing.assert_allclose(corners[:, 1].min(), one.predicted.min() - 0.25)
    assert axes.get_ylim()[0] == 0 and axes.get_title(loc="left") == "DNASE:made up"
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["measured", "± 1 sd", "predicted"]


@pytest.mark.parametrize(
    ("bins", "start", "unit"), [(1, 0, "bp"), (15, 0, "bp"), (16, 0, "kb"), (16_000, 10**8, "Mb")]
)
def test_units_by_length(bins, start, unit):
    (axes,) = signal_figure([panel(bins, start=start)], "made up").axes
    assert f"position in {unit}" in axes.get_xlabel()
    low, high = axes.get_xlim()
    scale = {"bp": 1, "kb": 1e3, "Mb": 1e6}[unit]
    np.testing.assert_allclose([low * scale, high * scale], [start, start + 128 * bins])


def test_more_bins_than_a_page_has_points_are_joined():
    values = np.arange(5_001.0)
    values[3:6] = np.nan
    (axes,) = signal_figure([panel(predicted=values, start=0)], "made up").axes
    found, edges = steps(axes)["predicted"]
    expected = [1.0, np.nan, *(values[at : at + 3].mean() for at in range(6, 5_001, 3))]
    np.testing.assert_allclose(found, expected)
    assert edges[-1] == 5_001 * 128 / 1_000
    assert axes.get_xlabel() == "chr1, position in kb; drawn as means over 3 bins"


def test_panels_of_one_place_share_their_axis():
    same = signal_figure([panel(), panel(60)], "made up").axes
    assert [axes.get_xlabel() for axes in same] == ["", "chr1, position in kb"]
    assert same[0].get_xlim() == same[1].get_xlim()
    other = signal_figure([panel(), panel(chrom="chr2")], "made up").axes
    assert [axes.get_xlabel() for axes in other] == ["chr1, position in kb", "chr2, position in kb"]


def test_negative_signal_and_long_names(tmp_path):
    before = dict(matplotlib.rcParams)
    values = np.array([-1.0, 2.0, np.nan])
    path = write_signal_figure(
        [panel(predicted=values, label="$x_{" + "y" * 300)], "100 $ and _{", tmp_path / "s.png"
    )
    assert path == tmp_path / "s.png" and path.read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()
    (axes,) = signal_figure([panel(predicted=values)], "made up").axes
    assert axes.get_ylim()[0] <= -1


def test_labels_do_not_overlap():
    figure = signal_figure([panel(900, start=154_000_000, label=f"track {n}") for n in range(8)], "made up")
    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis, low, high in (("xaxis", "x0", "x1"), ("yaxis", "y0", "y1")):
            boxes = [
                label.get_window_extent()
                for label in getattr(axes, axis).get_ticklabels()
                if label.get_text() and label.get_visible()
            ]
            for left, right in itertools.pairwise(sorted(boxes, key=lambda box: getattr(box, low))):
                assert getattr(left, high) <= getattr(right, low)
