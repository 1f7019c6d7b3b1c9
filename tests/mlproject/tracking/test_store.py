"""Where runs go, also under `mlflow run` from another folder."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlproject.errors import InputError
from mlproject.tracking import store

SOURCE = Path(store.__file__).parents[2]


def test_the_default_is_in_the_folder_of_the_user(folder):
    assert store.open_store().tracking_uri == f"sqlite:///{folder}/mlflow.db"
    assert (
        store.ui_command(store.open_store()) == f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"
    )


def test_a_store_without_a_folder_is_an_input_error(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/none/mlflow.db")
    with pytest.raises(InputError, match="no folder"):
        store.open_store()


def test_a_server_is_its_own_address(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000/")
    client = store.open_store()
    assert store.ui_address(client) == "http://tracking:5000"
    assert store.ui_command(client) is None


def test_an_experiment_is_made_once_and_a_deleted_one_is_named(folder):
    client = store.open_store()
    made = store.experiment_id(client, "grids")
    assert store.experiment_id(client, "grids") == made
    client.delete_experiment(made)
    with pytest.raises(InputError, match=f"'grids' is deleted.*restore -x {made}"):
        store.experiment_id(client, "grids")


@pytest.mark.slow
@pytest.mark.parametrize("uri", [None, "sqlite:///mine.db"])
def test_mlflow_run_from_another_folder(tmp_path, uri):
    """The run and its undeclared parameters are in the store of the folder that `mlflow` is started in."""
    project, user = tmp_path / "project", tmp_path / "user"
    (project / "commands").mkdir(parents=True)
    user.mkdir()
    (project / "commands" / "toy.py").write_text(
        textwrap.dedent(
            '''
            """A toy."""
            from dataclasses import dataclass

            @dataclass(frozen=True)
            class Options:
                rate: float = 1.0
                """A number."""
                words: tuple[str, ...] = ()
                """Some words."""

            def run(options, run):
                run.summarize({"final/rate": options.rate})
                with run.child("a child", key={"grid": "g"}, params={"x": "1"}) as child:
                    child.keep_text("note.txt", "kept")
            '''
        )
    )
    (project / "door.py").write_text(
        "import sys; from mlproject import commands, __main__\n"
        "commands.__path__ = ['commands']\n"
        "sys.exit(__main__.main(sys.argv[1:]))\n"
    )
    (project / "MLproject").write_text(
        'name: toy\nentry_points:\n  toy:\n    command: "python door.py toy"\n', encoding="utf-8"
    )
    environment = {name: word for name, word in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(SOURCE), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "run", str(project), "-e", "toy", "--env-manager", "local"]
    command += ["-P", "rate=5e-4", "-P", "words=a b,$c"]
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(project.glob("*.db"))
    client = MlflowClient(f"sqlite:///{user}/{'mine.db' if uri else 'mlflow.db'}")
    child, parent = client.search_runs(["0"], order_by=["attributes.start_time DESC"])
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params == {"rate": "5e-4", "words": "'a b,$c'"}  # as MLflow logs what it quotes
    kept = Path(client.download_artifacts(parent.info.run_id, "options.json")).read_text()
    assert json.loads(kept) == {"rate": 5e-4, "words": ["a b", "$c"]}
    assert parent.data.metrics == {"final/rate": 5e-4}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert Path(client.download_artifacts(child.info.run_id, "note.txt")).read_text() == "kept"
    assert str(child.info.artifact_uri).startswith(str(user))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder without a store, to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_store_whose_making_was_killed_is_made_again(empty):
    """What such a one has left has another name, and is in nobody's way."""
    (empty / ".mlflow.db.unfinished").write_bytes(b"half a migration")
    client = store.open_store()
    run = client.create_run(store.experiment_id(client, "one"))
    assert client.get_run(run.info.run_id).info.artifact_uri.startswith(str(empty / "mlruns"))
    assert not list(empty.glob(".*"))


def test_a_store_has_its_name_when_it_is_made(empty, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.open_store()
    assert not (empty / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "API request to http://me:secret@host:5000/api failed",
            "API request to http://me:…@host:5000/api failed",
        ),
        ("postgresql://me:sec@ret@host/db", "postgresql://me:…@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=…&x=1"),
        ("http://host:5000/a@b and sqlite:////a:b@c.db", "http://host:5000/a@b and sqlite:////a:b@c.db"),
    ],
)
def test_passwords_are_not_shown(words, shown):
    assert store.without_passwords(words) == shown
