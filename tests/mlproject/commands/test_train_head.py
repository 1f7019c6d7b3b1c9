"""Head training end to end, as a user runs it: in a process of its own, on small windows of random letters."""

import json
import re
import shutil
import signal
import time
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from enformer_core import checkpoints
from enformer_core.heads import TrackHeadConfig
from enformer_core.track_model import TrackModel
from mlproject import baselines
from mlproject.commands import train_head
from mlproject.data.batches import windows_in_order
from mlproject.data.records import open_dataset
from processes import Store, finish, launch, run_studies, words_of
from recorder import Recorder
from toys import toy_h5, toy_model, toy_tracks

LAB = {"--organism": "lab", "--batch_size": "2"}
TRAINING = {
    "--epochs": "12",
    "--steps_per_epoch": "4",
    "--learning_rate": "1e-2",
    "--reverse_complement": "true",
}
TRAINING |= {"--seeds": "1,2"}
SHORT = {"--epochs": "2", "--steps_per_epoch": "3"}


def start(folder, *words):
    return launch(folder, "mlproject", "train_head", *words)


def table(store, run, name="tracks_lab"):
    return pd.read_parquet(store.fetch(run, f"{name}.parquet"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(toy_tracks(tmp_path_factory.mktemp("data")).folder)


@pytest.fixture(scope="module")
def studies(tmp_path_factory, data, empty_store):
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(empty_store, folder / "mlflow.db")
    # of other lengths than the windows', as the weights of an ablation may be
    checkpoints.save(folder / "enformer", toy_model(seed=1, sequence_length=4096, target_length=30))
    other_head = TrackModel(toy_model(seed=1), TrackHeadConfig(5), "human")
    checkpoints.save(folder / "track_model", other_head)
    one = {"--seeds": "1", **SHORT, "--reverse_complement": "false", "--weights": str(folder / "enformer")}
    multinomial = {"--loss": "poisson_multinomial", "--head": "attention", "--key_size": "8"}
    regularized = {"--dropout": "0.1", "--weight_decay": "0.1"}
    hidden = {
        "--head": "hidden",
        **regularized,
        "--weights": str(folder / "track_model"),
        "--eval_split": "valid",
    }
    commands = {
        "whole": {"--data": data},
        "multinomial": {"--data": data, **one, **multinomial},
        "h5": {"--data": toy_h5(folder), **one, **multinomial, "--test_files": "1"},
        "hidden": {"--data": data, **one, **hidden},
        "streamed": {"--data": data, **one, **hidden, "--cache": "off", "--work_dir": "elsewhere"},
        "diverging": {"--data": data, **one, "--seeds": "1,2", "--learning_rate": "1e38", "--epochs": "1"},
    }
    order = [*commands, "whole"]
    options = [(name, {**LAB, **TRAINING, **commands[name]}) for name in order]
    return run_studies(folder, "train_head", options)


def child_of(studies, experiment, seed=1):
    store = studies.store(experiment)
    return store, store.children[f"seed {seed}"]


TABLES = {f"{name}_lab.{kind}" for name in ("tracks", "categories") for kind in ("json", "csv", "parquet")}


@pytest.mark.slow
def test_a_study_leaves_what_the_docs_promise(studies, data):
    store, (output, _) = studies.store("whole"), studies.outputs["whole"]
    assert studies.codes["whole"] == ["0", "0"]
    parent, _ = store.parents
    assert parent.info.status == "FINISHED" and set(store.children) == {"seed 1", "seed 2"}
    means = []
    for seed in "12":
        child = store.children[f"seed {seed}"]
        assert child.info.status == "FINISHED" and child.outputs.model_outputs
        assert TABLES | {"head", "checkpoint", "windows.png", "signals_lab.parquet"} <= store.artifacts(child)
        expected = {
            "seed": seed,
            "head": "linear",
            "loss": "poisson",
            "learning_rate": "0.01",
            "num_heads": "0",
        }
        assert expected.items() <= child.data.params.items()
        assert [step for step, _ in store.series(child, "loss")] == list(range(1, 49))
        losses = store.series(child, "validation/loss")
        assert [step for step, _ in losses] == list(range(4, 49, 4))
        assert [step for step, _ in store.series(child, "validation/pearson")] == list(range(4, 49, 4))
        metrics, tracks = child.data.metrics, table(store, child)
        assert metrics["best/step"] == min(losses, key=lambda point: point[1])[0]
        assert tracks["identifier"].tolist() == ["outcome_0", "outcome_1", "outcome_2"]
        assert (tracks["n"] == 3 * 14).all() and metrics["test/windows"] == 3
        for category, rows in tracks.groupby("category"):
            assert metrics[f"pearson/{category}"] == pytest.approx(rows["pearson_r"].mean())
        others = baselines.track_baselines(open_dataset(data, "lab"), "test")
        for name, column in {"mean": "", "gc": "_gc", "bin_mean": "_bin_mean"}.items():
            assert metrics[f"pearson/{name}"] == pytest.approx(tracks[f"pearson_r{column}"].mean())
        np.testing.assert_allclose(tracks["pearson_r_gc"], others["gc"])
        assert {d.dataset.name.split("/")[-1] for d in child.inputs.dataset_inputs} == {"lab"}
        assert len(metrics) <= 30
        means.append(metrics["pearson/mean"])
    assert parent.data.metrics["pearson/mean"] == pytest.approx(np.mean(means))
    assert f"mean      {np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}" in output
    assert "targets: 15 of 15 windows to compute" in output
    assert "embeddings: 22 of 22 windows to compute" in output  # seven on both strands
    assert "viewStateShareKey" in output and "The trunk has random weights" in output
    for seed in "12":
        run_id = store.children[f"seed {seed}"].info.run_id
        assert f"\nseed {seed}: python -m mlproject predict --weights runs:/{run_id}\n" in output
    assert not list(studies.folder.glob("work/train_head/*"))


def one_hot(windows):
    rows = np.concatenate([np.eye(4), np.zeros([1, 4])]).astype(np.float32)
    return rows[[w.sequence for w in windows]]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["whole", "multinomial", "hidden"])
def test_what_is_kept_predicts_the_table(studies, data, experiment, monkeypatch):
    """Checkpoint, head on its trunk and logged model agree, and NumPy makes the run's numbers of what they say."""
    import mlflow

    store, child = child_of(studies, experiment)
    split = "valid" if experiment == "hidden" else "test"
    windows = list(windows_in_order(open_dataset(data, "lab"), split))
    sequences = one_hot(windows)
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    assert isinstance(model, TrackModel) and model.config.name == "lab"
    assert [row["identifier"] for row in model.tracks["lab"]] == ["outcome_0", "outcome_1", "outcome_2"]
    predicted = model(sequences, is_training=False)["lab"].numpy()
    alone = checkpoints.load_head(
        store.fetch(child, "head"), checkpoints.load(store.fetch(child, "checkpoint")).enformer
    )
    np.testing.assert_array_equal(alone(sequences, is_training=False)["lab"], predicted)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{studies.folder}/mlflow.db")
    (output,) = child.outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(sequences)
    # XLA orders its sums differently from eager execution and from a SavedModel
    np.testing.assert_allclose(served, predicted, rtol=1e-3)
    target = np.stack([w.target for w in windows]).astype(np.float64)
    found = table(store, child)["pearson_r"]
    signals = table(store, child, "signals_lab")
    assert signals["index"].tolist() == np.repeat(range(3), len(windows)).tolist()
    assert signals["start"].tolist() == [3000 * window + 128 for window in range(len(windows))] * 3
    for name, values, tolerance in (("predicted", predicted, 2e-3), ("measured", target, 0)):
        expected = np.moveaxis(values, 2, 0).reshape(-1, 14)  # embeddings are kept as float16
        np.testing.assert_allclose(np.stack(signals[name]), expected, rtol=tolerance)
    for track in range(3):
        r = np.corrcoef(predicted[..., track].ravel(), target[..., track].ravel())[0, 1]
        assert found[track] == pytest.approx(r, abs=5e-3)  # embeddings are kept as float16
    if experiment != "multinomial":
        loss = (predicted - target * np.log(predicted + 1e-7)).mean()
        assert child.data.metrics[f"{split}/loss"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
def test_the_trunk_of_a_checkpoint_is_used_as_it_is(studies):
    expected = checkpoints.digest(toy_model(seed=1).trunk_variables)
    for experiment in ("multinomial", "hidden", "streamed"):
        store, child = child_of(studies, experiment)
        trunk = checkpoints.load(store.fetch(child, "checkpoint")).enformer
        assert checkpoints.digest(trunk.trunk_variables) == expected
        assert (trunk.config.sequence_length, trunk.config.target_length, trunk.config.heads) == (
            2048,
            14,
            {},
        )
        named = json.loads((store.fetch(child, "head") / "config.json").read_text())["trunk"]
        assert named == {"weights": child.data.params["weights"], "digest": checkpoints.trunk_digest(trunk)}
        assert "random weights" not in studies.outputs[experiment][0]


@pytest.mark.slow
def test_without_a_cache_the_numbers_are_the_same_to_rounding(studies):
    (store, kept), (_, streamed) = child_of(studies, "hidden"), child_of(studies, "streamed")
    assert "windows to compute" not in studies.outputs["streamed"][0]
    assert not any((studies.folder / "elsewhere" / name).exists() for name in ("embeddings", "targets"))
    losses = [[v for _, v in store.series(child, "validation/loss")] for child in (kept, streamed)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert losses[0] != losses[1]
    found = [table(store, child)["pearson_r"] for child in (kept, streamed)]
    np.testing.assert_allclose(*found, atol=5e-3)


@pytest.mark.slow
def test_h5_files_train_as_the_same_windows_in_records(studies):
    assert studies.codes["h5"] == ["0"]
    (store, of_h5), (_, of_records) = child_of(studies, "h5"), child_of(studies, "multinomial")
    for key in ("loss", "validation/loss"):
        assert store.series(of_h5, key) == store.series(of_records, key)
    columns = ["identifier", "pearson_r", "r2", "n", "pearson_r_gc", "pearson_r_bin_mean"]
    tables = [table(store, child)[columns] for child in (of_h5, of_records)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.slow
def test_embeddings_are_shared_between_studies_of_one_trunk(studies):
    """And between datasets of the same windows: the h5 files have those of the records."""
    assert "embeddings:" not in studies.outputs["h5"][0] and "targets: 15 of 15" in studies.outputs["h5"][0]
    assert "embeddings: 15 of 15 windows to compute" in studies.outputs["multinomial"][0]
    assert "windows to compute" not in studies.outputs["hidden"][0] + studies.outputs["diverging"][0]


@pytest.mark.slow
def test_the_same_command_has_nothing_to_do(studies):
    first, again = studies.outputs["whole"]
    assert "was done before" not in first and again.count("was done before") == 2
    store = studies.store("whole")
    before, after = store.parents
    assert before.data.tags["continued_in"] == after.info.run_id
    assert before.data.metrics["pearson/mean"] == after.data.metrics["pearson/mean"]
    for child in store.children.values():
        assert child.info.end_time <= after.info.start_time


@pytest.mark.slow
def test_a_seed_that_diverges_is_shown_and_the_rest_is_tried(studies):
    assert studies.codes["diverging"] == ["1"]
    (output,) = studies.outputs["diverging"]
    assert len(re.findall(r"seed [12]: FAILED: Diverged: loss became (nan|inf) at step \d of 3", output)) == 2
    store = studies.store("diverging")
    assert {run.info.status for run in (*store.children.values(), *store.parents)} == {"FAILED"}
    assert "traceback.txt" in store.artifacts(store.children["seed 1"])


def wait_for_checkpoint(process, folder, seed, step):
    """Waits until a seed has a checkpoint of this step or a later one."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:]) >= step for path in folder.glob(f"work/train_head/*/{seed}-*/step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint at step {step}: {process.communicate()}")


@pytest.mark.slow
def test_a_stopped_study_ends_with_the_same_numbers(folder, data, studies):
    """Killed in its first seed, asked to end in its second."""
    words = words_of(LAB, TRAINING, {"--data": data, "--checkpoint_seconds": "0"})
    outputs, stopped = [], []
    for seed, number, code in ((1, signal.SIGKILL, -9), (2, signal.SIGTERM, 143)):
        process = start(folder, *words)
        wait_for_checkpoint(process, folder, seed, step=8)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in errors
        outputs.append(output)
        stopped.append(Store(folder, "train_head").children[f"seed {seed}"])
    assert "stopped by SIGTERM after step" in errors
    assert "of 48 in seed 2; the same command goes on from there" in errors
    assert [child.info.status for child in stopped] == ["RUNNING", "KILLED"]
    assert "[1/2] seed 1: goes on after step " in outputs[1] and "windows to compute" not in outputs[1]

    code, output = finish(start(folder, *words))
    assert code == 0 and output.count("was done before") == 1
    assert "[2/2] seed 2: goes on after step " in output
    expected, found = studies.store("whole"), Store(folder, "train_head")
    assert [parent.info.status for parent in found.parents] == ["KILLED", "KILLED", "FINISHED"]
    for (name, child), before in zip(expected.children.items(), stopped, strict=True):
        again = found.children[name]
        assert again.info.run_id == before.info.run_id and again.info.status == "FINISHED"
        pd.testing.assert_frame_equal(table(found, again), table(expected, child), check_exact=True)
        for key in ("loss", "validation/loss", "validation/pearson"):  # no gap, no point twice
            assert found.series(again, key) == expected.series(child, key)
        weights = [
            checkpoints.read_arrays(s.fetch(c, "head") / "weights.npz")
            for s, c in ((found, again), (expected, child))
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(weights[0][key].tobytes() == weights[1][key].tobytes() for key in weights[0])
    assert not list(folder.glob("work/train_head/*"))


# --- the picture --------------------------------------------------------------------------------------------------


class Pictured(NamedTuple):
    """Stands in for a trainer, with one prediction for each value of the target."""

    dataset: object

    def predict(self, split, most):
        windows = list(windows_in_order(self.dataset, split))[:most]
        measured = np.stack([window.target for window in windows]).astype(np.float32)
        return measured + 1, measured


@pytest.mark.parametrize("stretch", ["window", "bins", "unknown"])
def test_the_picture_shows_the_best_and_the_middle_track_where_they_are(tmp_path, monkeypatch, stretch):
    """Whether sequences.bed has the whole windows, as the published data, or their bins, as newer ones, or nothing."""
    dataset = toy_tracks(tmp_path)
    path = dataset.path / "sequences.bed"
    if stretch == "unknown":
        path.unlink()
    if stretch == "bins":
        fields = [line.split("\t") for line in path.read_text().splitlines()]
        path.write_text("".join(f"{c}\t{int(s) + 128}\t{int(e) - 128}\t{w}\n" for c, s, e, w in fields))
    drawn = []

    def draw(panels, title, path):
        drawn.append(title)
        drawn.extend(panels)
        path.touch()
        return path

    monkeypatch.setattr(train_head.reporting, "write_signal_figure", draw)
    run = Recorder()
    train_head._keep_figure(run, Pictured(dataset), "test", np.array([np.nan, 0.2, 0.7]))
    title, *panels = drawn
    assert title == "lab: test windows" and run.files == ["windows.png"] and len(panels) == 6
    labels = ["outcome_2 CAGE:b -, r = 0.70", "outcome_1 CAGE:b +, r = 0.20"]
    targets = [window.target for window in windows_in_order(dataset, "test")]
    for number, panel in enumerate(panels):
        window, track = number % 3, (2, 1)[number // 3]
        assert panel.label == f"{labels[number // 3]} over all test windows" and panel.bin_size == 128
        assert (panel.chrom, panel.start) == (
            (f"test window {window}", 0) if stretch == "unknown" else ("ctest", 3000 * window + 128)
        )
        np.testing.assert_array_equal(panel.measured, targets[window][:, track])
        np.testing.assert_array_equal(panel.predicted, targets[window][:, track].astype(np.float32) + 1)


@pytest.mark.parametrize("pearson_r", [[np.nan] * 3, [np.nan, np.nan, 0.1]])
def test_a_picture_of_tracks_without_a_correlation(tmp_path, monkeypatch, pearson_r):
    monkeypatch.setattr(
        train_head.reporting, "write_signal_figure", lambda panels, title, path: path.touch() or path
    )
    run = Recorder()
    train_head._keep_figure(run, Pictured(toy_tracks(tmp_path)), "test", np.array(pearson_r))
    assert run.files == ["windows.png"]
