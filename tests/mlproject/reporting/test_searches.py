"""Studies made of given trials, and what figures and tables show of them."""

import json
import math
import re
import sys
import time
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from mlproject.reporting import (
    search_figures,
    search_summary,
    search_text,
    searches,
    write_search_figures,
)

HEADS = CategoricalDistribution([8, 0, 2, 16])
KEYS = CategoricalDistribution([64, 16, 32])
RATE = FloatDistribution(1e-5, 1e-2, log=True)
HIDDEN = IntDistribution(32, 512)
KIND = CategoricalDistribution(["attention"])
ALL = ["history.png", "importance.png", "parallel_coordinates.png", "search.html", "slice.png"]


def trial(value=None, heads=8, key=32, rate=1e-3, hidden=64, state="COMPLETE", reported=(), **attributes):
    params = {
        "num_heads": heads,
        "key_size": key,
        "learning_rate": rate,
        "hidden_size": hidden,
        "kind": "attention",
    }
    kinds = {"num_heads": HEADS, "key_size": KEYS, "learning_rate": RATE, "hidden_size": HIDDEN, "kind": KIND}
    if heads == 0:
        del params["key_size"], kinds["key_size"]
    return create_trial(
        state=TrialState[state],
        value=value,
        params=params,
        distributions=kinds,
        intermediate_values=dict(enumerate(reported)),
        **attributes,
    )


def study_of(*trials, direction="maximize", name="made up"):
    study = optuna.create_study(direction=direction, study_name=name)
    study.add_trials(trials)
    return study


def mixed(direction="maximize"):
    """Trial 2 is the best upwards, trial 0 downwards."""
    return study_of(
        trial(0.1, heads=0, rate=1e-5),
        trial(0.3, heads=2, key=16, rate=1e-4, hidden=128),
        trial(0.7, heads=16, key=64, rate=1e-3, hidden=256),
        trial(state="PRUNED", reported=(0.05, 0.2)),
        trial(0.5, heads=8, rate=2e-3, hidden=512, reported=(0.4, 0.5)),
        trial(state="FAIL", user_attrs={"failure": "loss became NaN"}),
        trial(math.inf),
        trial(0.6, heads=8, user_attrs={"failure": "of the first try"}, system_attrs={"failed_trial": 5}),
        trial(state="RUNNING"),
        direction=direction,
    )


def many(count):
    random = np.random.default_rng(0)

    def one(number):
        state = ("COMPLETE", "COMPLETE", "PRUNED", "FAIL")[number % 4]
        heads, rate = int(random.choice(HEADS.choices)), 10 ** random.uniform(-5, -2)
        value = 0.5 - 0.1 * abs(math.log10(rate) + 3) + 0.01 * random.normal()
        return trial(
            value if state == "COMPLETE" else None,
            heads=heads,
            key=int(random.choice(KEYS.choices)),
            rate=rate,
            hidden=int(random.integers(32, 513)),
            state=state,
            reported=(value,) if state == "PRUNED" else (),
        )

    return study_of(*map(one, range(count)))


def test_the_table_is_sorted_best_first(tmp_path):
    frame = search_summary(mixed())
    assert list(frame) == [
        *("number", "state", "value", "num_heads", "learning_rate", "hidden_size", "kind", "key_size"),
        *("epochs", "seconds", "origin", "failure", "retry_of"),
    ]
    assert frame["number"].tolist() == [2, 7, 4, 1, 0, 6, 3, 8, 5]
    assert frame["state"].tolist() == ["complete"] * 6 + ["pruned", "running", "failed"]
    assert frame["value"].tolist()[:6] == [0.7, 0.6, 0.5, 0.3, 0.1, math.inf]
    assert frame["value"][6:].isna().all()  # Optuna gives a pruned trial what it reported last
    by_number = frame.set_index("number")
    assert by_number["epochs"].to_dict() == {2: 0, 7: 0, 4: 2, 1: 0, 0: 0, 6: 0, 3: 2, 8: 0, 5: 0}
    assert by_number.loc[5, "failure"] == "loss became NaN" and by_number.loc[7, "failure"] == ""
    assert by_number["retry_of"].dropna().to_dict() == {7: 5}
    assert by_number["key_size"].dropna().to_dict() == {
        2: 64,
        7: 32,
        4: 32,
        1: 16,
        6: 32,
        3: 32,
        8: 32,
        5: 32,
    }
    assert str(frame["key_size"].dtype) == "Int64"
    frame.to_parquet(tmp_path / "trials.parquet")
    assert search_summary(mixed("minimize"))["number"].tolist() == [0, 1, 4, 7, 2, 6, 3, 8, 5]
    empty = search_summary(study_of())
    assert len(empty) == 0 and list(empty)[:3] == ["number", "state", "value"]


