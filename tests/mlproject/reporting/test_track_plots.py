"""Tracks of two runs: which are compared, which are found, and that hostile words stay words in figures."""

import json

import numpy as np
import pandas as pd
import pytest

from mlproject import reporting

HOSTILE = "<b onclick=x>\u202eevil</b>"


def tracks(pearson, names="abc"):
    return pd.DataFrame(
        {
            "index": range(len(names)),
            "identifier": [*names],
            "description": [f"CAGE:Cell {name.upper()}" for name in names],
            "category": ["CAGE", "DNASE", "own"][: len(names)],
            "pearson_r": pearson,
        }
    )


@pytest.fixture
def pairs():
    return reporting.paired_tracks(tracks([0.1, 0.5, np.nan]), tracks([0.2, 0.3, 0.4]))


def test_tracks_are_paired_by_identifier_and_index():
    second = tracks([9.0, 0.2, 0.3], "xab")  # the same identifiers at other places are other tracks
    found = reporting.paired_tracks(tracks([0.1, 0.5, 0.7]), second)
    assert found.empty
    second["index"] = [7, 0, 1]
    found = reporting.paired_tracks(tracks([0.1, 0.5, 0.7]), second)
    assert found["identifier"].tolist() == ["a", "b"]
    np.testing.assert_allclose(found["difference"], [0.1, -0.2])


def test_words_are_looked_for_in_all_that_is_said_of_a_track(pairs):
    def found(words, categories=()):
        return "".join(reporting.matching_tracks(pairs, words, [*categories])["identifier"])

    assert found("") == "abc" and found("cell b") == "b" and found("DNASE") == "b"
    assert found("cell b own") == "" and found("", ["own", "CAGE"]) == "ac"
    assert found(".*") == ""  # words, no pattern


def test_a_scatter_has_a_point_for_each_row(pairs):
    figure = reporting.track_scatter_plot(pairs, "first", "second")
    drawn = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert [*drawn] == ["DNASE (n = 1)", "CAGE (n = 1)", "own (n = 1)"]
    assert drawn["CAGE (n = 1)"].x.tolist() == [0.1] and drawn["CAGE (n = 1)"].y.tolist() == [0.2]
    assert [trace.customdata[0][0] for trace in drawn.values()] == [1, 0, 2]
    assert len({trace.marker.symbol for trace in drawn.values()}) == 3


def test_a_distribution_has_both_runs(pairs):
    figure = reporting.track_distribution_plot(pairs, "first", "second")
    assert [trace.name for trace in figure.data] == ["first", "second"]
    np.testing.assert_allclose(figure.data[0].y, [0.1, 0.5, np.nan])
    assert figure.layout.xaxis.categoryarray == ("DNASE<br>n = 1", "CAGE<br>n = 1", "own<br>n = 1")


def test_hostile_words_are_words(pairs):
    pairs["identifier"], pairs["description"], pairs["category"] = HOSTILE, HOSTILE, HOSTILE
    for plot in (reporting.track_scatter_plot, reporting.track_distribution_plot):
        drawn = json.dumps(plot(pairs, HOSTILE, HOSTILE).to_dict(), default=str, ensure_ascii=False)
        assert "<b on" not in drawn and "\u202e" not in drawn and "evil" in drawn
