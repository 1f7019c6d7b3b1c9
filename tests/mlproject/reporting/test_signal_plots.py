import html

import numpy as np
import pytest

from made_panels import RANDOM, panel
from mlproject.reporting import signal_plot


def drawn(figure, name, row=0):
    """What is drawn under a name in a row: x and y."""
    trace = [trace for trace in figure.data if trace.name == name][row]
    return np.asarray(trace.x, float), np.asarray(trace.y, float)


def shapes(x, y):
    """The pieces between gaps."""
    gaps = np.flatnonzero(np.isnan(y))
    return [
        (a[~np.isnan(b)], b[~np.isnan(b)]) for a, b in zip(np.split(x, gaps), np.split(y, gaps), strict=True)
    ]


def test_every_bin_is_drawn_where_it_lies():
    one = panel(measured=RANDOM.gamma(1.0, 1.0, 50), sd=np.full(50, 0.25))
    figure = signal_plot([one])
    x, y = drawn(figure, "predicted")
    for at in range(50):
        low = 1_000_064 + 128 * at
        np.testing.assert_allclose(x[2 * at : 2 * at + 2] * 1000, [low, low + 128])  # in kb
        assert y[2 * at] == y[2 * at + 1] == one.predicted[at]
    x, y = drawn(figure, "measured")
    np.testing.assert_allclose(x[:100], drawn(figure, "predicted")[0])
    np.testing.assert_array_equal(y, [*np.repeat(one.measured, 2), *np.zeros(100)])
    _, y = drawn(figure, "± 1 sd")
    np.testing.assert_allclose(y[:100], np.repeat(one.predicted + 0.25, 2))
    np.testing.assert_allclose(y[:99:-1], np.repeat(one.predicted - 0.25, 2))
    assert figure.layout.xaxis.title.text == "chr1, position in kb"
    assert figure.layout.yaxis.title.text.replace("<br>", " ") == "signal per 128 bp bin"
    assert figure.layout.dragmode == "pan" and figure.layout.yaxis.fixedrange
    assert figure.layout.xaxis.range == (1000.064, 1006.464)


def test_a_line_and_an_area_are_told_apart_without_colour():
    figure = signal_plot([panel(measured=np.ones(50), sd=np.ones(50)), panel(sd=np.ones(50))])
    fills = {trace.name: (trace.fill, trace.line.width) for trace in figure.data if trace.name != "values"}
    assert fills == {"measured": ("toself", 0), "± 1 sd": ("toself", 0), "predicted": (None, 1.5)}
    assert [trace.name for trace in figure.data if trace.showlegend] == ["measured", "± 1 sd", "predicted"]
    assert figure.layout.legend.yref == "container" and figure.layout.legend.y == 0


@pytest.mark.parametrize(
    "known", [[True, True, False, True, False, False, True], [False, True, True], [False] * 3]
)
def test_nan_is_a_gap(known):
    values = np.where(known, np.arange(1.0, len(known) + 1), np.nan)
    figure = signal_plot([panel(predicted=values, measured=values, sd=np.ones(len(known)), start=0)])
    runs = np.split(np.arange(len(known)), np.flatnonzero(np.diff(known)) + 1)
    runs = [run for run in runs if known[run[0]]]
    for name in ("measured", "± 1 sd"):
        pieces = [piece for piece in shapes(*drawn(figure, name)) if len(piece[0])]
        assert len(pieces) == len(runs)
        for (x, y), run in zip(pieces, runs, strict=True):
            assert (x.min(), x.max()) == (128 * run[0], 128 * (run[-1] + 1))
            assert y.max() == values[run].max() + (name != "measured")
    _, y = drawn(figure, "predicted")
    np.testing.assert_array_equal(np.isnan(y), np.repeat(~np.array(known), 2))