def test_the_text_has_the_best_trials_and_where_they_are_from():
    study = study_of(
        trial(0.1), trial(0.7, heads=16, user_attrs={"origin": "single_64_64"}), trial(state="FAIL")
    )
    lines = search_text(search_summary(study), 1).splitlines()
    assert lines[0].split() == ["trial", "objective", *study.trials[1].params, "origin"]
    assert lines[2].split()[:2] == ["1", "0.7000"] and lines[2].split()[-1] == "single_64_64"
    assert len(lines) == 3
    assert len(search_text(search_summary(study), 9).splitlines()) == 4  # nor a failed one


def test_colours_of_trials():
    for direction, best_first in (("maximize", [2, 7, 4, 1, 0]), ("minimize", [0, 1, 4, 7, 2])):
        colors = searches.trial_colors(mixed(direction))
        assert [*sorted(colors)] == [*range(9)]
        assert [sum(to_rgb(colors[number])) for number in best_first] == sorted(
            sum(to_rgb(colors[number])) for number in best_first
        )
        assert colors[3] == colors[6] == colors[8] == "#B0B0B0" and colors[5] == "#D55E00"
        assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in colors.values())
    assert searches.trial_colors(study_of()) == {}


def test_a_trial_that_was_done_again_counts_once():
    lost = trial(state="FAIL")
    again = trial(0.4, system_attrs={"failed_trial": 1, "retry_history": [1]})
    late = trial(
        state="FAIL", system_attrs={"failed_trial": 0, "retry_history": [0]}
    )  # the first is complete
    study = study_of(trial(0.3), lost, again, late, trial(state="FAIL"))
    search = searches.read_search(study, "r")
    assert [one.number for one in search.trials] == [0, 2, 4]
    assert search.counts() == "3 trials: 2 complete, 0 pruned, 1 failed"
    assert len(search_summary(study)) == 5  # the table has all


def test_choices_of_several_kinds_can_be_kept(tmp_path):
    study = optuna.create_study()
    study.optimize(lambda one: float(len(str(one.suggest_categorical("any", [None, 8, "many"])))), n_trials=9)
    search_summary(study).to_parquet(tmp_path / "trials.parquet")
    assert set(search_summary(study)["any"].dropna()) <= {"8", "many"}


@pytest.mark.parametrize(
    ("direction", "best"),
    [("maximize", [0.1, 0.3, 0.7, 0.7, 0.7, 0.7]), ("minimize", [0.1] * 6)],
)
def test_history(direction, best):
    (axes,) = search_figures.history_figure(searches.read_search(mixed(direction), "loss")).axes
    drawn = {line.get_label(): line.get_xydata().T.tolist() for line in axes.lines}
    assert drawn["complete"] == [[0, 1, 2, 4, 7], [0.1, 0.3, 0.7, 0.5, 0.6]]
    assert drawn["best so far"] == [[0, 1, 2, 4, 7, 8], best]
    assert drawn["pruned (the last value reported)"] == [[3], [0.2]]
    assert drawn["failed"][0] == [5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "loss")
    title = "History of made up\n9 trials: 6 complete, 1 pruned, 1 running, 1 failed"
    assert axes.get_title() == title
    markers = [line.get_marker() for line in axes.lines]
    assert len(set(markers)) == 4  # told apart without colour


