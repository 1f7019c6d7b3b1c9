"""Runs in a real sqlite store."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from mlproject.errors import Stopped
from mlproject.tracking import runs

KEY = {"grid": "abc", "variant": "rope", "seed": "42"}


@dataclass(frozen=True)
class Options:
    learning_rate: float = 5.0e-4
    seeds: tuple[int, ...] = (42, 123)
    data: str | None = None
    experiment: str = "grids"


def stored(run: runs.Run):
    return MlflowClient().get_run(run.id)


def series(run: runs.Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient().get_metric_history(run.id, key)]


def test_a_run_of_its_own(folder):
    with runs.start_run("ablation", Options()) as run:
        run.tag({"grid": "abc"})
    found = stored(run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == f"ablation {run.id[:6]}"
    assert found.data.params == {
        "learning_rate": "0.0005",
        "seeds": "42,123",
        "data": "none",
        "experiment": "grids",
    }
    assert found.data.tags["grid"] == "abc"
    assert MlflowClient().get_experiment(run.experiment_id).name == "grids"
    kept = json.loads(Path(MlflowClient().download_artifacts(run.id, "options.json")).read_text())
    assert kept == {"learning_rate": 0.0005, "seeds": [42, 123], "data": None, "experiment": "grids"}


def test_the_run_of_mlflow_is_adopted_with_its_words(folder, monkeypatch, capsys):
    client = MlflowClient()
    made = client.create_run(client.create_experiment("chosen"), run_name="adaptable-cub-123")
    client.log_param(made.info.run_id, "learning_rate", "5e-4")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with runs.start_run("ablation", Options(experiment="wanted")) as run:
        assert run.id == made.info.run_id
        assert "MLFLOW_RUN_ID" not in os.environ
        with run.child("rope-42", key=KEY, params={}) as child:
            assert child.id != run.id
    found = stored(run)
    assert found.data.params["learning_rate"] == "5e-4"
    assert found.data.params["seeds"] == "42,123"
    assert found.info.run_name == f"ablation {run.id[:6]}"
    assert stored(child).data.tags["mlflow.parentRunId"] == run.id
    assert "the run stays in the experiment 'chosen'" in capsys.readouterr().err  # the user asked for another


def test_a_name_that_the_user_gave_is_kept(folder, monkeypatch):
    made = MlflowClient().create_run("0", run_name="my grid")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with runs.start_run("ablation", Options()):
        pass
    assert MlflowClient().get_run(made.info.run_id).info.run_name == "my grid"


def test_a_parameter_that_mlflow_would_cut_is_in_the_file_only(folder):
    with runs.start_run("ablation", Options(data="x" * 7000)) as run:
        pass
    assert "data" not in stored(run).data.params
    assert "x" * 7000 in Path(MlflowClient().download_artifacts(run.id, "options.json")).read_text()


def test_how_a_run_ends(folder):
    with pytest.raises(ValueError), runs.start_run("ablation", Options()) as run:
        raise ValueError("loss became nan at step 3\nmore")
    assert stored(run).info.status == "FAILED"
    assert stored(run).data.tags["failure"] == "ValueError: loss became nan at step 3"
    with pytest.raises(Stopped), runs.start_run("ablation", Options()) as run:
        raise Stopped
    assert stored(run).info.status == "KILLED"
    assert stored(run).data.tags["resumable"] == "true"
    with runs.start_run("ablation", Options()) as run:
        run.fail("two variants failed")
    assert stored(run).info.status == "FAILED"
    assert stored(run).data.tags["failure"] == "two variants failed"


def test_series_and_final_numbers(folder):
    with runs.start_run("ablation", Options()) as run:
        for step in range(1, 2501):
            run.log(step, {"loss": 1 / step})
        run.log(2501, {"loss": math.inf, "ok": 1.0})
        run.summarize({"pearson/mean": 0.25, "pearson/CHIP:H3K4me3 (a)": 0.5, "pearson/ATAC": math.nan})
        assert run.metrics() == {
            "loss": 1 / 2500,
            "ok": 1.0,
            "pearson/mean": 0.25,
            "pearson/CHIP:H3K4me3 _a_": 0.5,
        }
    assert series(run, "loss") == [(step, 1 / step) for step in range(1, 2501)]
    assert series(run, "pearson/mean") == [(0, 0.25)]  # step 0 is what MLflow makes of no step
    assert stored(run).data.tags["not_finite"] == "loss, pearson/ATAC"


def test_a_table_reads_back_and_is_listed_for_the_ui(folder):
    table = pd.DataFrame({"index": [0, 1], "identifier": ["NA", "007"], "pearson_r": [0.5, math.nan]})
    with runs.start_run("ablation", Options()) as run:
        run.keep_table("tracks/human", table)
        run.keep_table("tracks/human", table)
        pd.testing.assert_frame_equal(run.table("tracks/human"), table, check_dtype=False)
    client = MlflowClient()
    assert {found.path for found in client.list_artifacts(run.id, "tracks")} == {
        "tracks/human.json",
        "tracks/human.csv",
        "tracks/human.parquet",
    }
    assert json.loads(stored(run).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tracks/human.json", "type": "table"}
    ]
    shown = json.loads(Path(client.download_artifacts(run.id, "tracks/human.json")).read_text())
    assert shown["columns"] == ["index", "identifier", "pearson_r"]
    assert shown["data"] == [[0, "NA", 0.5], [1, "007", None]]


def test_files_folders_and_the_dataset(folder):
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "config.json").write_text("{}")
    (folder / "overall.png").write_bytes(b"png")
    with runs.start_run("ablation", Options()) as run:
        run.keep(folder / "checkpoint")
        run.keep(folder / "overall.png", "figures")
        run.use_dataset(name="demo/human", digest="0123456789" * 7, source="/data/demo", context="training")
    client = MlflowClient()
    assert [found.path for found in client.list_artifacts(run.id, "checkpoint")] == ["checkpoint/config.json"]
    assert [found.path for found in client.list_artifacts(run.id, "figures")] == ["figures/overall.png"]
    (used,) = stored(run).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("demo/human", "0123456789012345")
    assert json.loads(used.dataset.source) == {"uri": "/data/demo"}
    assert used.tags[0].value == "training"


def test_a_finished_child_is_found_again_and_moves(folder):
    with (
        runs.start_run("ablation", Options()) as first,
        first.child("rope-42", key=KEY, params={"seed": 42}) as made,
    ):
        made.summarize({"pearson/mean": 0.5})
    with runs.start_run("ablation", Options()) as second:
        with second.child("rope-42", key=KEY, params={"seed": 42}) as found:
            assert found.done
            assert found.id == made.id
            assert found.metrics() == {"pearson/mean": 0.5}
        with second.child("rope-123", key={**KEY, "seed": "123"}, params={"seed": 123}) as other:
            assert not other.done
            assert other.id != made.id
    assert stored(found).data.tags["mlflow.parentRunId"] == second.id
    assert stored(first).data.tags["continued_in"] == second.id
    assert stored(first).info.status == "FINISHED"
    assert stored(other).data.params == {"seed": "123"}


def test_a_child_that_was_killed_goes_on(folder):
    """As kill -9 leaves it: parent and child RUNNING, the last points not sent."""
    parent = runs.start_run("ablation", Options())
    first = parent.__enter__()
    first.take_over({"grid": KEY["grid"]})
    child = first.child("rope-42", key=KEY, params={"seed": 42})
    made = child.__enter__()
    for step in range(1, 8):
        made.log(step, {"loss": float(step)})
    made.log(5, {"validation/pearson": 0.1})
    made.flush()
    made.log(8, {"loss": 8.0})
    with (
        runs.start_run("ablation", Options()) as second,
        second.child("rope-42", key=KEY, params={"seed": 42}) as found,
    ):
        second.take_over({"grid": KEY["grid"]})
        assert not found.done
        assert found.id == made.id
        assert stored(found).info.status == "RUNNING"
        for step in range(6, 11):  # from the checkpoint of step 5
            found.log(step, {"loss": float(step)})
        found.log(10, {"validation/pearson": 0.2})
    assert series(found, "loss") == [(step, float(step)) for step in range(1, 11)]
    assert series(found, "validation/pearson") == [(5, 0.1), (10, 0.2)]
    assert stored(found).info.status == "FINISHED"
    assert stored(first).info.status == "KILLED"
    assert stored(first).data.tags["continued_in"] == second.id


def test_a_parent_killed_before_its_first_child_is_ended(folder):
    parent = runs.start_run("ablation", Options())
    first = parent.__enter__()
    first.take_over({"grid": "one"})
    with runs.start_run("ablation", Options()) as other:
        other.take_over({"grid": "two"})
        assert stored(first).info.status == "RUNNING"
    with runs.start_run("ablation", Options()) as second:
        second.take_over({"grid": "one"})
    assert stored(first).info.status == "KILLED"
    assert stored(first).data.tags["continued_in"] == second.id


def test_a_finished_child_of_a_deleted_parent_is_kept(folder):
    with runs.start_run("ablation", Options()) as first, first.child("rope-42", key=KEY, params={}) as made:
        made.summarize({"pearson/mean": 0.5})
    first.client.delete_run(first.id)
    with (
        runs.start_run("ablation", Options()) as second,
        second.child("rope-42", key=KEY, params={}) as found,
    ):
        assert found.done and found.id == made.id
    assert stored(found).data.tags["mlflow.parentRunId"] == second.id


def test_a_failed_child_is_tried_again(folder):
    with runs.start_run("ablation", Options()) as first:
        with pytest.raises(ValueError), first.child("rope-42", key=KEY, params={}) as child:
            raise ValueError("loss became nan at step 3")
        assert stored(child).info.status == "FAILED"
        assert "loss became nan" in stored(child).data.tags["failure"]
    with (
        runs.start_run("ablation", Options()) as second,
        second.child("rope-42", key=KEY, params={}) as child,
    ):
        assert not child.done
    assert stored(child).info.status == "FINISHED"
    assert "failure" not in stored(child).data.tags


def test_a_stopped_child_says_that_it_is_resumable(folder):
    with (
        pytest.raises(Stopped),
        runs.start_run("ablation", Options()) as run,
        run.child("rope-42", key=KEY, params={}) as child,
    ):
        raise Stopped
    for ended in (run, child):
        assert stored(ended).info.status == "KILLED"
        assert stored(ended).data.tags["resumable"] == "true"


@pytest.mark.slow
def test_processes_that_meet_on_an_absent_store_all_run(tmp_path):
    script = (
        "from dataclasses import dataclass; from mlproject.tracking import runs\n"
        "@dataclass(frozen=True)\n"
        "class Options:\n"
        "    seed: int = 1\n"
        "with runs.start_run('ablation', Options()) as run: run.summarize({'x': 1.0})"
    )
    environment = {name: word for name, word in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(runs.__file__).parents[2])
    processes = [
        subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment) for _ in range(3)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    found = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in found] == ["FINISHED"] * 3


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("# Best\n\ntrial 7", "# Best\n\ntrial 7"),
        ("x" * 8_000, "x" * 8_000),
        ("a line\n" * 2_000, None),
        ("é" * 9_000, None),
    ],
)
def test_a_description_is_shown_and_never_cut_without_a_word(folder, given, kept):
    with runs.start_run("search_head", Options()) as run:
        run.describe("before")
        run.describe(given)
    found = MlflowClient().get_run(run.id).data.tags["mlflow.note.content"]
    if kept is None:
        assert len(found) <= 8_000 and found.endswith("\n\n(The rest is too long to be shown here.)")
        start = found[: found.index("\n\n(")]
        assert given.startswith(start) and len(start) > 7_900
    else:
        assert found == kept
