"""Servers in processes of their own, asked over the network as colleagues do."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from asking import ROOT, Server, sequences
from mlproject import __main__ as door
from mlproject import options
from mlproject.commands import serve
from mlproject.errors import InputError
from mlproject.serving import server
from mlproject.serving.guard import Limits

MIB = 2**20


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.slow
def test_a_server_lives_with_bad_clients_and_dead_workers(letters_folder, tmp_path):
    words = [
        "--model",
        str(letters_folder),
        "--workers",
        "1",
        "--max_body_mib",
        "1",
        "--timeout_seconds",
        "1.5",
    ]
    with Server(tmp_path, *words, LETTERS_SLEEP="3") as running:
        assert "one copy takes" in running.greeting and "1 worker" in running.greeting
        assert running.host == "127.0.0.1"
        about = running.ask("GET", "/version").json
        assert about["model"] == "letters" and len(about["digest"]) == hashlib.sha256().digest_size * 2
        assert about["mlflow"] == mlflow.__version__

        # many at once, each with its own answer
        def count(number):
            return running.post(sequences("A" * number)).json["predictions"][0]["count"]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(count, range(1, 101))) == list(range(1, 101))

        # too much, and a client that hangs up while it sends or waits
        assert running.post(b"x" * 10 * MIB).status == 413
        body = json.dumps(sequences("SLEEP")).encode()
        head = "POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for sent in (body[:9], body):
            with socket.create_connection((running.host, running.port)) as client:
                client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + sent)
        running.wait_for(lambda: [line["status"] for line in running.log].count(499) == 2)
        running.wait_for(lambda: running.post(sequences("A")).status == 200)
        assert running.post(sequences("SLEEP")).status == 504
        running.wait_for(lambda: running.post(sequences("A")).status == 200)

        # killed by itself, in the middle of a request, and by the kernel
        with pytest.raises(OSError):
            running.post(sequences("DIE"))
        assert running.post(sequences("ACGT")).status == 200
        (worker,) = workers_of(running)
        os.kill(worker.pid, signal.SIGKILL)
        assert running.post(sequences("ACGT")).status == 200
        assert [line["exit"] for line in running.log if line.get("event") == "worker restarted"] == [9, -9]

        assert running.end() == 0
        assert "Traceback" not in "".join(running.errors)


@pytest.mark.slow
def test_the_champion_is_served_by_as_many_workers_as_are_asked_for(letters_folder, tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("older", "newer"):
        client.create_registered_model(name)
        client.create_model_version(name, str(letters_folder))
        client.set_registered_model_alias(name, "champion", "1")
    with Server(tmp_path, "--workers", "2") as running:
        assert running.greeting.startswith("models:/newer/1 at") and "2 workers" in running.greeting
        assert running.ask("GET", "/version").json["version"] == "1"
        client.set_registered_model_alias("newer", "other", "1")
        assert client.search_experiments()[0].name == "Default"
        assert client.search_runs(["0"]) == []  # a server is no run

        taken = [sys.executable, "-m", "mlproject", "serve", "--port", str(running.port)]
        second = subprocess.run(taken, cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 2 and second.stderr.count("\n") == 1
        assert f"--port: 127.0.0.1:{running.port} cannot be used" in second.stderr

        # memory stays as it is
        with running.connect() as connection:
            ask = [sequences("ACGT" * 500), sequences("none!"), b"[" * 1000]
            for number in range(600):
                if number == 150:
                    before = sum(worker.memory_info().rss for worker in workers_of(running))
                running.post(ask[number % 3], connection)
        after = sum(worker.memory_info().rss for worker in workers_of(running))
        assert after - before < 20e6

        # workers end when their supervisor is killed
        workers = workers_of(running)
        running.process.kill()
        running.process.wait()
        assert not psutil.wait_procs(workers, timeout=10)[1]


def workers_of(running):
    found = psutil.Process(running.process.pid).children()
    return [one for one in found if "resource_tracker" not in " ".join(one.cmdline())]


# --- what is refused before a server starts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        (["--port", "70000"], "--port: found 70000"),
        (["--workers", "-1"], "--workers: found -1"),
        (["--timeout_seconds", "0"], "--timeout_seconds: found 0"),
        (["--reference_fasta", "absent.fa"], "there is no file absent.fa"),
        (["--host", "0.0.0.0"], "--allowed_hosts: needed"),
        (["--host", "no.such.host.invalid"], "--host: found"),
        (["--host", "a..b"], "--host: found"),
        (["--max_rows", "10000000000"], "--max_rows: found 10000000000; it must be 1000000 or less"),
        ([], "no registered model"),
        (["--model", "models:/absent@champion"], "--model: models:/absent@champion"),
        (["--model", "absent"], "--model: absent"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, tmp_path):
    assert door.main(["serve", "--port", "0", *words] if "--port" not in words else ["serve", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_model_without_columns_is_refused(tmp_path):
    spec = Schema([TensorSpec(np.dtype(np.float32), (-1, 4))])
    with pytest.raises(InputError, match="no named columns"):
        server.schema_of(mlflow.models.Model(signature=ModelSignature(spec)))


def test_a_model_that_cannot_be_loaded_ends_the_server(letters_folder, tmp_path):
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(letters_folder), str(broken)], check=True)
    (broken / "letters_model.py").write_text("raise ValueError('of no use')")
    ended = subprocess.run(
        [sys.executable, "-m", "mlproject", "serve", "--model", str(broken), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1 and "of no use" in ended.stderr and "Traceback" not in ended.stderr


def test_a_model_is_warm_before_it_answers(letters_folder, monkeypatch):
    loaded, load = [], mlflow.pyfunc.load_model
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda folder: loaded.append(load(folder)) or loaded[0])
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "")  # load changes it
    monkeypatch.setattr(server.gc, "freeze", lambda: None)  # of this process
    server.App(server.Found(letters_folder, "", {}), Limits(), os.getpid()).load()
    assert loaded[0].unwrap_python_model().warm


@pytest.mark.parametrize("words", ["a: [", "5", "signature: 5"])
def test_a_damaged_model_is_refused(tmp_path, words):
    (tmp_path / "MLmodel").write_text(words)
    with pytest.raises(InputError, match="MLmodel"), server.fetched(str(tmp_path)):
        pass


def test_a_worker_that_is_killed_as_it_loads_ends_the_server(letters_folder, tmp_path):
    deadly = tmp_path / "deadly"
    subprocess.run(["cp", "-r", str(letters_folder), str(deadly)], check=True)
    (deadly / "letters_model.py").write_text("import os; os.kill(os.getpid(), 9)")
    words = ["--model", str(deadly), "--port", "0"]
    ended = subprocess.run(
        [sys.executable, "-m", "mlproject", "serve", *words], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1 and "the worker died with -9 as it loaded the model" in ended.stderr


def test_copies_are_as_many_as_memory_and_cores_allow(monkeypatch):
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(server, "_free_bytes", lambda: 5e9)
    assert [server.fitting(copy) for copy in (10e9, 2e9, 1e9, 0.1e9)] == [1, 2, 4, 8]


def test_the_digest_is_of_names_and_content(tmp_path):
    digests = []
    for name, text in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        (folder / name).write_text(text)
        digests.append(server._digest(folder))
    assert len(set(digests)) == 3 and digests[0] == digests[3]


def test_the_champion_is_of_the_model_changed_last(letters_folder, tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for name, alias in (("a", "champion"), ("b", "champion"), ("c", "challenger")):
        client.create_registered_model(name)
        client.create_model_version(name, str(letters_folder))
        client.set_registered_model_alias(name, alias, "1")
    assert server.champion() == "models:/b@champion"
    with server.fetched("models:/b@champion") as found:
        assert found.address == "models:/b/1" and found.about["version"] == "1"


def test_options_reach_the_server(monkeypatch, letters_folder):
    seen = []
    monkeypatch.setattr(server.Supervisor, "__init__", lambda self, *given: seen.extend(given))
    monkeypatch.setattr(server.Supervisor, "serve", lambda self: 0)
    for name in ("MLPROJECT_MAX_ROWS", "MLPROJECT_BATCH_SIZE"):
        monkeypatch.setenv(name, "")
    chosen = serve.Options(model=str(letters_folder), port=0, max_rows=7, batch_size=3, max_body_mib=2)
    assert serve.run(chosen, None) == 0
    app, _, workers = seen
    assert (app.limits.max_rows, app.limits.batch_rows, app.limits.max_body_bytes, workers) == (
        7,
        3,
        2 * MIB,
        0,
    )
    assert os.environ["MLPROJECT_MAX_ROWS"] == "7"
    assert app.limits.allowed_hosts[:2] == ("localhost", "127.0.0.1")
    assert not Path("mlflow.db").exists()  # a folder needs no store


def container():
    """The Dockerfile of the docs."""
    docs = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.search(r"```Dockerfile\n(.*?)```", docs, re.DOTALL)[1]


def test_hadolint_has_nothing_to_say_of_the_container():
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if program is None:
        pytest.skip("no hadolint for this platform")
    found = subprocess.run([program, "--no-color", "-"], input=container(), capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout


def test_the_container_of_the_docs_starts_what_there_is():
    """No engine runs here: each line of the Dockerfile is held against the project."""
    lines = container().replace("\\\n", " ").splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    kinds = [kind for kind, _ in words]
    assert kinds[0] == "FROM" and kinds[-1] == "CMD"
    assert kinds.index("USER") < kinds.index("CMD") and "latest" not in words[0][1]
    for source in (source for kind, rest in words if kind == "COPY" for source in rest.split()[:-1]):
        assert source == "model" or (ROOT / source).exists(), source
    program, *given = json.loads(words[-1][1])
    assert [program, *given[:3]] == ["python", "-m", "mlproject", "serve"]
    serve.check(options.parse(serve.Options, given[3:]))
    health = dict(words)["HEALTHCHECK"]
    assert f":{serve.Options.port}/ping" in health
