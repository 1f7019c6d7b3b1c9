"""Fine-tuning end to end, as a user runs it: in a process of its own, on small constructs of random letters."""

import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.heads import ActivityHeadConfig
from foreign import save_tensorhub
from mlproject import __main__ as door
from mlproject import baselines
from mlproject.commands import finetune
from mlproject.data.construct_windows import ConstructWindows
from mlproject.data.constructs import as_table
from mlproject.errors import InputError
from processes import Store, finish, launch, run_studies, words_of
from toys import toy_constructs, toy_model

CONSTRUCTS = toy_constructs(12)  # three folds of four, two clusters in each
WINDOWS = {"--window": "2048", "--samples": "3", "--batch_size": "2"}
TRAINING = {"--epochs": "12", "--steps_per_epoch": "2", "--learning_rate": "1e-3", "--patience": "0"}


def write(path, constructs):
    path.write_text(as_table(constructs))
    return str(path)


def start(folder, *words):
    return launch(folder, "mlproject", "finetune", *words)


def table(store, run, name="predictions"):
    return pd.read_parquet(store.fetch(run, f"{name}.parquet"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "constructs.tsv", CONSTRUCTS)


@pytest.fixture(scope="module")
def studies(tmp_path_factory, data, empty_store):
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(empty_store, folder / "mlflow.db")
    names = {"0": "test", "1": "valid", "2": "train"}
    once = [construct._replace(fold=names[construct.fold]) for construct in CONSTRUCTS]
    others = [one._replace(activity=5 - 3 * one.activity) if one.fold == "test" else one for one in once]
    # its square is beyond float32
    beyond = [one._replace(activity=1e25 * one.activity) if one.fold == "0" else one for one in CONSTRUCTS]
    early = {"--trainable": "head", "--learning_rate": "0.003", "--epochs": "25", "--patience": "2"}
    adapters = {"--trainable": "1", "--lora_rank": "2", "--epochs": "2"}
    adapters |= {"--hidden_size": "8", "--dropout": "0.25", "--weight_decay": "0.1"}
    commands = {
        "whole": {"--data": data},
        "early": {"--data": write(folder / "once.tsv", once), **early},
        "others": {"--data": write(folder / "others.tsv", others), **early},
        "beyond": {"--data": write(folder / "beyond.tsv", beyond), **adapters},
    }
    order = [*commands, "whole"]
    options = [(name, {**WINDOWS, **TRAINING, **commands[name]}) for name in order]
    return run_studies(folder, "finetune", options)


def by_construct(predictions):
    """Means over offsets, in the order of the table."""
    rows = {}
    for row in predictions.itertuples():
        rows.setdefault((row.name, row.activity, row.cluster), []).append(row.predicted)
    activity = np.array([key[1] for key in rows])
    return [key[0] for key in rows], activity, np.array([np.mean(values) for values in rows.values()])


@pytest.mark.slow
def test_a_study_leaves_what_the_docs_promise(studies):
    store, output = studies.store("whole"), studies.outputs["whole"][0]
    parent = store.parents[0]
    assert parent.info.status == "FINISHED" and set(store.children) == {"fold 0", "fold 1", "fold 2"}
    pictures_and_tables = {"activity.png"} | {
        f"{name}.{suffix}" for name in ("predictions", "constructs") for suffix in ("json", "csv", "parquet")
    }
    comparison = {f"comparison.{suffix}" for suffix in ("json", "csv", "parquet")}
    assert pictures_and_tables | comparison <= store.artifacts(parent)
    pooled = []
    for fold in "012":
        child = store.children[f"fold {fold}"]
        assert child.info.status == "FINISHED" and child.outputs.model_outputs
        assert pictures_and_tables | {"checkpoint"} <= store.artifacts(child)
        expected = {"fold": fold, "trainable": "all", "window": "2048", "key_size": "64", "seed": "42"}
        assert expected.items() <= child.data.params.items()
        assert [step for step, _ in store.series(child, "loss")] == list(range(1, 25))
        losses = store.series(child, "validation/loss")
        assert [step for step, _ in losses] == list(range(2, 25, 2))
        metrics = child.data.metrics
        assert metrics["best/step"] == min(losses, key=lambda point: point[1])[0]
        predictions = table(store, child)
        assert set(predictions["fold"]) == {fold} and len(predictions) == 4 * 3
        loss = np.mean((predictions["predicted"] - predictions["activity"]) ** 2)
        assert metrics["test/loss"] == pytest.approx(loss) and metrics["test/constructs"] == 4
        check_correlations(metrics, predictions, table(store, child, "constructs"))
        pooled.append(predictions)
    pooled = pd.concat(pooled, ignore_index=True)
    pd.testing.assert_frame_equal(table(store, parent), pooled, check_exact=True)
    constructs = table(store, parent, "constructs")
    assert sorted(constructs["name"]) == sorted(construct.name for construct in CONSTRUCTS)
    check_correlations(parent.data.metrics, pooled, constructs)
    centred = constructs[["activity", "predicted"]] - constructs.groupby("fold")[
        ["activity", "predicted"]
    ].transform("mean")
    within = stats.pearsonr(centred["activity"], centred["predicted"]).statistic
    assert parent.data.metrics["pearson/constructs_within_folds"] == pytest.approx(within)
    rows = table(store, parent, "comparison").set_index("predictor")
    assert list(rows.index) == ["predicted", "ridge_sites", "ridge_kmers"]
    for end in ("low", "high"):
        for kind in ("pearson", "spearman"):
            number = rows.loc["predicted", f"{kind}_{end}"]
            assert (
                parent.data.metrics[f"{kind}/constructs_{end}"] == pytest.approx(number) and abs(number) < 1
            )
    assert (rows[["constructs", "clusters"]] == [12, 6]).all(axis=None)
    assert "12 constructs in 6 clusters, 3 folds held out" in output and "viewStateShareKey" in output
    assert len(store.children["fold 0"].data.metrics) <= 30
    assert not list(studies.folder.glob("work/finetune/*/*"))


def check_correlations(metrics, predictions, constructs):
    """The metrics and the table of constructs, from the windows and SciPy."""
    names, activity, predicted = by_construct(predictions)
    assert constructs["name"].tolist() == names and constructs["activity"].tolist() == activity.tolist()
    np.testing.assert_allclose(constructs["predicted"], predicted, rtol=1e-6)
    for kind, by_scipy in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = {
            "constructs": by_scipy(activity, predicted),
            "windows": by_scipy(predictions["activity"], predictions["predicted"]),
            **{name: by_scipy(activity, constructs[name]) for name in ("ridge_sites", "ridge_kmers")},
        }
        for name, expected in found.items():
            assert metrics[f"{kind}/{name}"] == pytest.approx(expected.statistic, rel=1e-5), name


@pytest.mark.slow
def test_baselines_know_all_but_the_held_out_constructs(studies):
    store = studies.store("whole")
    activity = np.array([construct.activity for construct in CONSTRUCTS])
    known = np.array([construct.fold != "1" for construct in CONSTRUCTS])
    clusters = [construct.cluster for construct in CONSTRUCTS]
    constructs = table(store, store.children["fold 1"], "constructs")
    for name, features in baselines.FEATURES.items():
        expected = baselines.ridge_predictions(
            features(CONSTRUCTS), np.where(known, activity, np.nan), known, clusters
        )
        np.testing.assert_allclose(constructs[f"ridge_{name}"], expected[~known])


@pytest.mark.slow
def test_checkpoint_and_logged_model_predict_the_table(studies, monkeypatch):
    import mlflow

    store = studies.store("whole")
    child = store.children["fold 2"]
    predictions = table(store, child)
    windows = ConstructWindows(CONSTRUCTS, 2048, samples=3, stride=1, seed=42)
    rows = windows.in_folds({"2"})
    assert predictions["offset"].tolist() == windows.offset[rows].tolist()
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    assert isinstance(model, ActivityModel)
    found = model(windows.sequences(rows), is_training=False)["activity"]
    # XLA orders its sums differently from eager execution and from a SavedModel
    np.testing.assert_allclose(found[:, 0], predictions["predicted"], rtol=1e-4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{studies.folder}/mlflow.db")
    (output,) = child.outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(windows.sequences(rows))
    np.testing.assert_allclose(served[:, 0], predictions["predicted"], rtol=1e-4)


@pytest.mark.slow
def test_the_same_command_has_nothing_to_do(studies):
    assert studies.codes["whole"] == ["0", "0"]
    first, again = studies.outputs["whole"]
    assert "was done before" not in first and again.count("was done before") == 3
    store = studies.store("whole")
    before, after = store.parents
    assert before.data.tags["continued_in"] == after.info.run_id
    assert len(store.client.search_runs([after.info.experiment_id])) == 2 + 3
    for child in store.children.values():
        assert child.info.end_time <= after.info.start_time
    for name in ("predictions", "constructs", "comparison"):
        tables = [table(store, parent, name) for parent in store.parents]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


def wait_for_checkpoint(process, folder, fold, step):
    """Waits until a fold has a checkpoint of this step or a later one."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:]) >= step for path in folder.glob(f"work/finetune/*/{fold}-*/step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint at step {step}: {process.communicate()}")


@pytest.mark.slow
def test_a_stopped_study_ends_with_the_same_numbers(folder, data, studies):
    """Killed in its second fold, asked to end in its third."""
    words = words_of({"--data": data}, WINDOWS, TRAINING, {"--checkpoint_seconds": "0"})
    outputs, stopped = [], []
    for fold, number, code in ((1, signal.SIGKILL, -9), (2, signal.SIGTERM, 143)):
        process = start(folder, *words)
        wait_for_checkpoint(process, folder, fold, step=8)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in errors
        outputs.append(output)
        stopped.append(Store(folder, "finetune").children[f"fold {fold}"])
    assert "stopped by SIGTERM after step" in errors
    assert "of 24 in fold 2; the same command goes on from there" in errors
    assert [child.info.status for child in stopped] == ["RUNNING", "KILLED"]

    code, output = finish(start(folder, *words))
    assert code == 0 and "[2/3] fold 1: goes on after step " in outputs[1]
    assert output.count("was done before") == 2 and "[3/3] fold 2: goes on after step " in output
    expected, found = studies.store("whole"), Store(folder, "finetune")
    assert [parent.info.status for parent in found.parents] == ["KILLED", "KILLED", "FINISHED"]
    for name, child in expected.children.items():
        again = found.children[name]
        assert again.info.run_id in {
            found.children["fold 0"].info.run_id,
            *(of.info.run_id for of in stopped),
        }
        pd.testing.assert_frame_equal(table(found, again), table(expected, child), check_exact=True)
        for key in ("loss", "validation/loss"):  # no gap, no point twice, the same numbers
            assert found.series(again, key) == expected.series(child, key)
    pooled = [table(store, store.parents[-1], "constructs") for store in (found, expected)]
    pd.testing.assert_frame_equal(*pooled, check_exact=True)
    assert not list(folder.glob("work/finetune/*/*"))


@pytest.mark.slow
def test_early_stopping_keeps_the_best_epoch(studies):
    (output,) = studies.outputs["early"]
    assert studies.codes["early"] == ["0"]
    assert "[1/1] fold test: " in output and "36 of 36 windows to compute" in output
    store = studies.store("early")
    child = store.children["fold test"]
    losses = [value for _, value in store.series(child, "validation/loss")]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 2 < 25
    assert len(store.series(child, "loss")) == 2 * len(losses)
    assert child.data.metrics["best/step"] == 2 * (best + 1)
    windows = ConstructWindows(CONSTRUCTS, 2048, samples=3, stride=1, seed=42)
    model = checkpoints.load(store.fetch(child, "checkpoint"))

    def predicted(rows):
        return model(windows.sequences(rows), is_training=False)["activity"][:, 0].numpy()

    rows = windows.in_folds({"1"})
    loss = np.mean((predicted(rows) - windows.targets(rows)[:, 0]) ** 2)
    # embeddings are kept as float16
    assert loss == pytest.approx(losses[best], rel=2e-3) and loss < 0.99 * losses[-1]
    predictions = table(store, child)
    np.testing.assert_allclose(predictions["predicted"], predicted(windows.in_folds({"0"})), rtol=2e-3)


@pytest.mark.slow
def test_the_measured_values_of_held_out_constructs_are_no_input(studies):
    assert studies.codes["others"] == ["0"]
    stores = [studies.store(name) for name in ("early", "others")]
    first, other = (table(store, store.children["fold test"], "constructs") for store in stores)
    np.testing.assert_allclose(other["activity"], 5 - 3 * first["activity"])
    unchanged = [name for name in first if name != "activity"]
    assert {"predicted", "ridge_sites", "ridge_kmers"} < set(unchanged)
    pd.testing.assert_frame_equal(other[unchanged], first[unchanged], check_exact=True)
    first, other = (store.series(store.children["fold test"], "loss") for store in stores)
    assert first == other


@pytest.mark.slow
def test_a_fold_that_diverges_is_shown_and_the_rest_is_trained(studies):
    """The activities of fold 0 cannot be trained on, nor validated on; held out they do not matter."""
    assert studies.codes["beyond"] == ["1"]
    (output,) = studies.outputs["beyond"]
    reasons = {
        "1": "Diverged: loss became inf at step 1 of 4; try a lower learning_rate",
        "2": "Diverged: validation/loss became inf at step 2; try a lower learning_rate",
    }
    for fold, reason in reasons.items():
        assert f"fold {fold}: FAILED: {reason}\n" in output and f"failed: fold {fold}: {reason}\n" in output
    store = studies.store("beyond")
    statuses = {name: run.info.status for name, run in store.children.items()}
    assert statuses == {"fold 0": "FINISHED", "fold 1": "FAILED", "fold 2": "FAILED"}
    assert store.children["fold 1"].data.tags["failure"] == reasons["1"]
    assert "traceback.txt" in store.artifacts(store.children["fold 1"])
    (parent,) = store.parents
    assert parent.info.status == "FAILED" and set(table(store, parent)["fold"]) == {"0"}
    child = store.children["fold 0"]
    expected = {"hidden_size": "8", "dropout": "0.25", "weight_decay": "0.1"}
    assert expected.items() <= child.data.params.items()
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    assert model.config.activity == ActivityHeadConfig(1, 64, 64, hidden_size=8, dropout=0.25)
    assert not any("adapter" in variable.name for variable in model.variables)


# --- bad input: one clear line, exit code 2 -----------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch):
    """The command, which makes TensorFlow deterministic, leaves it for other tests as it is."""
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--trainable=foo",
            "--trainable: found 'foo'; it can be all, head, or a number of transformer blocks",
        ),
        ("--trainable=0", "--trainable: found '0'; it can be all, head, or a number"),
        ("--trainable=-1", "--trainable: found '-1'; it can be all, head, or a number"),
        (
            "--trainable=head --lora_rank=4",
            "--lora_rank: adapters are part of the trunk, and --trainable head",
        ),
        ("--norm_averages=moving --trainable=2", "--norm_averages moving: needs --trainable all"),
        ("--norm_averages=moving --trainable=head", "--norm_averages moving: needs --trainable all"),
        ("--norm_averages=moving --lora_rank=4", "--norm_averages moving: needs --trainable all without"),
        ("--norm_averages=still", "--norm_averages: found 'still', expected one of fixed, moving"),
        ("--window=1000", "--window: found 1000; it must be a multiple of 128 bp"),
        ("--window=0", "--window: found 0; it must be a multiple of 128 bp"),
        ("--window=2432", "construct c0: a window of 2432 bp does not fit on its 2304 bp"),
        ("--samples=0", "samples is 0, expected a whole number, or a share"),
        ("--samples=2.5", "samples is 2.5, expected a whole number, or a share"),
        ("--stride=0", "stride is 0, expected 1 or more"),
        ("--folds=0,3", "--folds: found '3'; it can be 0, 1, 2"),
        ("--epochs=0", "--epochs: found 0; it must be 1 or more"),
        ("--batch_size=0", "--batch_size: found 0; it must be 1 or more"),
        ("--steps_per_epoch=-1", "--steps_per_epoch: found -1; it cannot be negative"),
        ("--learning_rate=-1", "--learning_rate: found -1.0; it cannot be negative"),
        ("--patience=-1", "--patience: found -1; it cannot be negative"),
        ("--lora_rank=-1", "--lora_rank: found -1; it cannot be negative"),
        ("--weight_decay=-0.1", "--weight_decay: found -0.1; it cannot be negative"),
        ("--hidden_size=-1", "--hidden_size is -1; it must be 0 or more"),
        ("--dropout=1", "--dropout is 1.0; it must be a number from 0 to below 1"),
        ("--dropout=-0.5", "--dropout is -0.5; it must be a number from 0 to below 1"),
        ("--seed=-1", "--seed: found -1; it must be from 0 to 2147483647"),
        ("--head=single", "--head: found 'single', expected one of single_64_64, single_64_128, multi_64_64"),
        ("--key_size=-3", "--key_size is -3; it must be 1 or more"),
        ("--data=nowhere", "constructs nowhere: cannot be read"),
        ("--weights_dir=here", "--weights_dir: is for --weights published or tensorhub; found random"),
        ("--weights=tensorhub --download=true", "--download: is for --weights published; found tensorhub"),
        ("--weights=here --preset=quarter", "--preset: is for --weights random; found here"),
    ],
)
def test_bad_options_are_one_line_and_no_run(words, says, tmp_path, monkeypatch, capsys, data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = {"--data": data, "--window": "2048", **dict(word.split("=") for word in words.split())}
    assert door.main(["finetune", *map("=".join, options.items())]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject finetune: ") and says in line
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Weights that cannot be trained: the TF-Hub form, and a checkpoint that is cut short; and one that can."""
    folder = tmp_path_factory.mktemp("weights")

    save_tensorhub(folder / "hub")
    checkpoints.save(folder / "whole", toy_model())
    shutil.copytree(folder / "whole", folder / "cut")
    weights = folder / "cut" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--weights {places}/hub", "the TF-Hub form exposes no trunk: it can predict, not be trained; use"),
        ("--weights {places}/cut", "weights.npz: cut short or damaged"),
        ("--weights {places}/none", "no file or folder of that name, and none of random, published"),
        ("--weights runs:/abc", "--weights runs:/abc: "),
        (
            "--weights {places}/whole --trainable 2",
            "--trainable: found 2; the trunk has 1 transformer blocks",
        ),
        ("--work_dir {places}/whole/config.json", "config.json/finetune/"),
        ("--trainable 3", "--trainable: found 3; the trunk has 2 transformer blocks"),
        ("--weights {places}/whole --lora_rank 48", "--lora_rank: rank is 48; the smallest projection takes"),
    ],
)
def test_weights_that_cannot_be_trained_are_one_line(
    words, says, folder, capsys, data, places, in_this_process
):
    words = words.format(places=places).split()
    assert door.main(["finetune", "--data", data, "--window", "2048", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject finetune: ") and says in line
    (run,) = Store(folder, "finetune").parents
    assert run.info.status == "FAILED" and says in run.data.tags["failure"]


def test_folds_that_cannot_be_are_refused(tmp_path):
    path = write(tmp_path / "two.tsv", [one for one in CONSTRUCTS if one.fold != "2"])
    with pytest.raises(InputError, match="folds of the constructs are 0, 1; expected three or more"):
        finetune.check(finetune.Options(data=path, window=2048))