def test_importance_of_what_decides():
    search = searches.read_search(many(60), "loss")
    shares = searches.importance(search)
    assert set(shares) == {"num_heads", "key_size", "learning_rate", "hidden_size"}  # nor what could not vary
    assert next(iter(shares)) == "learning_rate" and math.isclose(sum(shares.values()), 1.0)
    assert shares == searches.importance(search)
    (axes,) = search_figures.importance_figure(search, shares).axes
    bars = {
        label.get_text(): bar.get_width()
        for label, bar in zip(
            axes.get_yticklabels(), [p for p in axes.patches if isinstance(p, Rectangle)], strict=True
        )
    }
    assert bars == shares and list(bars)[-1] == "learning_rate"  # at the top
    assert "PED-ANOVA" in axes.get_xlabel()


def test_slices():
    figure = search_figures.slice_figure(searches.read_search(mixed(), "validation/pearson"))
    *panels, _ = figure.axes
    found = {axes.get_xlabel(): axes for axes in panels}
    assert list(found) == ["num_heads", "learning_rate", "hidden_size", "key_size (n = 4)"]
    heads = found["num_heads"]
    assert [label.get_text() for label in heads.get_xticklabels()] == ["0", "2", "8", "16"]
    values = [0.1, 0.3, 0.7, 0.5, 0.6]
    points = {name: axes.collections[0].get_offsets().T.tolist() for name, axes in found.items()}
    assert points["num_heads"] == [[0, 1, 3, 2, 2], values]
    assert points["learning_rate"] == [[1e-5, 1e-4, 1e-3, 2e-3, 1e-3], values]
    assert points["key_size (n = 4)"] == [[0, 2, 1, 1], values[1:]]
    assert found["learning_rate"].get_xscale() == "log" and found["hidden_size"].get_xscale() == "linear"
    assert found["learning_rate"].get_xlim()[0] < 1e-5
    (star,) = found["hidden_size"].lines
    assert star.get_xydata().tolist() == [[256, 0.7]]
    shades = found["num_heads"].collections[0].get_facecolor()[:, :3].sum(1)
    assert (np.diff(shades) < 0).all()  # later is darker


@pytest.mark.parametrize(
    ("direction", "order"), [("maximize", [0, 1, 4, 7, 2]), ("minimize", [2, 7, 4, 1, 0])]
)
def test_parallel_coordinates(direction, order):
    search = searches.read_search(mixed(direction), "validation/pearson")
    (axes,) = search_figures.parallel_coordinates_figure(search).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["num_heads", "learning_rate", "hidden_size", "key_size", "validation/\npearson"]
    lines = {line.get_label(): line for line in axes.lines if line.get_label().startswith("trial")}
    assert list(lines) == [f"trial {number}" for number in order]  # the best one on top
    heights = {name: line.get_ydata() for name, line in lines.items()}
    np.testing.assert_allclose(heights["trial 2"], [1, 2 / 3, (256 - 32) / 480, 1, 1])
    np.testing.assert_allclose(heights["trial 1"], [1 / 3, 1 / 3, 96 / 480, 0, 0.2 / 0.6])
    assert heights["trial 0"][3] < 0  # had no key size
    ticks = {(text.xy[0], text.get_text()): text.xy[1] for text in axes.texts}
    assert ticks[3, "none"] == heights["trial 0"][3] and (0, "none") not in ticks
    assert [ticks[0, name] for name in ("0", "2", "8", "16")] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert ticks[1, "1e-4"] == pytest.approx(1 / 3)
    *others, best = lines.values()
    assert best.get_linewidth() > others[0].get_linewidth()
    shades = [sum(to_rgb(line.get_color())) for line in others]
    assert shades == sorted(shades, reverse=True)  # better is darker


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.text, self._in = [], [], "", ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def figures(self):
        """The series of each figure, as Plotly gets them."""
        decode = json.JSONDecoder()
        found = [re.search(r'Plotly\.newPlot\(\s*"figure-\d",\s*', script) for script in self.scripts]
        return [
            decode.raw_decode(script, match.end())[0]
            for script, match in zip(self.scripts, found, strict=True)
            if match
        ]


