"""What `joint` refuses: one clear line, exit code 2, before a run exists."""

import re

import numpy as np
import pandas as pd
import pytest

from joint_tables import made_up
from mlproject import __main__ as door
from mlproject.commands import joint
from mlproject.data.demo_mpra import demo_joint_inputs


def rows_of(table):
    """A table without names of chromosomes, as comma separated text."""
    return table.assign(label=[f"s{n}" for n in range(len(table))]).to_csv(index=False)


BAD_TABLES = {
    "good": lambda table: table,
    "letters": lambda table: table.assign(sequence=table["sequence"].str.replace("^.", "X", n=1, regex=True)),
    "long": lambda table: table.assign(sequence=table["sequence"] + "A" * 20),
    "word": lambda table: table.assign(log2_K562="high"),
    "equal": lambda table: table.assign(log2_HepG2=1.0),
    "empty": lambda table: table[:0],
    "few": lambda table: table[:2],
    "short": lambda table: table.assign(sequence=[""] * len(table)),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory, studies_work):
    folder = tmp_path_factory.mktemp("bad")
    for name, changed in BAD_TABLES.items():
        (folder / f"{name}.csv").write_text(rows_of(changed(made_up())))
    return folder


@pytest.fixture(scope="module")
def studies_work(tmp_path_factory):
    """A work_dir with the demo."""
    work = tmp_path_factory.mktemp("work")
    demo_joint_inputs(work)
    return work


TABLE = "--modalities=mpra --mpra_len=40 --mpra_activity=log2_K562,log2_HepG2 --mpra={bad}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"{TABLE}/letters.csv", "letters.csv, line 2: sequence has 'X' at position 0"),
        (
            f"{TABLE}/long.csv",
            "bp long, expected at most 40; 90 of 90 sequences are longer: set --mpra_len to",
        ),
        (f"{TABLE}/word.csv", "word.csv, line 2: log2_K562 is 'high', expected a number"),
        (f"{TABLE}/short.csv", "short.csv, line 2: sequence is empty"),
        (f"{TABLE}/empty.csv", "empty.csv: has no rows"),
        (f"{TABLE}/few.csv", "mpra: train has no sequence: 2 sequences are"),
        (f"{TABLE}/none.csv", "none.csv: cannot be read"),
        (
            f"{TABLE}/equal.csv --holdout_cell_type=K562",
            "--mpra_activity: all activities to train on are equal",
        ),
        (
            f"{TABLE}/good.csv --holdout_cell_type=K563",
            "--holdout_cell_type: found 'K563'; did you mean K562?",
        ),
        (
            f"{TABLE}/good.csv --mpra_test=chr8",
            "--mpra_test: found 'chr8'; the MPRA table names no chromosomes",
        ),
        (f"{TABLE}/good.csv --mpra_activity=log2_K56", "has no column 'log2_K56' (activity)"),
        (f"{TABLE}/good.csv --mpra_log2=-9", "--mpra_log2 -9: 180 of 180 activities are 9 or less"),
        (
            f"{TABLE}/good.csv --mpra_activity=log2_K562 --num_mpra_train_samples=1",
            "--mpra: found 1 measurements",
        ),
        (
            f"{TABLE}/good.csv --mpra_activity=log2_K562 --holdout_cell_type=mpra",
            "is the only cell type with labels",
        ),
        (f"{TABLE}/good.csv --modalities=both", "--tracks: found demo beside --mpra"),
        (
            f"{TABLE}/good.csv --modalities=both --tracks=x.txt",
            "--fasta: found nothing; --tracks x.txt needs",
        ),
        ("--tracks=x.txt --fasta=y.fa", "--track_valid: found nothing"),
        ("--tracks=x.txt --fasta=y.fa --track_valid=a --track_test=b", "targets x.txt: cannot be read"),
        ("--track_names=B*", "--track_names: found 'B*', which is none of "),
        ("--modalities=botj", "--modalities: found 'botj'; did you mean both?"),
        ("--modalities=mpra,mpra", "--modalities: found 'mpra,mpra'; give at least one, each once"),
        (
            "--modalities=tracks --holdout_cell_type=demo_A",
            "--holdout_cell_type: found 'demo_A'; with --modalities",
        ),
        ("--holdout_cell_type=K562", "--holdout_cell_type: found 'K562'"),
        ("--seeds=1,2,1", "--seeds: found '1,2,1'; give at least one, each once"),
        ("--seeds=", "--seeds: found ''; give at least one"),
        ("--seeds=-1", "--seeds: found -1; it must be from 0"),
        ("--d_model=30", "--d_model is 30; it must be a multiple of num_cross_attn_heads, 4"),
        ("--d_latent=64,30", "--d_latent is 30; it must be a multiple of num_self_attn_heads, 4"),
        ("--num_latents=-1", "--num_latents is -1; it must be 1 or more"),
        ("--nucleotide_width=4", "--nucleotide_width is 4; it must be odd"),
        ("--dropout=1", "--dropout is 1.0; it must be a number from 0 to below 1"),
        ("--num_bins=1", "--num_bins is 1; it must be 2 or more"),
        ("--epochs=0", "--epochs: found 0; it must be 1 or more"),
        ("--track_batch_size=-1", "--track_batch_size: found -1; it must be 1 or more"),
        ("--learning_rate=0.1,-1", "--learning_rate: found -1.0; it must be 0 or more"),
        ("--activity_weight=-1", "--activity_weight: found -1"),
        ("--num_track_train_samples=0", "--num_track_train_samples: found 0; it must be 1 or more"),
        ("--num_track_train_samples=9,999999", "--num_track_train_samples 999999: train: there are"),
        (
            "--seq_len=200000",
            "--seq_len 200000, --num_track_train_samples 2000: train: no window of 200000 bp fits",
        ),
        ("--mpra_len=20", "bp long, expected at most 20; 1,200 of 1,200 sequences are longer"),
    ],
)
def test_bad_input_is_one_line_and_no_run(words, says, bad, studies_work, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = {"--work_dir": str(studies_work)}
    options |= dict(word.format(bad=bad).split("=", 1) for word in words.split())
    # without this a mistake that is let through would train
    monkeypatch.setattr(joint, "run", lambda options, run: 0)
    assert door.main(["joint", *map("=".join, options.items())]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject joint: ") and says in line
    assert not list(tmp_path.iterdir())


def test_measurements_that_contradict_each_other_are_counted(tmp_path, capsys):
    table = made_up()
    twice = pd.concat([table, table.assign(log2_K562=-table["log2_K562"])[:5]])
    (tmp_path / "twice.csv").write_text(rows_of(twice))
    options = joint.Options(
        mpra=str(tmp_path / "twice.csv"),
        modalities=("mpra",),
        mpra_len=40,
        mpra_activity=("log2_K562", "log2_HepG2"),
    )
    data = joint.open_data(options, say=True)
    said = capsys.readouterr().out
    assert "10 of 180 activities are measured more than once and averaged, " in said
    contradicted = int(re.search(r"averaged, (\d+) of them contradict", said)[1])
    assert 0 < contradicted <= 5
    first = data.mpra.table.activity[data.mpra.table.sequence < 5]
    cell = data.mpra.table.cell[data.mpra.table.sequence < 5]
    np.testing.assert_allclose(first[cell == data.mpra.table.cell_types.index("K562")], 0, atol=1e-9)
