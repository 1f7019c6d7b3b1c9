"""Predictions that are there, or were stopped, killed or out of room, and go on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from enformer_core import checkpoints
from mlproject import __main__ as door
from mlproject.commands import predict as command
from mlproject.data import files, signal_files
from mlproject.tracking import runs
from predicting import arrays, letters_of, predict
from processes import ROOT, Store, finish, launch
from toys import toy_model


def test_the_same_again_is_nothing_to_do_and_another_is_refused(folder, places, predictor, capsys):
    assert predict(places, regions="c10:500-600") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("work/predicted").iterdir()}
    predictor.calls.clear()
    assert predict(places, regions="c10:500-600", formats="npz", batch_size=4) == 0
    assert "work/predicted: holds this prediction already; nothing to do" in capsys.readouterr().out
    for changes, says in (
        ({"regions": "c10:500-601"}, "holds another prediction; remove it, or name another folder"),
        ({"shifts": 2}, "holds another prediction"),
        ({"tracks": "1"}, "holds another prediction"),
        ({"weights": places / "trained", "head": "mine"}, "holds another prediction"),
        (
            {"formats": "npz,bedgraph"},
            "holds this prediction without bedgraph; to predict again and write that, give --formats bedgraph and "
            "another folder, such as --output work/predicted_bedgraph",
        ),
    ):
        assert predict(places, **{"regions": "c10:500-600", **changes}) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert not predictor.calls
    assert {path: path.stat().st_mtime_ns for path in Path("work/predicted").iterdir()} == before


def test_only_the_first_call_holds_back_what_goes_to_stderr(folder, places, predictor, monkeypatch):
    """What compiles does, and the progress bar is written there."""
    ended_after = []

    @contextlib.contextmanager
    def compiling(first=True):
        yield
        if first:
            ended_after.append(len(predictor.calls))

    monkeypatch.setattr(command.compilation, "compiling", compiling)
    assert predict(places) == 0
    assert ended_after == [1] and len(predictor.calls) > 2


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stopped_prediction_goes_on(folder, places, predictor, capsys, damaged):
    assert predict(places, formats="npz,bigwig", output="whole") == 0
    total = len(predictor.calls)
    predictor.calls.clear()
    predictor.stop_at = 4
    assert predict(places, output="out", batch_size=2) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"after 8 of {total} fragments; the same command goes on from there")
    assert not Path("out").exists()
    (unfinished,) = (path for path in Path("work/predict").iterdir() if path.is_dir())
    assert sorted(path.name for path in unfinished.iterdir()) == [f"{n:06d}.npz" for n in range(8)]
    if damaged:
        (unfinished / "000003.npz").write_bytes(b"PK")
    predictor.stop_at = 0
    predictor.calls.clear()
    assert predict(places, output="out") == 0  # one at a time: the same numbers
    assert len(predictor.calls) == total - 8 + damaged
    assert (
        f"{8 - damaged} fragments were predicted before; {total - 8 + damaged} to go"
        in capsys.readouterr().out
    )
    for path in Path("whole").iterdir():
        assert path.suffix == ".png" or Path("out", path.name).read_bytes() == path.read_bytes()
    assert not unfinished.exists()


def test_a_disk_that_fills_up_is_one_line_and_loses_no_prediction(
    folder, places, predictor, capsys, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(command.signal_files, "write_formats", full)
        assert predict(places, regions="c10:500-600") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output work/predicted: cannot be written (No space left on device)" in line
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict"]
    predictor.calls.clear()
    assert predict(places, regions="c10:500-600") == 0
    assert not predictor.calls and len(arrays()["values"]) == 11  # of 14, three are before the chromosome


def test_fragments_that_a_kill_left_behind_go_when_the_prediction_is_found_done(folder, places, predictor):
    predictor.stop_at = 2
    assert predict(places, regions="c10:500-5000") == 143
    shutil.copytree("work/predict", "kept")
    predictor.stop_at = 0
    assert predict(places, regions="c10:500-5000") == 0
    shutil.copytree("kept", "work/predict", dirs_exist_ok=True)
    assert unfinished()
    assert predict(places, regions="c10:500-5000") == 0
    assert not list(Path("work/predict").iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "full"},  # these weights have a size
        {"length": 2048},  # which is the model's own
        {"regions": "c10:490-4990"},  # the same fragments
        {"targets": "names.txt"},
        {"formats": "bedgraph", "batch_size": 3},
    ],
)
def test_what_changes_no_number_goes_on(folder, places, predictor, capsys, changes):
    rows = "".join(f"{index}\tname{index}\tf\tx\n" for index in range(3))
    Path("names.txt").write_text("index\tidentifier\tfile\tdescription\n" + rows)
    predictor.stop_at = 2
    assert predict(places, regions="c10:500-5000") == 143
    predictor.stop_at = 0
    assert predict(places, **{"regions": "c10:500-5000", **changes}) == 0
    assert "2 fragments were predicted before; 1 to go" in capsys.readouterr().out


def test_a_model_of_the_same_weights_that_is_made_otherwise_is_another(folder, places, predictor, capsys):
    for positions in ("none", "rotary"):
        checkpoints.save(positions, toy_model(positions=positions))
    predictor.stop_at = 2
    assert predict(places, regions="c10:500-5000", weights="none") == 143
    predictor.stop_at = 0
    assert predict(places, regions="c10:500-5000", weights="rotary") == 0
    assert "predicted before" not in capsys.readouterr().out


def test_a_fragment_that_is_damaged_at_the_end_is_one_line_and_predicted_again(
    folder, places, predictor, capsys, monkeypatch
):
    def damage(options, work, missing):
        if not missing:
            unfinished()[0].write_bytes(b"PK")

    with monkeypatch.context() as patch:
        patch.setattr(command, "_check_room", damage)
        assert predict(places, regions="c10:500-5000") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ".npz: cut short or damaged (" in line and "--output" not in line
    assert line.endswith("; the same command predicts this fragment again")
    assert not Path("work/predicted").exists()
    predictor.calls.clear()
    assert predict(places, regions="c10:500-5000") == 0
    assert predictor.calls == [1]


# --- room on the disk ---------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_anything_is_predicted(folder, places, predictor, capsys, monkeypatch):
    free = [10_000]
    monkeypatch.setattr(files, "disk_free", lambda path: free[0])
    assert predict(places, regions="c10:500-5000") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "--output work/predicted, work_dir work: 0." in line
        and " MB needed there, 0.01 MB free; free" in line
    )
    assert not predictor.calls and not Path("work/predicted").exists()
    store = Store(folder, "predict")
    assert store.parents[-1].info.status == "FAILED" and "needed" in store.parents[-1].data.tags["failure"]


def test_a_disk_that_has_filled_up_while_it_was_predicted_is_seen_before_files_are_written(
    folder, places, predictor, capsys, monkeypatch
):
    with monkeypatch.context() as patch:
        found = iter([10**9, 10_000])
        patch.setattr(files, "disk_free", lambda path: next(found))
        assert predict(places, regions="c10:500-5000") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.01 MB free" in line and len(predictor.calls) == len(unfinished()) == 3
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict"]
    predictor.calls.clear()
    assert predict(places, regions="c10:500-5000") == 0 and not predictor.calls


def test_a_writer_of_bigwigs_that_crashes_is_one_line(folder, places, predictor, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(signal_files, "_START", "import os; os.abort()")
        assert predict(places, regions="c10:500-5000", formats="bigwig") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "--output work/predicted: cannot be written (0000_human_0.bw: its writer ended with SIGABRT; " in line
    )
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict"]
    assert len(unfinished()) == 3


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
from mlproject import __main__
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_one_line_and_loses_no_prediction(folder, capsys):
    """5,313 tracks: fragments are below the limit, and what they are joined in is not."""
    Path("g.fa").write_text(f">a\n{letters_of({'a': 60_000, 'c2': 3000})['a']}\n")
    words = ["predict", "--fasta=g.fa", "--weights=random", "--length=2048", "--head=human", "--formats=npz"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line == "mlproject predict: --output work/predicted: cannot be written (File too large)."
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict"]
    store = Store(folder, "predict")
    assert (
        store.parents[-1].info.status == "FAILED"
        and "File too large" in store.parents[-1].data.tags["failure"]
    )
    assert door.main(words) == 0
    assert "30 fragments were predicted before; 0 to go" in capsys.readouterr().out
    assert arrays()["values"].shape == (469, 5313)


def test_artifacts_that_cannot_be_kept_are_not_blamed_on_the_output(
    folder, places, predictor, capsys, monkeypatch
):
    def full(self, path, folder=""):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "keep", full)
        assert predict(places, regions="c10:500-600") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "the store's artifacts: cannot be written (No space left on device)." in line
        and "--output" not in line
    )
    assert not Path("work/predicted").exists() and unfinished()


# --- processes that are ended -------------------------------------------------------------------------------------


def until_more_is_done(process, done):
    """Waits until the process has predicted three fragments more."""
    deadline = time.monotonic() + 300
    while len(unfinished()) < done + 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def unfinished():
    return list(Path("work/predict").glob("*/*.npz"))


@pytest.mark.slow
def test_processes_that_are_ended_go_on_to_the_same_numbers(folder):
    """One is asked to end, the next is killed, the third finishes."""
    letters = letters_of({"a": 400_000, "c2": 3_000}, seed=4)
    Path("big.fa").write_text("".join(f">{chrom}\n{text}\n" for chrom, text in letters.items()))
    words = ["predict", "--fasta=big.fa", "--weights=random", "--length=2048", "--head=mouse", "--tracks=0-1"]
    total, done = 198, 0
    for how, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = launch(folder, "mlproject", *words, "--output=out")
        until_more_is_done(process, done)
        process.send_signal(how)
        found, printed = finish(process)
        assert found == code and not Path("out").exists()
        assert done == 0 or f"{done} fragments were predicted before; {total - done} to go" in printed
        assert done + 3 <= len(unfinished()) < total
        done = len(unfinished())
    code, printed = finish(launch(folder, "mlproject", *words, "--output=out"))
    assert code == 0 and f"{done} fragments were predicted before; {total - done} to go" in printed
    assert not unfinished()
    assert door.main([*words, "--output=whole"]) == 0
    for name in ("values", "start", "offset"):
        np.testing.assert_array_equal(arrays("out")[name], arrays("whole")[name])
    manifests = [json.loads(Path(output, "prediction.json").read_text()) for output in ("out", "whole")]
    assert manifests[0] == manifests[1]
