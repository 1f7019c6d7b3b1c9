"""What a search refuses, through the door: one line, exit code 2, and no run that stays RUNNING."""

import os

import pytest
import tensorflow as tf

from mlproject import __main__ as door
from mlproject.commands import search_head
from mlproject.data.constructs import as_table
from mlproject.search import store
from processes import Store
from toys import toy_constructs, toy_tracks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "constructs.tsv"
    path.write_text(as_table(toy_constructs(12)))
    return str(path)


@pytest.fixture
def refusal(monkeypatch, capsys, data):
    """Calls the command; its one line."""
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.delenv(store.VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*words):
        options = dict(word.split("=", 1) for word in words)
        if options.get("--task") != "tracks":
            options = {"--data": data, "--window": "2048", "--samples": "2", **options}
        assert door.main(["search_head", *(f"{name}={word}" for name, word in options.items())]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mlproject search_head: ")
        return line.removeprefix("mlproject search_head: ")

    return call


ONE_VALUE = "--num_heads=1 --key_size=8 --value_size=8 --hidden_size=0 --dropout=0 --weight_decay=0"
ONE_VALUE += " --learning_rate=1e-3"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--num_heads=", "--num_heads: found '': there is no value; expected one value, choices as 1,2,4"),
        ("--num_heads=0,1", "--num_heads: found '0,1': 0 is out of bounds: it must be at least 1"),
        ("--key_size=8,8", "--key_size: found '8,8': a value is there twice"),
        ("--value_size=64..16", "--value_size: found '64..16': 64 is above 16"),
        ("--value_size=16..64:20", "--value_size: found '16..64:20': steps of 20 do not lead from 16 to 64"),
        ("--dropout=0..1", "--dropout: found '0..1': 1 is out of bounds: it must be at least 0 and below 1"),
        (
            "--learning_rate=0..1e-3",
            "--learning_rate: found '0..1e-3': 0 is out of bounds: it must be above 0",
        ),
        (
            "--weight_decay=0..0.1:log",
            "--weight_decay: found '0..0.1:log': a logarithmic range begins above 0",
        ),
        (ONE_VALUE, "nothing to search: each of --num_heads, --key_size"),
        (f"--task=tracks {ONE_VALUE} --num_heads=0 --key_size=8,16", "nothing to search: each of "),
        ("--trials=0", "--trials: found 0; it must be 1 or more"),
        ("--trial_epochs=0", "--trial_epochs: found 0; it must be 1 or more"),
        ("--timeout=-1", "--timeout: found -1.0; it cannot be negative"),
        ("--workers=-1", "--workers: found -1; it cannot be negative"),
        ("--seed=-1", "--seed: found -1; it must be from 0"),
        ("--objective=r2", "--objective: found 'r2', expected one of pearson, loss"),
        ("--sampler=grid", "--sampler: found 'grid', expected one of tpe, random"),
        ("--organism=mouse", "--organism: is for --task tracks; found constructs"),
        ("--reverse_complement=true", "--reverse_complement: is for --task tracks; found constructs"),
        ("--task=tracks --held_out=0", "--held_out: is for --task constructs; found tracks"),
        ("--task=tracks --samples=2", "--samples: is for --task constructs; found tracks"),
        ("--held_out=7", "--held_out: found '7'; it can be 0, 1, 2"),
        ("--window=1000", "--window: found 1000; it must be a multiple of 128 bp"),
        ("--data=nowhere", "constructs nowhere: cannot be read"),
        (
            "--storage=postgresql+psycopg://127.0.0.1:1/x",
            "storage postgresql+psycopg://127.0.0.1:1/x: OperationalError: ",
        ),
        ("--storage=nosuch://host/x", "storage nosuch://host/x: NoSuchModuleError: "),
        (
            "--storage=postgresql://me:secret@host/x",
            "--storage postgresql://me:***@host/x: the password would be kept",
        ),
        ("--storage={data}", "--storage {data}: is there and no journal of Optuna; name another file"),
        ("--storage={data}/optuna.journal", "storage {data}/optuna.journal: "),
    ],
)
def test_bad_options_are_one_line_and_no_run(words, says, tmp_path, monkeypatch, refusal, data):
    monkeypatch.chdir(tmp_path)
    line = refusal(*words.format(data=data).split())
    assert line.startswith(says.format(data=data)) and "secret" not in line
    assert not list(tmp_path.iterdir())


def test_an_unreachable_database_of_the_environment_is_one_line_without_its_password(
    tmp_path, monkeypatch, refusal
):
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv(store.VARIABLE, "postgresql+psycopg://me:secret@127.0.0.1:1/x")
    line = refusal()
    assert line.startswith("storage postgresql+psycopg://me:***@127.0.0.1:1/x: ") and "secret" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed").mkdir(0o500)
    assert refusal("--storage=closed/optuna.journal").startswith(
        "storage closed/optuna.journal: PermissionError: "
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--objective=loss",
            "was made with direction maximize, and this command has minimize; choose another --study",
        ),
        (
            "--num_heads=1,2",
            "was made with num_heads 1,2,4, and this command has 1,2; choose another --study",
        ),
        ("--seed=43", "was made with seed 42, and this command has 43"),
        ("--preset=quarter", "was made with trunk "),
        ("--window=1920", "was made with window 2048, and this command has 1920"),
    ],
)
def test_a_study_of_another_search_is_refused(words, says, study_in_use, folder, refusal):
    line = refusal("--study=mine", f"--storage={study_in_use}", *words.split())
    assert line.startswith(f"storage {study_in_use}: study 'mine' {says}")
    (run,) = Store(folder, "search_head").parents
    assert run.info.status == "FAILED" and says in run.data.tags["failure"]
    assert not list(folder.glob("work/search_head/*/*"))


@pytest.fixture
def study_in_use(folder, data, monkeypatch):
    """The journal of a study `mine` that its command has made, and not begun."""
    from recorder import Recorder

    class Run(Recorder):
        """Takes what is said before a search begins."""

        rename = take_over = keep_text = lambda self, *words: None

    monkeypatch.setattr(search_head, "_search", lambda *_: None)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    path = str(folder / "optuna.journal")
    options = search_head.Options(data=data, window=2048, samples=2, study="mine", storage=path)
    assert search_head.run(options, Run()) == 1  # no trial is complete
    return path


def test_the_first_command_at_a_study_keeps_others_out(folder, data, refusal, study_in_use):
    path = store.lock_path(study_in_use, "mine", folder / "work")
    from mlproject.resuming import only_one

    with only_one(path):
        line = refusal("--study=mine", f"--storage={study_in_use}")
    assert line == f"{path}: another process is at this work; wait for it, or stop it"


def test_options_of_a_dataset_are_refused_before_a_run(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    records = str(toy_tracks(tmp_path / "records").path.parent)
    line = refusal("--task=tracks", f"--data={records}", "--organism=lab", "--num_heads=-1,0")
    assert line.startswith("--num_heads: found '-1,0': -1 is out of bounds: it must be at least 0")
    line = refusal("--task=tracks", f"--data={records}", "--organism=nobody")
    assert "nobody" in line and not (tmp_path / "work").exists()
