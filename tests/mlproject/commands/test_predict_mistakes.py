"""Options that are wrong, and models that cannot do what is asked of them."""

from pathlib import Path

import pytest
import tensorflow as tf

from mlproject import __main__ as door
from predicting import predict
from processes import Store


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "humen"}, "--head: found 'humen'; did you mean human?; the model has human, mouse"),
        ({"head": "runs:/0123"}, "--head runs:/0123: "),
        ({"head": "{places}/trunk"}, "--head {places}/trunk: "),
        ({"tracks": "3"}, "--tracks: found '3'; the head has the indices 0 to 2"),
        (
            {"head": "mouse", "targets": "{places}/targets.txt"},
            "--targets: the table has 3 tracks, head mouse has 2",
        ),
        ({"weights": "nowhere"}, "--weights nowhere: no file or folder of that name"),
    ],
)
def test_what_a_model_cannot_do_is_one_line(folder, places, capsys, options, says):
    options = {name: value.format(places=places) for name, value in options.items()}
    assert predict(places, regions="c10:500-600", **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject predict: ") and says.format(places=places) in line
    assert Store(folder, "predict").parents[-1].info.status == "FAILED"
    assert not Path("work/predicted").exists() and not Path("work/predict").exists()


def test_values_that_are_no_numbers_are_refused(folder, places, predictor, capsys):
    predictor.bad = True
    assert predict(places, regions="c10:500-600") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "trunk: predicts NaN or infinite values at c10:" in line and not Path("work/predicted").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "--batch_size: found 0; it must be 1 or more"),
        ({"length": 1000}, "--length: found 1000; it must be a multiple of 128 bp, such as 1024"),
        ({"length": -128}, "--length: found -128; it cannot be negative"),
        ({"shifts": -1}, "--shifts: found -1; it cannot be negative"),
        (
            {"formats": "npz,bigwg"},
            "--formats: found 'bigwg'; did you mean bigwig?; it can be npz, bedgraph, bigwig",
        ),
        ({"fasta": "nowhere.fa"}, "fasta nowhere.fa: cannot be read"),
        ({"regions": "nowhere.bed"}, "bed nowhere.bed: cannot be read"),
        ({"regions": "c10:9-5"}, "--regions: 'c10:9-5': end 5 is not greater than start 9."),
        ({"regions": "chr10:5-9"}, "chromosome chr10 is not in the FASTA, which has c10, c2, short"),
        ({"regions": "{places}/reversed.bed"}, "reversed.bed, line 1: end 5 is not greater than start 9."),
        ({"targets": "{places}/genome.fa"}, "targets {places}/genome.fa: has no column 'identifier'"),
        ({"tracks": "opn", "targets": "{places}/targets.txt"}, "did you mean 'open'?"),
        ({"tracks": "0", "targets": "{places}/targets.txt"}, "'0'; the head has the indices 10 to 12"),
        ({"output": "x" * 300}, "xxx: cannot be written (File name too long)."),
        # with what it is called until it is whole
        ({"output": "x" * 250}, "xxx: cannot be written (File name too long)."),
        ({"output": "new/below/out", "regions": "c10:9-5"}, "end 5 is not greater than start 9."),
        ({"weights_dir": "x"}, "--weights_dir: is for --weights published or tensorhub"),
        ({"output": ""}, "--output: found ''; expected the name of a folder to write"),
        ({"output": "{places}/trunk"}, "is there and is no prediction; name a folder that is not there"),
        ({"output": "{places}/genome.fa/out"}, "genome.fa/out: cannot be written ("),
    ],
)
def test_bad_options_are_one_line_and_no_run(tmp_path, monkeypatch, places, capsys, options, says):
    (places / "reversed.bed").write_text("c10\t9\t5\n")
    monkeypatch.chdir(tmp_path)
    options = {name: str(value).format(places=places) for name, value in options.items()}
    assert predict(places, work_dir=places / "work", **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject predict: ") and says.format(places=places) in line
    assert [path.name for path in tmp_path.iterdir()] in ([], ["work"])


def test_memory_that_is_not_enough_is_one_line(folder, places, predictor, capsys, monkeypatch):
    def exhausted(self, batch):
        raise tf.errors.ResourceExhaustedError(None, None, "Out of memory: no 9 GB")

    monkeypatch.setattr(predictor, "__call__", exhausted)
    monkeypatch.setattr(door.compilation, "leave", lambda: None)
    monkeypatch.setattr(door.os, "_exit", lambda code: None)  # the process would end here
    assert predict(places, batch_size=3) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "out of memory with --length 2048 --batch_size 3 (ResourceExhaustedError: Out of memory: no 9 GB)"
        in line
    )
    assert not Path("work/predicted").exists()
