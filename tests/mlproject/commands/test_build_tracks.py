import pytest

from mlproject.commands import build_tracks
from mlproject.commands.build_tracks import Options
from mlproject.data.records import open_dataset, verify
from mlproject.errors import InputError


class Recorder:
    """Stands in for a Run and keeps what it is told."""

    def __init__(self):
        self.numbers, self.datasets, self.files = {}, [], []

    def summarize(self, metrics):
        self.numbers.update(metrics)

    def use_dataset(self, **dataset):
        self.datasets.append(dataset)

    def keep(self, path, folder=""):
        assert path.exists()
        self.files.append(path.name)


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
     (Options(organism="fly"), "'fly' is not in the demo, which has human, mouse")],
)  # fmt: skip
def test_half_given_inputs_are_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        build_tracks.run(options, Recorder())
    assert not (tmp_path / "work" / "tracks").exists()
