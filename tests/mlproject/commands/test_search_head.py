"""The search end to end, as a user runs it: in a process of its own, on small windows of random letters."""

import json
import re
import shutil
import signal
import time

import matplotlib.image
import numpy as np
import optuna
import pandas as pd
import psutil
import pytest

from enformer_core import checkpoints
from enformer_core.heads import ACTIVITY_HEADS
from mlproject.data.construct_windows import ConstructWindows
from mlproject.data.constructs import as_table
from mlproject.search import store as kept
from mlproject.search.trials import worth
from processes import Store, finish, launch, run_studies, words_of
from toys import toy_constructs, toy_tracks

CONSTRUCTS = toy_constructs(24, folds=4)
TRIALS = {"--trials": "5", "--trial_epochs": "3", "--epochs": "3", "--steps_per_epoch": "3"}
TRIALS |= {"--workers": "1", "--batch_size": "2", "--checkpoint_seconds": "0"}
WINDOWS = {"--window": "2048", "--samples": "2"}
NARROW = {
    "--num_heads": "1,2",
    "--key_size": "8",
    "--value_size": "4,8",
    "--hidden_size": "0",
    "--weight_decay": "0",
}
PICTURES = {"history.png", "importance.png", "slice.png", "parallel_coordinates.png"}


def start(folder, *words):
    return launch(folder, "mlproject", "search_head", *words)


def trials_of(store, run):
    return pd.read_parquet(store.fetch(run, "trials.parquet"))


def study_at(folder, journal="work/search_head/optuna.journal"):
    """The only study of a journal, as Optuna itself reads it."""
    storage = kept.open_storage(str(folder / journal))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "constructs.tsv"
    path.write_text(as_table(CONSTRUCTS))
    return str(path)


@pytest.fixture(scope="module")
def studies(tmp_path_factory, data, empty_store):
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(empty_store, folder / "mlflow.db")
    on_constructs = {**TRIALS, **WINDOWS, "--data": data}
    tracks = {
        **TRIALS,
        "--task": "tracks",
        "--data": str(toy_tracks(folder).path.parent),
        "--organism": "lab",
    }
    tracks |= {"--objective": "loss", "--pruner": "hyperband", "--num_heads": "0,4", "--workers": "2"}
    tracks |= {"--storage": "sqlite:///tracks.db", "--hidden_size": "0,16", "--reverse_complement": "true"}
    diverging = {**on_constructs, **NARROW, "--learning_rate": "1e-3,1e30", "--sampler": "random"}
    diverging |= {"--storage": "diverging.journal", "--timeout": "600", "--held_out": "1", "--epochs": "1"}
    commands = [
        ("whole", on_constructs),
        ("whole", on_constructs),
        ("whole", {**on_constructs, "--trials": "6", "--register": "heads@best"}),
        ("tracks", tracks),
        ("diverging", diverging),
    ]
    return run_studies(folder, "search_head", commands)


@pytest.mark.slow
def test_a_search_leaves_what_the_docs_promise(studies, data):
    store, output = studies.store("whole"), studies.outputs["whole"][0]
    assert studies.codes["whole"] == ["0", "0", "0"]
    parent, study = store.parents[0], study_at(studies.folder)
    assert parent.info.status == "FINISHED"
    table = trials_of(store, parent)
    assert len(table) == 5 and set(table["state"]) <= {"complete", "pruned"}
    assert table["origin"].tolist().count("") == 2 and set(table["origin"]) == {"", *ACTIVITY_HEADS}
    first = [trial.user_attrs.get(kept.ORIGIN) for trial in study.trials[:3]]
    assert first == list(ACTIVITY_HEADS)
    for row in table.itertuples():
        validation = study.trials[row.number].user_attrs[kept.VALIDATION]
        assert len(validation) == row.epochs and (row.epochs == 9) == (row.state == "complete")
        if row.state == "complete":
            assert row.value == worth(validation, 3, "pearson")
    best = table.iloc[0]
    assert best["value"] == table["value"].max() == parent.data.metrics["best/objective"]
    assert all(best["value"] >= value for value in table.loc[table["origin"] != "", "value"].dropna())
    assert parent.data.metrics["best/trial"] == best["number"]
    counts = {name: parent.data.metrics[f"trials/{name}"] for name in ("complete", "pruned", "failed")}
    assert counts == {
        "failed": 0,
        **table["state"].value_counts().reindex(["complete", "pruned"], fill_value=0),
    }
    for name in (
        "num_heads",
        "key_size",
        "value_size",
        "hidden_size",
        "dropout",
        "learning_rate",
        "weight_decay",
    ):
        assert float(parent.data.tags[f"best.{name}"]) == pytest.approx(best[name], rel=1e-5)
    artifacts = store.artifacts(parent)
    assert {"search.html", "study.json", "trials.json", "trials.csv", "options.json"} <= artifacts
    assert PICTURES & artifacts >= {"history.png", "slice.png", "parallel_coordinates.png"}
    for name in PICTURES & artifacts:
        picture = matplotlib.image.imread(store.fetch(parent, name))
        assert min(picture.shape[:2]) > 200 and np.ptp(picture[..., :3]) > 0.5
    page = store.fetch(parent, "search.html").read_text()
    beside = re.sub(r"(<script)[^>]*>.*?</script>", r"\1>", page, flags=re.DOTALL)
    assert "//" not in beside and not re.search(r"<script[^>]*src", page) and "Plotly.newPlot" in page
    settings = json.loads(store.fetch(parent, "study.json").read_text())
    assert settings["study"] == study.study_name and settings["sampler"]["name"] == "tpe"
    assert "48 of 48 windows to compute" in output and output.count("embeddings: ") == 1
    assert "The trunk has random weights" in output


