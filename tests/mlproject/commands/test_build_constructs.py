import json

import pytest

from mlproject.__main__ import main
from mlproject.commands import build_constructs
from mlproject.commands.build_constructs import Options
from mlproject.data.constructs import read_constructs
from mlproject.data.demo_constructs import demo_constructs
from mlproject.errors import InputError
from recorder import Recorder


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


def test_folds_that_finetune_refuses_are_said(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    said = (
        "\nfinetune will refuse these constructs: folds of the constructs are test, train; "
        "expected train, valid and test, or"
    )
    assert (
        build_constructs.run(Options(output="work/pair", fold_ratios=("train=3", "test=1")), Recorder()) == 0
    )
    assert said in capsys.readouterr().out
    assert build_constructs.run(Options(output="work/cross", num_folds=3), Recorder()) == 0
    assert "finetune" not in capsys.readouterr().out


def test_what_is_left_out_is_named(demo_in, monkeypatch, capsys):
    monkeypatch.chdir(demo_in)
    options = Options(output="work/short", length=4_000, split_by="construct", num_folds=3)
    assert build_constructs.run(options, Recorder()) == 0
    printed = capsys.readouterr().out
    outside = json.loads((demo_in / "work" / "short" / "summary.json").read_text())["sites"]["outside"]
    assert len(outside) > 3
    assert f"\noff constructs   sites {', '.join(outside[:3])}, ... ({len(outside)} in all)\n" in printed
    assert "split_by=similarity keeps more of them together" in printed
    assert max(map(len, printed.splitlines())) < 200


@pytest.mark.parametrize(
    ("options", "said"),
    [(Options(table="t.tsv"), "table is given and payloads and reference and locus not; give table, payloads,"),
     (Options(table="t.tsv", payloads="p.fa", reference="r.fa"), "table is given and locus not"),
     (Options(table="t.tsv", payloads="p.fa", reference="r.fa", locus="c:1-2"), r"table t\.tsv: cannot be read"),
     (Options(num_folds=100), r"num_folds is 100, and the 72 constructs are in 12 clusters \(split_by group\)"),
     (Options(num_folds=4, fold_ratios=("train=1", "test=1")), "fold_ratios and num_folds are both given; give one"),
     (Options(similarity=0.5), "similarity is given with split_by group; leave it out, or set split_by to similarity"),
     (Options(split_by="construct", similarity=0.5), "similarity is given with split_by construct"),
     (Options(length=-5), "length is -5"), (Options(length=10**12), "length is 1000000000000, expected 1 to"),
     (Options(value_column="signal"), "has no column 'signal'"),
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
