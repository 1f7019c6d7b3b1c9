import json

import pytest

from mlproject.__main__ import main
from mlproject.commands import build_constructs
from mlproject.commands.build_constructs import Options
from mlproject.data.constructs import read_constructs
from mlproject.data.demo_constructs import demo_constructs
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


@pytest.fixture(scope="module")
def demo_in(tmp_path_factory):
    """A folder in which the demo's genome and constructs have been made."""
    folder = tmp_path_factory.mktemp("demo")
    demo_constructs(folder / "work")
    return folder


def test_without_options_it_builds_the_demo(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    run = Recorder()
    assert build_constructs.run(Options(), run) == 0
    printed = capsys.readouterr().out
    constructs = read_constructs("work/constructs")
    assert constructs == read_constructs(demo_constructs("work"))
    assert {len(one.sequence) for one in constructs} == {28_880}
    counts = {fold: [one.fold for one in constructs].count(fold) for fold in ("train", "valid", "test")}
    assert sum(counts.values()) == run.numbers["constructs"] == 72 and min(counts.values()) >= 12
    for fold, count in counts.items():
        assert run.numbers[f"constructs/{fold}"] == count and run.numbers[f"shared_kmers/{fold}"] < 0.01
        assert f"\n{fold:<8} {count:>10} " in printed
    assert len({(one.group, one.fold) for one in constructs}) == 12
    assert run.files == ["constructs.tsv", "summary.json"]
    summary = json.loads((demo_in / "work" / "constructs" / "summary.json").read_text())
    assert run.datasets[0]["digest"] == summary["sha256"][:16]
    assert "keeps more" not in printed and summary["placed"]["flank_n_bp"] == 0
    assert build_constructs.run(Options(), Recorder()) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_is_left_out_is_named(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    options = Options(output="work/short", length=4_000, split_by="construct", num_folds=3)
    assert build_constructs.run(options, Recorder()) == 0
    printed = capsys.readouterr().out
    outside = json.loads((demo_in / "work" / "short" / "summary.json").read_text())["sites"]["outside"]
    assert len(outside) > 3 and f"{len(outside)} sites: {', '.join(outside[:3])}, ..." in printed
    assert "split_by=similarity keeps more of them together" in printed
    assert max(map(len, printed.splitlines())) < 200


@pytest.mark.parametrize(
    ("options", "said"),
    [(Options(table="t.tsv"), "table is given and payloads and reference and locus not; give table, payloads,"),
     (Options(table="t.tsv", payloads="p.fa", reference="r.fa"), "table is given and locus not"),
     (Options(table="t.tsv", payloads="p.fa", reference="r.fa", locus="c:1-2"), r"table t\.tsv: cannot be read"),
     (Options(num_folds=13), "12 clusters of constructs .* cannot fill 13 folds"),
     (Options(length=-5), "length is -5"), (Options(value_column="signal"), "has no column 'signal'"),
     (Options(work_dir="/dev/null"), "work_dir /dev/null: cannot be written")],
)  # fmt: skip
def test_bad_input_is_refused_before_there_is_a_run(options, said, demo_in, monkeypatch):
    monkeypatch.chdir(demo_in)
    with pytest.raises(InputError, match=said) as caught:
        build_constructs.check(options)
    assert "\n" not in str(caught.value)


def test_bad_input_leaves_no_run_in_the_store(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    assert main(["build_constructs", "--deletions", "nobody", "--output", "work/new"]) == 2
    assert capsys.readouterr().err.startswith(
        "mlproject build_constructs: deletions names nobody, which is not"
    )
    assert [entry.name for entry in demo_in.iterdir()] == ["work"]
    assert not (demo_in / "work" / "new").exists()
