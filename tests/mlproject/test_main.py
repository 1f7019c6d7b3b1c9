"""The door, with toy commands of its own."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlproject import __main__ as door
from mlproject import commands, stderr

TOYS = {
    "toy": '''
        """Adds two numbers."""
        from dataclasses import dataclass
        from mlproject.errors import InputError

        @dataclass(frozen=True)
        class Options:
            """Adds two numbers."""
            first: float = 1.0
            """One number."""
            outcome: str = "well"
            """How it ends: well, badly, input, error."""
            experiment: str = "toys"
            """MLflow experiment."""

        def check(options):
            if options.first < 0:
                raise InputError(f"--first: found {options.first}, expected 0 or more")

        def run(options, run):
            run.summarize({"final/sum": options.first + 1})
            if options.outcome == "badly":
                return 1
            if options.outcome == "input":
                raise InputError("data/targets.txt, row 3: no column clip; add it")
            if options.outcome == "error":
                raise ZeroDivisionError("division by nothing\\nsecond line")
    ''',
    "waits": '''
        """Waits for a signal."""
        import time
        from dataclasses import dataclass
        from mlproject import stopping
        from mlproject.errors import Stopped

        @dataclass(frozen=True)
        class Options:
            deferred: bool = True
            """Stop at a safe step only."""

        def run(options, run):
            if not options.deferred:
                print("ready", flush=True)
                time.sleep(60)
            with stopping.deferred() as should_stop:
                print("ready", flush=True)
                while not should_stop():
                    time.sleep(0.01)
                run.log(3, {"loss": 0.5})
                raise Stopped("after a checkpoint")
    ''',
}


@pytest.fixture
def toys(tmp_path_factory, monkeypatch) -> Path:
    """A folder of toy commands that the door finds beside the real ones."""
    path = tmp_path_factory.mktemp("toys")
    for name, source in TOYS.items():
        (path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.setattr(commands, "__path__", [str(path)])
    yield path
    for name in TOYS:
        sys.modules.pop(f"mlproject.commands.{name}", None)


def runs(experiment: str = "toys"):
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def test_a_command_is_one_finished_run(folder, toys):
    assert door.main(["toy", "--first", "2.5"]) == 0
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("toy ")
    assert run.data.params == {"first": "2.5", "outcome": "well", "experiment": "toys"}
    assert run.data.metrics == {"final/sum": 3.5}


def test_a_bad_option_leaves_nothing_behind(folder, toys, capsys):
    assert door.main(["toy", "--frist", "2"]) == 2
    assert door.main(["toy", "--first", "-1"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mlproject toy: unknown option --frist; did you mean first?",
        "mlproject toy: --first: found -1.0, expected 0 or more",
    ]
    assert runs() == []


def test_an_input_error_in_the_work_is_one_line(folder, toys, capsys):
    assert door.main(["toy", "--outcome", "input"]) == 2
    assert capsys.readouterr().err == "mlproject toy: data/targets.txt, row 3: no column clip; add it\n"
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "data/targets.txt, row 3: no column clip; add it"


def test_other_errors_show_where(folder, toys, capsys):
    assert door.main(["toy", "--outcome", "error"]) == 1
    assert "Traceback" in capsys.readouterr().err
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert "division by nothing" in run.data.tags["failure"]


def test_an_exit_code_of_the_command_is_the_exit_code(folder, toys):
    assert door.main(["toy", "--outcome", "badly"]) == 1
    (run,) = runs()
    assert run.info.status == "FAILED"


def test_an_unknown_command_lists_those_there_are(folder, toys, capsys):
    assert door.main(["tyo"]) == 2
    assert capsys.readouterr().err == (
        "mlproject tyo: unknown command 'tyo'; did you mean toy?; there are: toy, waits\n"
    )


def test_only_the_greetings_of_an_import_are_kept_off_stderr(capfd):
    with stderr.without(stderr.GREETING):
        os.write(2, b"I0000 00:00:1795 12 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 2 cuda.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)\n")
        os.write(2, b"E0000 00:00:1 2 cuda.cc:52] failed call to cuInit: driver too old (803)\n")
        os.write(2, b"a real warning\n")
    os.write(2, b"I0000 later\n")
    shown = capfd.readouterr().err
    assert shown.splitlines()[-2:] == ["a real warning", "I0000 later"]
    assert "(803)" in shown and "(303)" not in shown and "oneDNN" not in shown


def test_the_overview_names_each_command(toys, capsys):
    assert door.main(["--help"]) == 0
    assert "toy    Adds two numbers." in capsys.readouterr().out
    assert door.main([]) == 2


def test_the_run_of_mlflow_ends_with_the_reason(folder, toys, monkeypatch):
    client = MlflowClient()
    run = client.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert door.main(["toy", "--frist", "2"]) == 2
    ended = client.get_run(run.info.run_id)
    assert ended.info.status == "FAILED"
    assert "unknown option --frist" in ended.data.tags["failure"]


@contextmanager
def started(folder: Path, toys: Path, *words: str) -> Iterator[subprocess.Popen]:
    """The door in a process of its own, past the point where the command is running."""
    script = (
        "import sys; from mlproject import commands, __main__; "
        f"commands.__path__ = [{str(toys)!r}]; sys.exit(__main__.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(door.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.parametrize(
    ("number", "code", "deferred"), [(signal.SIGTERM, 143, "true"), (signal.SIGINT, 130, "false")]
)
def test_a_signal_leaves_a_resumable_run(folder, toys, number, code, deferred):
    with started(folder, toys, "waits", "--deferred", deferred) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == code
    (run,) = runs("waits")
    assert run.info.status == "KILLED"
    assert run.data.tags["resumable"] == "true"
    assert run.data.metrics == ({"loss": 0.5} if deferred == "true" else {})


def test_help_loads_nothing_heavy(toys):
    script = (
        "import sys; from mlproject import commands, __main__; "
        f"commands.__path__ = [{str(toys)!r}]\n"
        "try: __main__.main(['toy', '--help'])\n"
        "finally: print(sorted({'mlflow', 'tensorflow', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(door.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "One number." in done.stdout
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
