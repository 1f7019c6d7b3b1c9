import pytest

from mlproject.__main__ import main
from mlproject.commands import build_tracks
from mlproject.commands.build_tracks import Options
from mlproject.data.demo import demo_inputs
from mlproject.data.records import open_dataset, verify
from mlproject.errors import InputError
from recorder import Recorder


def test_without_options_it_builds_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Recorder()
    assert build_tracks.run(Options(workers=1), run) == 0
    printed = capsys.readouterr().out
    dataset = open_dataset("work/tracks", "human")
    verify(dataset)
    counts = {f"windows/{subset}": dataset.count(subset) for subset in ("train", "valid", "test")}
    assert run.numbers == counts and min(counts.values()) > 0
    assert run.datasets[0]["digest"] == dataset.digest[:16]
    assert {"statistics.json", "targets.txt", "sequences.bed", "manifest.json"} <= set(run.files)
    assert f"train {dataset.count('train')}" in printed and "human_CAGE_B-" in printed
    assert build_tracks.run(Options(workers=1), Recorder()) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_demo_geometry_through_the_options(tmp_path):
    options = Options(
        output=str(tmp_path / "out"), organism="mouse", sequence_length=16_384, crop_bp=1_024, workers=2,
        max_train=12, max_test=3, work_dir=str(tmp_path / "work"),
    )  # fmt: skip
    assert build_tracks.run(options, Recorder()) == 0
    statistics = open_dataset(tmp_path / "out", "mouse").statistics
    assert (statistics.train_seqs, statistics.valid_seqs, statistics.test_seqs) == (12, 8, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [(Options(fasta="a.fa"), "fasta is given and targets is not"),
     (Options(targets="t.txt"), "targets is given and fasta is not"),
     (Options(organism="fly"), "'fly' is not in the demo, which has human, mouse"),
     (Options(fasta="a.fa", targets="t.txt"), "targets t.txt: cannot be read"),
     (Options(workers=-1), "workers is -1"),
     (Options(max_valid=-1), "max_valid is -1"),
     (Options(sequence_length=196_608, crop_bp=97_000), "crop_bp is 97000"),
     (Options(output=""), "output is empty"),
     (Options(valid=("chr9",)), "valid names chromosome chr9"),
     (Options(work_dir="/dev/null"), "work_dir /dev/null: cannot be written")],
)  # fmt: skip
def test_bad_input_is_refused_before_there_is_a_run(options, said, demo_in, monkeypatch):
    monkeypatch.chdir(demo_in)
    with pytest.raises(InputError, match=said):
        build_tracks.check(options)
    assert not (demo_in / "work" / "tracks").exists()


@pytest.fixture(scope="module")
def demo_in(tmp_path_factory):
    """A folder in which the demo's FASTA and bigWigs have been made."""
    folder = tmp_path_factory.mktemp("demo")
    demo_inputs(folder / "work")
    return folder


def test_bad_input_leaves_no_run_in_the_store(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    assert main(["build_tracks", "--valid", "chr9"]) == 2
    assert capsys.readouterr().err.startswith("mlproject build_tracks: valid names chromosome chr9")
    assert [entry.name for entry in demo_in.iterdir()] == ["work"]


def test_a_check_makes_nothing(demo_in, monkeypatch):
    monkeypatch.chdir(demo_in)
    build_tracks.check(Options())
    assert not (demo_in / "work" / "tracks").exists()