def best_of(store):
    """The name of the child that is the best head, trained again."""
    number = int(store.parents[-1].data.metrics["best/trial"])
    (name,) = (name for name in store.children if name.startswith(f"best {number}, "))
    return name


@pytest.mark.slow
def test_trials_are_children_and_so_is_the_best_head(studies):
    store = studies.store("whole")
    study = study_at(studies.folder)
    names = {f"trial {t.number}" + " (pruned)" * (t.state.name == "PRUNED") for t in study.trials}
    best = {name for name in store.children if name.startswith("best ")}
    assert set(store.children) - best == names and len(names) == 6
    assert {run.info.status for run in store.children.values()} == {"FINISHED"}
    for trial in study.trials:
        child = next(
            run for run in store.children.values() if run.data.params.get("trial") == str(trial.number)
        )
        losses = [(step, loss) for step, (loss, _) in enumerate(trial.user_attrs[kept.VALIDATION], 1)]
        assert store.series(child, "validation/loss") == losses
        complete = trial.state.name == "COMPLETE"
        assert child.data.metrics.get("objective") == (trial.value if complete else None)
        assert {name: float(child.data.params[name]) for name in trial.params} == pytest.approx(
            trial.params, rel=6e-3
        )


@pytest.mark.slow
def test_the_best_head_predicts_what_its_tables_say(studies, monkeypatch):
    import mlflow

    store = studies.store("whole")
    parent = store.parents[-1]
    child = store.children[best_of(store)]
    assert {"checkpoint", "predictions.parquet"} <= store.artifacts(child) and child.outputs.model_outputs
    table = pd.read_parquet(store.fetch(child, "predictions.parquet"))
    assert set(table["fold"]) == {"3"}  # the last one, which no trial has seen
    windows = ConstructWindows(CONSTRUCTS, 2048, samples=2, stride=1, seed=42)
    sequences = windows.sequences(windows.in_folds({"3"}))
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    found = model(sequences, is_training=False)["activity"][:, 0]
    np.testing.assert_allclose(found, table["predicted"], rtol=2e-3)  # embeddings are kept as float16
    assert float(child.data.params["num_heads"]) == float(parent.data.tags["best.num_heads"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{studies.folder}/mlflow.db")
    served = mlflow.pyfunc.load_model("models:/heads@best").predict(sequences)
    np.testing.assert_allclose(served[:, 0], table["predicted"], rtol=2e-3)
    constructs = pd.read_parquet(store.fetch(child, "constructs.parquet"))
    r = np.corrcoef(constructs["activity"], constructs["predicted"])[0, 1]
    assert parent.data.metrics["pearson/constructs"] == pytest.approx(r, rel=1e-5)


@pytest.mark.slow
def test_the_same_command_has_nothing_to_do_and_more_trials_go_on(studies):
    first, again, more = studies.outputs["whole"]
    store = studies.store("whole")
    tables = [trials_of(store, parent) for parent in store.parents]
    pd.testing.assert_frame_equal(tables[1], tables[0], check_exact=True)
    assert "all 5 trials were done before" in again and "was done before)" in again and "[" + "1/5]" in first
    assert "5 trials were done before" in more and "[6/6] trial 5" in more and "[5/6]" not in more
    assert len(tables[2]) == 6
    kept_rows = tables[2][tables[2]["number"] < 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept_rows, tables[0], check_exact=True)
    assert "Registered as version 1 of heads" in more and "To register it" in first
    assert all("embeddings: " not in output for output in (again, more))


@pytest.mark.slow
def test_a_search_of_track_heads_in_a_database(studies):
    store, (output,) = studies.store("tracks"), studies.outputs["tracks"]
    assert studies.codes["tracks"] == ["0"], output
    (parent,) = store.parents
    table = trials_of(store, parent)
    assert len(table) == 5 and set(table["state"]) <= {"complete", "pruned"}
    best = table.iloc[0]
    assert best["value"] == table["value"].min() == parent.data.metrics["best/objective"]
    without = table[table["num_heads"] == 0]
    assert len(without) and without[["key_size", "value_size"]].isna().all(axis=None)
    child = store.children[best_of(store)]
    assert child.info.status == "FINISHED" and {"head", "checkpoint"} <= store.artifacts(child)
    assert (studies.folder / "tracks.db").exists() and "search.html" in store.artifacts(parent)


@pytest.mark.slow
def test_trials_that_diverge_have_failed_and_the_search_goes_on(studies):
    store, (output,) = studies.store("diverging"), studies.outputs["diverging"]
    assert studies.codes["diverging"] == ["0"], output
    (parent,) = store.parents
    table = trials_of(store, parent)
    high = table["learning_rate"] > 1
    assert 0 < high.sum() < len(table) == 5
    assert set(table.loc[high, "state"]) == {"failed"} and "failed" not in set(table.loc[~high, "state"])
    assert table.loc[high, "failure"].str.match("Diverged: .*became (nan|inf)").all()
    assert parent.data.metrics["trials/failed"] == high.sum()
    for number in table.loc[high, "number"]:
        child = store.children[f"trial {number} (failed)"]
        assert child.info.status == "FAILED" and child.data.tags["failure"].startswith("Diverged: ")
    predictions = pd.read_parquet(store.fetch(store.children[best_of(store)], "predictions.parquet"))
    assert set(predictions["fold"]) == {"1"}


# --- killed -------------------------------------------------------------------------------------------------------


def until(process, met):
    """Waits for a condition while a command runs."""
    deadline = time.monotonic() + 300
    while not met():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it ended before it could be killed: {process.communicate()}")
        time.sleep(0.002)


def reports(folder):
    """How many epochs the journal knows of."""
    path = folder / "work/search_head/optuna.journal"
    return path.read_text().count('"validation"') if path.exists() else 0


def outcome(table):
    """What a table of trials says, without those that were done again, and what differs between two runs."""
    again = table["failure"].str.contains("does it again|was killed|was stopped|its worker ended")
    return table[~again].drop(columns=["number", "seconds", "retry_of", "failure"]).reset_index(drop=True)


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_trials(folder, data, studies):
    """While it embeds, in trials, while the best head is trained; asked to end; and its worker is killed."""
    words = words_of(TRIALS, WINDOWS, {"--data": data})
    finished = {}

    def look():
        for trial in study_at(folder).trials:
            if trial.state.name in ("COMPLETE", "PRUNED"):
                assert finished.setdefault(trial.number, (trial.value, trial.params)) == (
                    trial.value,
                    trial.params,
                )
        assert set(finished) <= {t.number for t in study_at(folder).trials if t.state.is_finished()}

    process = start(folder, *words)
    for line in process.stdout:
        if line.startswith("embeddings: "):
            break
    process.kill()
    process.communicate()
    assert not reports(folder)

    for more in (4, 9):
        process, before = start(folder, *words), reports(folder)
        until(process, lambda goal=before + more: reports(folder) >= goal)
        process.kill()
        process.communicate()
        look()

    process, before = start(folder, *words), reports(folder)
    until(process, lambda: reports(folder) >= before + 2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in errors
    assert "the same command goes on from there" in errors, errors
    look()
    assert "RUNNING" not in {run.info.status for run in Store(folder, "search_head").parents[-1:]}

    process, before = start(folder, *words), reports(folder)
    until(process, lambda: reports(folder) > before)
    (worker,) = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    worker.kill()
    until(process, lambda: any(folder.glob("work/search_head/*/[0-9]*-*/step-*")))
    process.kill()
    process.communicate()
    look()

    code, output = finish(start(folder, *words))
    assert code == 0 and "all 5 trials were done before" in output and "embeddings: " not in output
    look()
    expected, found = studies.store("whole"), Store(folder, "search_head")
    table = trials_of(found, found.parents[-1])
    again = outcome(table)
    pd.testing.assert_frame_equal(again, outcome(trials_of(expected, expected.parents[0])), check_exact=True)
    assert len(table) > 5  # something was done again
    study = study_at(folder)
    assert kept.counts(study).all == 5 and not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    statuses = [run.info.status for run in found.children.values()]
    assert "RUNNING" not in statuses and statuses.count("FAILED") == len(table) - 5
    assert [parent.info.status for parent in found.parents].count("RUNNING") == 0
    assert len(found.children) == len(table) + 1
    best = [next(run for name, run in s.children.items() if name.startswith("best")) for s in (found,)]
    assert best[0].info.status == "FINISHED" and "checkpoint" in found.artifacts(best[0])
    assert {name for name in found.parents[-1].data.metrics if name.startswith("trials/")} == {
        "trials/complete",
        "trials/pruned",
        "trials/failed",
    }
    assert found.parents[-1].data.metrics["trials/failed"] == 0
