import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.heads import ActivityHeadConfig
from mlproject import __main__ as door
from mlproject.commands import predict_constructs
from mlproject.data.construct_windows import ConstructWindows
from mlproject.data.constructs import Site, as_table
from mlproject.inference import WindowPrediction
from mlproject.tracking import runs
from processes import Store
from toys import toy_constructs, toy_model

# The first has a site that most of its windows leave out; the second has none.
FIRST, SECOND, *REST = toy_constructs(12)
CONSTRUCTS = [FIRST._replace(sites=(*FIRST.sites, Site("C", 0, 9))), SECOND._replace(sites=()), *REST]
WINDOWS = ConstructWindows(CONSTRUCTS, 2048, samples=3, stride=1, seed=42)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The constructs, an activity model on 2,048 bp, and a trunk with track heads alone."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "constructs.tsv").write_text(as_table(CONSTRUCTS))
    trunk = toy_model(target_length=None)
    checkpoints.save(folder / "trunk", toy_model(seed=1))
    checkpoints.save(folder / "activity", ActivityModel(trunk, ActivityHeadConfig(1, 8, 8), seed=2))
    return folder


def predict(places, **options):
    """Exit code of the command on these constructs, in the current folder."""
    options = {"data": places / "constructs.tsv", "samples": 3, "batch_size": 4, "track": 1, **options}
    return door.main(["predict_constructs", *(f"--{name}={value}" for name, value in options.items())])


def written(path="work/predictions.tsv"):
    return pd.read_csv(path, sep="\t", keep_default_na=False, na_values={"predicted": ""})


def check_rows(table):
    """Constructs in their order, offsets ascending, and what is known of them."""
    assert list(table) == [
        *("index", "name", "group", "fold", "offset", "activity", "predicted", "peaksum", "peak")
    ]
    expected = WINDOWS.table(range(len(WINDOWS)))
    for name in ("index", "name", "group", "offset"):
        assert table[name].tolist() == expected[name].tolist()
    assert table["fold"].astype(str).tolist() == expected["fold"].tolist()
    np.testing.assert_allclose(table["activity"], expected["activity"], rtol=1e-5)  # six digits


def check_peaks(table, signal):
    """`peak` and `peaksum` from the signal `[windows, 16]`, bin by bin; six digits of what XLA says."""
    outside = 0
    for row, values in zip(table.itertuples(), signal, strict=True):
        expected = []
        for site in CONSTRUCTS[WINDOWS.construct[row.Index]].sites:
            bins = [
                b
                for b in range(16)
                if row.offset + 128 * b < site.end and site.start < row.offset + 128 * (b + 1)
            ]
            outside += not bins
            expected += [(site.name, max(values[b] for b in bins))] if bins else []
        found = [peak.split("=") for peak in row.peak.split(";")] if row.peak else []
        assert [name for name, _ in found] == [name for name, _ in expected]
        peaks = [value for _, value in expected]
        np.testing.assert_allclose([float(value) for _, value in found], peaks, rtol=1e-4)
        np.testing.assert_allclose(row.peaksum, sum(peaks), rtol=1e-4)
    return outside


def parent(folder):
    store = Store(folder, "predict_constructs")
    return store, store.parents[-1]


def test_a_fine_tuned_model_predicts_activity_and_peaks(folder, places, capsys):
    """At the model's own length of window, which no option names."""
    assert predict(places, weights=places / "activity", batch_size=2) == 0
    printed = capsys.readouterr().out
    table = written()
    check_rows(table)
    model = checkpoints.load(places / "activity")
    sequences = WINDOWS.sequences(range(len(WINDOWS)))
    expected = model(sequences, is_training=False)["activity"][:, 0]
    np.testing.assert_allclose(table["predicted"], expected, rtol=1e-4)
    outside = check_peaks(table, model.enformer(sequences, is_training=False)["mouse"][..., 1].numpy())
    said = f"annotated sites outside of a window, and not in its peaksum: {outside} in all windows"
    assert outside > 0 and said in printed
    assert "work/predictions.tsv: 36 windows of 12 constructs" in printed

    store, run = parent(folder)
    tables = {f"{name}.parquet" for name in ("predictions", "constructs", "comparison")}
    assert tables | {"predicted.png", "peaksum.png"} <= store.artifacts(run)
    constructs = pd.read_parquet(store.fetch(run, "constructs.parquet"))
    means = pd.read_csv("work/predictions_means.tsv", sep="\t", dtype={"fold": str})
    pd.testing.assert_frame_equal(means, constructs, rtol=1e-5)  # six digits
    activity = [construct.activity for construct in CONSTRUCTS]
    for name in ("predicted", "peaksum"):
        means = table[name].to_numpy().reshape(12, 3).mean(1)
        np.testing.assert_allclose(constructs[name], means, rtol=1e-4)
        for kind, by_scipy in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            expected = by_scipy(activity, constructs[name]).statistic
            assert run.data.metrics[f"{kind}/{name}"] == pytest.approx(expected)
    comparison = pd.read_parquet(store.fetch(run, "comparison.parquet"))
    assert comparison["fold"].tolist() == ["all", "all", "0", "0", "1", "1", "2", "2"]
    assert comparison["constructs"].tolist() == [12, 12, 4, 4, 4, 4, 4, 4]