def test_pointing_tells_place_and_values():
    figure = signal_plot(
        [panel(2, predicted=np.array([1.5, np.nan]), measured=np.array([2, 3.25]), start=128)]
    )
    (pointed,) = [trace for trace in figure.data if trace.name == "values"]
    assert pointed.text[0] == "chr1:128-256<br>predicted 1.5<br>measured 2"
    assert pointed.text[1] == "chr1:256-384<br>predicted nan<br>measured 3.25"
    assert list(pointed.x) == [192, 320] and list(pointed.y) == [1.5, 3.25]
    assert all(trace.hoverinfo == "skip" for trace in figure.data if trace is not pointed)


def test_panels_of_one_place_share_their_axis():
    same = signal_plot([panel(), panel(60)]).layout
    assert same.xaxis.matches == "x2" and same.xaxis.title.text is None
    assert same.xaxis2.title.text == "chr1, position in kb"
    assert same.xaxis.range == same.xaxis2.range == (1000.064, 1007.744)
    other = signal_plot([panel(), panel(2, chrom="chr2")]).layout
    assert other.xaxis.matches is None
    assert [axis.title.text for axis in (other.xaxis, other.xaxis2)] == [
        "chr1, position in kb",
        "chr2, position in bp",
    ]


def test_words_from_outside_are_text():
    hostile = '<img src=x onerror="alert(1)">'
    figure = signal_plot([panel(label=f"{hostile} {'y' * 300}", chrom=hostile)])
    (title,) = figure.layout.annotations
    safe = html.escape(hostile)
    assert title.text.startswith(safe) and "<img" not in title.text.replace("<br>", "")
    assert len(html.unescape(title.text.replace("<br>", ""))) <= 110
    assert figure.layout.xaxis.title.text.startswith(safe)
    assert all(
        text.startswith(safe) for trace in figure.data if trace.text is not None for text in trace.text
    )
    assert "<img" not in figure.to_html(full_html=False, include_plotlyjs=False)
    assert signal_plot([panel(label="")]).layout.annotations[0].text == " "


def test_more_bins_than_a_browser_pans_are_joined():
    values = np.arange(30_001.0)
    figure = signal_plot([panel(predicted=values, start=0)])
    _, y = drawn(figure, "predicted")
    np.testing.assert_allclose(y[::2], [values[at : at + 3].mean() for at in range(0, 30_001, 3)])
    assert figure.layout.xaxis.title.text == "chr1, position in Mb; means over 3 bins"
    (pointed,) = [trace for trace in figure.data if trace.name == "values"]
    assert pointed.text[1].startswith("chr1:384-768<br>predicted 4")
    for panels, bins, joined in (
        (1, 12_000, 1),
        (4, 3_000, 1),
        (4, 3_001, 2),
        (20, 2_000, 1),
        (20, 2_001, 2),
    ):
        words = signal_plot([panel(bins)] * panels).layout[f"xaxis{panels if panels > 1 else ''}"].title.text
        assert words.endswith("means over 2 bins" if joined == 2 else "position in kb")


@pytest.mark.parametrize("count", [1, 3, 12])
def test_rows_have_the_same_height_and_room_for_their_titles(count):
    label = "CHIP:" + "many words " * 20
    layout = signal_plot([panel(start=1000 * number, label=label) for number in range(count)]).layout
    domains = [layout[f"yaxis{number or ''}"].domain for number in (0, *range(2, count + 1))]
    inside = layout.height - layout.margin.t - layout.margin.b
    np.testing.assert_allclose([(high - low) * inside for low, high in domains], 150)
    for (_, below), (above, _) in zip(domains[1:], domains, strict=False):
        assert (above - below) * inside >= 3 * 16 + 58  # three lines of words, and an axis
    assert layout.margin.t >= 3 * 16


def test_signal_below_zero_is_in_view():
    assert signal_plot([panel(predicted=np.array([-1.0, 2.0]))]).layout.yaxis.range[0] is None
    assert signal_plot([panel(predicted=np.array([1.0, np.nan]))]).layout.yaxis.range[0] == 0


def test_no_panels_are_refused():
    with pytest.raises(ValueError, match="no panels"):
        signal_plot([])
