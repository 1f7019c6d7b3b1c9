import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection

from mlproject import reporting
from mlproject.reporting import joint


def results(settings=("",), modalities=("both", "mpra"), seeds=(1, 2, 3)):
    """Made-up trainings."""
    random = np.random.default_rng(0)
    rows = []
    for setting in settings:
        for name in modalities:
            for seed in seeds:
                row = {"setting": setting, "modalities": name, "seed": seed}
                if name != "tracks":
                    row |= {
                        "pearson/activity": random.uniform(0.7, 0.8),
                        "pearson/activity_hidden": random.random(),
                    }
                    row |= {"pearson/kmers": 0.6, "pearson/gc": 0.1, "ceiling/activity": 0.95}
                    row |= {"pearson/kmers_hidden": 0.4, "pearson/gc_hidden": 0.2}
                if name != "mpra":
                    row["pearson/coverage"] = random.uniform(0.5, 0.6)
                rows.append(row)
    return pd.DataFrame(rows)


def predictions(count=60, cells=("K562", "HepG2"), hidden="K562"):
    random = np.random.default_rng(0)
    activity = random.normal(size=count)
    return pd.DataFrame(
        {
            "activity": activity,
            "predicted": activity + random.normal(size=count),
            "cell_type": [cells[n % len(cells)] for n in range(count)],
            "labels": ["hidden" if cells[n % len(cells)] == hidden else "seen" for n in range(count)],
        }
    )


def lines_of(axes):
    found = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    return found | {
        lines.get_label(): np.concatenate(lines.get_segments())
        for lines in axes.collections
        if isinstance(lines, LineCollection)
    }


def test_a_panel_for_each_number_with_a_point_for_each_training():
    table = results()
    figure = joint.joint_figure(table, "made up")
    assert [axes.get_title() for axes in figure.axes] == list(joint.NUMBERS.values())
    for axes, name in zip(figure.axes, joint.NUMBERS, strict=True):
        assert [word.get_text() for word in axes.get_xticklabels()] == ["both", "mpra"]
        found = lines_of(axes)
        for seed in (1, 2, 3):
            own = table[table["seed"] == seed].set_index("modalities")[name]
            expected = [own["both"], own["mpra"]]
            np.testing.assert_allclose(found[f"seed {seed}"][:, 1], expected)
    assert figure.axes[0].get_ylabel() == "Pearson r, held out"
    levels = {label: float(np.mean(line[:, 1])) for label, line in lines_of(figure.axes[0]).items()}
    expected = {"5-mer ridge": 0.6, "GC content": 0.1, "ceiling of replicates": 0.95}
    assert {name: levels[name] for name in expected} == pytest.approx(expected)
    of_hidden = {label: float(np.mean(line[:, 1])) for label, line in lines_of(figure.axes[1]).items()}
    assert of_hidden["5-mer ridge"] == pytest.approx(0.4) and "ceiling of replicates" not in of_hidden
    assert "5-mer ridge" not in lines_of(figure.axes[2])
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names)) and {"seed 1", "5-mer ridge", "ceiling of replicates"} <= set(names)
    assert figure.get_suptitle() == "made up, n = 6 trainings"


def test_baselines_are_those_of_each_setting():
    table = results(["a", "b"])
    table.loc[table["setting"] == "b", "pearson/kmers"] = 0.2
    figure = joint.joint_figure(table, "x")
    found = lines_of(figure.axes[0])["5-mer ridge"].reshape(
        -1, 2, 2
    )  # settings and modalities, ends, x and y
    place = {word.get_text(): n for n, word in enumerate(figure.axes[0].get_yticklabels())}
    for name, level in (("a both", 0.6), ("a mpra", 0.6), ("b both", 0.2), ("b mpra", 0.2)):
        np.testing.assert_allclose(
            found[place[name]], [[level, place[name] - 0.4], [level, place[name] + 0.4]]
        )


def test_two_settings_with_long_names_are_below_each_other():
    figure = joint.joint_figure(results(["holdout_cell_type=K562"], modalities=("both", "mpra")), "x")
    words = [word.get_text() for word in figure.axes[0].get_yticklabels()]
    assert words == ["holdout_cell_type=K562 both", "holdout_cell_type=K562 mpra"]


def test_many_settings_are_below_each_other():
    table = results([f"num_latents={n}" for n in (16, 32)])
    table = table[~((table["setting"] == "num_latents=32") & (table["seed"] == 3))]  # it failed
    figure = joint.joint_figure(table, "made up")
    axes = figure.axes[0]
    names = [f"num_latents={n} {modalities}" for n in (16, 32) for modalities in ("both", "mpra")]
    assert [word.get_text() for word in axes.get_yticklabels()] == names
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    found = sorted(tuple(point) for line in axes.lines for point in line.get_xydata() if len(line.get_xydata()) == 2
                   and line.get_label().startswith("seed"))  # fmt: skip
    place = {name: number for number, name in enumerate(names)}
    expected = [
        (row["pearson/activity"], place[f"{row['setting']} {row['modalities']}"])
        for _, row in table.iterrows()
    ]
    np.testing.assert_allclose(found, sorted(expected))