def test_the_page_needs_no_network_and_runs_no_code_of_a_name(tmp_path):
    hostile = "</title></script><script>alert(1)</script>& <b>"
    study = study_of(*mixed().trials, name=hostile)
    write_search_figures(study, "<img src=x onerror=alert(2)>", tmp_path)
    page = Page(tmp_path / "search.html")
    assert not {"img", "link", "iframe", "b"} & {tag for tag, _ in page.tags}
    assert not [attrs for tag, attrs in page.tags if tag == "script" and "src" in attrs]
    assert not [script for script in page.scripts if script.startswith("alert")]
    assert page.text.count(hostile) == 2  # title and heading, as letters
    assert (
        "9 trials: 6 complete, 1 pruned, 1 running, 1 failed. The best is trial 2 with <img src=x"
        in page.text
    )
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1  # plotly.js once
    policy = next(attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1", *["h2"] * 4]
    history, _, slices, parallel = page.figures()
    assert history[0]["y"] == [0.1, 0.3, 0.7, 0.5, 0.6]
    assert history[1]["y"][-1] == 0.7  # and not infinity
    assert sum(trace["mode"] == "lines" for trace in parallel) == 5
    assert len(slices) == 4


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        (mixed(), ALL),
        (mixed("minimize"), ALL),
        (many(300), ALL),
        (study_of(), ["search.html"]),
        (study_of(trial(0.5)), ["history.png", "parallel_coordinates.png", "search.html", "slice.png"]),
        (
            study_of(trial(0.5), trial(0.5)),
            ["history.png", "parallel_coordinates.png", "search.html", "slice.png"],
        ),
        (study_of(trial(0.5), trial(0.6, heads=0)), ALL),
        (study_of(trial(0.5, heads=0), trial(0.6, heads=0, rate=1e-4)), ALL),
        (study_of(trial(state="PRUNED", reported=(0.1,))), ["history.png", "search.html"]),
        (study_of(trial(state="PRUNED")), ["search.html"]),
        (study_of(trial(state="FAIL"), trial(state="FAIL")), ["search.html"]),
        (study_of(trial(math.inf), trial(math.inf)), ["search.html"]),
        (study_of(trial(state="RUNNING"), trial(state="WAITING")), ["search.html"]),
        (
            study_of(
                *(
                    create_trial(
                        value=v, params={"kind": "x"}, distributions={"kind": CategoricalDistribution(["x"])}
                    )
                    for v in (0.1, 0.2)
                )
            ),
            ["history.png", "search.html"],
        ),
        (study_of(create_trial(value=0.1)), ["history.png", "search.html"]),
    ],
)
def test_what_cannot_be_drawn_is_left_out(tmp_path, study, expected, capsys):
    before = dict(matplotlib.rcParams)
    began = time.perf_counter()
    paths = write_search_figures(study, "validation/$loss_{", tmp_path)
    assert time.perf_counter() - began < 10  # one second without others on the machine
    assert sorted(path.name for path in paths) == expected == sorted(path.name for path in tmp_path.iterdir())
    for path in paths:
        assert path.suffix == ".html" or path.read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()
    assert capsys.readouterr() == ("", "")
    assert str(len(study.trials)) in Page(tmp_path / "search.html").text


def test_ticks_of_any_range():
    for low, high in ((1e-7, 1.0), (8, 128), (3e-4, 4e-4), (1.0, 1.0)):
        scale = search_figures.Scale("x", True, False, [], low, high)
        shares = [scale.share(number) for number in scale.ticks(apart=0.1)]
        assert shares == sorted(shares) and all(np.diff(shares) >= 0.1 - 1e-9)
        assert {low, high} <= set(scale.ticks(apart=0.1))


def test_other_commands_do_not_wait_for_optuna():
    import subprocess

    code = "import sys, mlproject.reporting; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