def test_a_trunk_alone_predicts_peaks(folder, places):
    assert predict(places, weights=places / "trunk", window=2048, output="elsewhere/peaks.tsv") == 0
    table = written("elsewhere/peaks.tsv")
    check_rows(table)
    assert table["predicted"].isna().all()
    model = checkpoints.load(places / "trunk", 2048, None)  # nothing is cropped
    signal = model(WINDOWS.sequences(range(len(WINDOWS))), is_training=False)["mouse"][..., 1].numpy()
    check_peaks(table, signal)
    store, run = parent(folder)
    assert "peaksum.png" in store.artifacts(run) and "predicted.png" not in store.artifacts(run)
    assert set(pd.read_parquet(store.fetch(run, "comparison.parquet"))["predictor"]) == {"peaksum"}


# --- without a model that has to be compiled ----------------------------------------------------------------------


class Predictor:
    """Stands in for a `WindowPredictor`: says what stands in the windows, and is stopped where it is told to be."""

    calls: list[int] = []  # noqa: RUF012  # of the class: the command makes its own
    model = None
    stop_at = 0

    def __init__(self, model, head, track, batch_size):
        type(self).model = model
        self._track = track

    def __call__(self, sequences):
        self.calls.append(len(sequences))
        if len(self.calls) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        signal_ = np.log1p(sequences.reshape(len(sequences), -1, 128, 4).sum(2)[..., self._track])
        return WindowPrediction(signal_.std(1), signal_)


@pytest.fixture
def predictor(monkeypatch):
    """The class, as the command uses it."""
    monkeypatch.setattr(predict_constructs, "WindowPredictor", Predictor)
    monkeypatch.setattr(Predictor, "calls", [])
    monkeypatch.setattr(Predictor, "model", None)
    monkeypatch.setattr(Predictor, "stop_at", 0)
    return Predictor


def stopped_after_five(places, predictor, capsys):
    """A prediction that was asked to end while it was at the fifth construct, and its unfinished file."""
    predictor.stop_at = 5
    assert predict(places, weights=places / "activity") == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("after 5 of 12 constructs; the same command goes on from there")
    assert not Path("work/predictions.tsv").exists()
    (unfinished,) = Path("work/predict_constructs").glob("*.jsonl")
    predictor.stop_at = 0
    predictor.calls.clear()
    return unfinished


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content + b'{"index": 5, "predicted": [0.1, 0.', 5),  # killed while it wrote
        (lambda content: content[:-1], 4),
        (lambda content: content[:20], 0),
    ],
)
def test_an_unfinished_prediction_goes_on_to_the_same_table(folder, places, predictor, capsys, damage, kept):
    assert predict(places, weights=places / "activity", output="whole.tsv") == 0
    predictor.calls.clear()
    unfinished = stopped_after_five(places, predictor, capsys)
    unfinished.write_bytes(damage(unfinished.read_bytes()))
    assert predict(places, weights=places / "activity") == 0
    assert predictor.calls == [3] * (12 - kept)
    said = f"{kept} constructs were predicted before; {12 - kept} to go"
    assert (said in capsys.readouterr().out) == (kept > 0)
    assert Path("work/predictions.tsv").read_bytes() == Path("whole.tsv").read_bytes()
    assert not list(Path("work/predict_constructs").glob("*.jsonl"))
    store, run = parent(folder)
    tables = [pd.read_parquet(store.fetch(one, "predictions.parquet")) for one in (store.parents[0], run)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("changes", [{"track": 0}, {"seed": 7}, {"samples": 4}, {"weights": "trunk"}])
def test_a_prediction_of_something_else_does_not_go_on(folder, places, predictor, capsys, changes):
    stopped_after_five(places, predictor, capsys)
    options = {"weights": "activity", "window": 2048, **changes}
    options["weights"] = places / options["weights"]
    assert predict(places, **options) == 0
    assert len(predictor.calls) == 12 and "predicted before" not in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"preset": "full"}, {"window": 2048}, {"output": "other.tsv"}])
def test_what_changes_no_number_goes_on(folder, places, predictor, capsys, changes):
    stopped_after_five(places, predictor, capsys)
    assert predict(places, weights=places / "activity", **changes) == 0
    assert "5 constructs were predicted before; 7 to go" in capsys.readouterr().out