def boxes(figure):
    """Of all texts that are drawn, by what they say, in pixels; and that of the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    for axes in figure.axes:  # ticks beyond its ends are not drawn
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in axis.get_major_ticks():
                outside = not min(ends) <= tick.get_loc() <= max(ends)
                unseen = {tick.label1} if outside or not tick.label1.get_visible() else set()
                texts = [text for text in texts if text not in unseen and text is not tick.label2]
    return [(text, text.get_window_extent(renderer)) for text in texts], figure.bbox


CASES = {
    "one": lambda: joint.joint_figure(results(), "Held-out sequences and windows"),
    "tracks": lambda: joint.joint_figure(results(modalities=("tracks",), seeds=(1,)), "Held-out windows"),
    "mpra": lambda: joint.joint_figure(results(modalities=("mpra",)), "Held-out sequences and windows"),
    "sweep": lambda: joint.joint_figure(
        results([f"num_latents={n} learning_rate={rate}" for n in (16, 32) for rate in (0.001, 0.002)]),
        "Held-out sequences and windows",
    ),
    "long": lambda: joint.joint_figure(
        results([f"holdout_cell_type={'a cell type of a very long name ' * 2}{n}" for n in range(6)]), "x"
    ),
    "seeds": lambda: joint.joint_figure(results(seeds=range(12)), "Held-out sequences and windows"),
    "many": lambda: joint.prediction_figure(predictions(9000), "both, seed 1: held-out sequences"),
    "predictions": lambda: joint.prediction_figure(predictions(), "both, seed 1: held-out sequences"),
    "seen": lambda: joint.prediction_figure(
        predictions(hidden=""), "both, seed 2147483647: held-out sequences"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_words_are_cut_off_or_over_each_other(case):
    figure = CASES[case]()
    found, whole = boxes(figure)
    found = [(text, box) for text, box in found if box.width and box.height]
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1, text
    for number, (text, box) in enumerate(found):
        for other, its in found[:number]:
            overlap = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
            assert min(overlap) <= 1, (text, other)


def test_trainings_without_a_number_leave_no_panel(tmp_path):
    figure = joint.joint_figure(results(modalities=("tracks",)), "x")
    assert [axes.get_title() for axes in figure.axes] == ["coverage"]
    nothing = results().assign(**{name: np.nan for name in joint.NUMBERS})
    path = reporting.write_joint_figure(nothing, "x", tmp_path / "joint.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("count", "kind"), [(60, PathCollection), (9000, PolyCollection)])
def test_measured_against_predicted(count, kind):
    table = predictions(count)
    figure = joint.prediction_figure(table, "made up")
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        f"HepG2, labels seen, n = {count // 2}",
        f"K562, labels hidden, n = {count // 2}",
    ]
    for axes, labels in zip(figure.axes[:2], ("seen", "hidden"), strict=True):
        (drawn,) = (one for one in axes.collections if isinstance(one, kind))
        own = table[table["labels"] == labels]
        if kind is PathCollection:
            np.testing.assert_allclose(drawn.get_offsets(), own[["predicted", "activity"]])
        else:
            assert drawn.get_array().sum() == len(own)
        assert (axes.get_xlabel(), axes.get_ylabel()) == (
            "predicted activity (units of the table)",
            "measured activity",
        )


def test_what_the_terminal_says():
    table = results()
    lines = joint.joint_text(table).splitlines()
    both = table[table["modalities"] == "both"]["pearson/activity"]
    assert f"{both.mean():.3f} ± {both.std():.3f}" in lines[2]
    assert lines[3].split()[:3] == ["-", "mpra", "3"] and lines[3].split()[-1] == "-"
    differences = pd.DataFrame(
        {
            "setting": ["", "x=1"], "number": ["pearson/activity", "pearson/activity_hidden"], "seeds": [3, 1],
            "difference": [0.25, -0.125], "low": [0.125, np.nan], "high": [0.375, np.nan],
        }
    )  # fmt: skip
    assert joint.differences_text(differences, "both", "mpra").splitlines() == [
        "both - mpra, activity: +0.250 (95% interval 0.125 to 0.375, 3 seeds, paired)",
        "both - mpra (x=1), activity, labels hidden: -0.125 (one seed: no interval)",
    ]
    row = {"labels": "seen", "predictor": "predicted", "sequences": 9, "ceiling": np.nan, "pearson": 0.5}
    row |= {"pearson_low": 0.25, "pearson_high": 0.75}
    comparison = pd.DataFrame([{**row, "cell_type": f"cell {n:02d}"} for n in range(14)])
    text = joint.cell_types_text(comparison, {"predicted": "joint model", "gc": "GC"})
    assert text.count("0.500 (0.250 to 0.750)") == 12 and text.endswith("... and 2 more cell types")
    assert joint.numbers_line({"pearson/coverage": 0.5, "other": 1}) == "coverage r 0.500"
    assert joint.numbers_line({}) == "done"