def test_a_track_is_named_by_the_index_of_its_table(folder, places, predictor, capsys):
    model = toy_model(target_length=None)
    model.tracks["mouse"] = [{"index": "7", "identifier": "a"}, {"index": "5", "identifier": "b"}]
    checkpoints.save("indexed", model)
    how = {"weights": "indexed", "window": 2048}
    assert predict(places, track=5, output="index.tsv", **how) == 0
    assert predict(places, weights=places / "trunk", window=2048, track=1, output="position.tsv") == 0
    assert Path("index.tsv").read_bytes() == Path("position.tsv").read_bytes()
    assert predict(places, track=5, output="index.tsv", **how) == 0  # once more, over the file that is there
    assert predict(places, track=1, **how) == 2
    assert "--track: found 1; head mouse has the indices 5 to 7" in capsys.readouterr().err


@dataclass(frozen=True)
class Options:
    experiment: str = "finetune"


def fine_tuned(folder, seed, fold, fails=False):
    """A model that a fold of a study left in the store."""
    model = ActivityModel(toy_model(target_length=None), ActivityHeadConfig(1, 8, 8), seed)
    checkpoints.save(folder / str(seed) / "checkpoint", model)
    key = {"grid": "0123456789abcdef", "fold": fold}
    with runs.start_run("finetune", Options()) as run, run.child(f"fold {fold}", key=key, params={}) as child:
        child.keep(folder / str(seed) / "checkpoint")
        if fails:
            child.fail("it diverged")
    return checkpoints.digest(model.variables)


def test_newest_is_the_last_finished_model_of_the_store(folder, places, predictor, capsys):
    fine_tuned(folder, 5, "0")
    expected = fine_tuned(folder, 6, "1")
    fine_tuned(folder, 7, "2", fails=True)
    assert predict(places) == 0
    assert checkpoints.digest(predictor.model.variables) == expected
    printed = capsys.readouterr().out
    assert "weights: fold 1 of 20" in printed and " UTC\n" in printed and "by runs:/" in printed


def test_without_a_fine_tuned_model_an_untrained_one_predicts_and_says_so(folder, places, predictor, capsys):
    assert predict(places, window=2048) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "This store has no fine-tuned model: an untrained one (weights=random) predicts"
    )
    assert "36 windows of 12 constructs, by random" in printed
    assert predictor.model.config.sequence_length == 2048 and predictor.model.config.target_length is None
    check_rows(written())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"weights": "activity", "window": 1024},
            "--window: found 1024; this fine-tuned model takes 2048 bp",
        ),
        ({"weights": "activity", "head": "mose"}, "--head: found 'mose'; did you mean mouse?; the model has"),
        (
            {"weights": "trunk", "window": 2048, "head": "rat"},
            "--head: found 'rat'; the model has human, mouse",
        ),
        ({"weights": "activity", "track": 2}, "--track: found 2; head mouse has tracks 0 to 1"),
        ({"weights": "nowhere"}, "no file or folder of that name"),
        ({"weights": "trunk"}, "construct c0: a window of 25600 bp does not fit on its 2304 bp"),
    ],
)
def test_what_a_model_cannot_do_is_one_line(folder, places, capsys, options, says):
    assert predict(places, **{**options, "weights": places / options["weights"]}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject predict_constructs: ") and says in line
    _, run = parent(folder)
    assert run.info.status == "FAILED" and not Path("work/predictions.tsv").exists()


def test_a_disk_that_fills_up_is_one_line_and_loses_no_prediction(
    folder, places, predictor, capsys, monkeypatch
):
    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(predict_constructs, "write_whole", full)
        assert predict(places, weights=places / "activity") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output work/predictions.tsv: cannot be written (No space left on device)" in line
    predictor.calls.clear()
    assert predict(places, weights=places / "activity") == 0
    assert not predictor.calls and len(written()) == 36


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "--batch_size: found 0; it must be 1 or more"),
        ({"track": -1}, "--track: found -1; it cannot be negative"),
        ({"window": 1000}, "--window: found 1000; it must be a multiple of 128 bp"),
        ({"window": -128}, "--window: found -128; it must be a multiple of 128 bp"),
        ({"window": 2432}, "construct c0: a window of 2432 bp does not fit on its 2304 bp"),
        ({"samples": 0}, "samples is 0, expected a whole number, or a share"),
        ({"stride": 0}, "stride is 0, expected 1 or more"),
        ({"data": "nowhere"}, "constructs nowhere: cannot be read"),
        ({"output": ""}, "--output: found ''; expected the name of a file to write"),
        ({"output": "."}, "--output: found '.'; expected the name of a file to write"),
        ({"output": "x" * 300}, "xxx: cannot be written (File name too long)."),
        ({"output": "{places}/trunk"}, "trunk'; expected the name of a file to write"),
        ({"output": "{places}/constructs.tsv/table"}, "constructs.tsv/table: cannot be written ("),
    ],
)
def test_bad_options_are_one_line_and_no_run(tmp_path, monkeypatch, places, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    options = {name: str(value).format(places=places) for name, value in options.items()}
    assert predict(places, **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject predict_constructs: ") and says in line
    assert not list(tmp_path.iterdir())
