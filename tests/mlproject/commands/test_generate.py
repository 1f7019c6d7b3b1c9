import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats

from enformer_core import checkpoints, dna
from mlproject import __main__ as door
from mlproject.commands import generate as command
from mlproject.tracking import runs
from processes import Store
from writing import TRAINING, copied, grammar_of, toy_pair, with_grammar

FILES = {"generated.fa", "generated.tsv", "random.tsv", "activity.png", "composition.png"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of up to 9 letters, range of activity 1 to 3, b has labels, and a grammar."""
    found = toy_pair(tmp_path_factory.mktemp("pair"))
    with_grammar(found)
    return found


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Other tests of this process run operations that have no deterministic form."""
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)


def generate(models, **options):
    """Exit code of the command with these models, in the current folder."""
    options = {"model": models, "num_sequences": 20, **options}
    return door.main(["generate", *(f"--{name}={value}" for name, value in options.items())])


def written(name="generated", folder="work/generated"):
    return pd.read_csv(Path(folder, f"{name}.tsv"), sep="\t", keep_default_na=False)


def parent(folder):
    store = Store(folder, "generate")
    return store, store.parents[-1]


def edits(first, second):
    """Levenshtein distance, by the table of Wagner and Fischer."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_sequences_are_written_and_judged(folder, models, capsys):
    assert generate(models, batch_size=7) == 0
    assert {path.name for path in Path("work/generated").iterdir()} == FILES
    store, run = parent(folder)
    for name in ("generated", "random"):
        table = written(name)
        assert list(table) == [
            *(
                "name",
                "target",
                "predicted",
                "judged",
                "expected",
                "gc",
                "length",
                "nearest",
                "edit_distance",
            ),
            *("cell_type", "duplicate_of", "sequence"),
        ]
        assert table["name"].tolist() == [f"{name}_{number:02d}" for number in range(1, 21)]
        assert table["target"].tolist() == [target for target in (1, 1.5, 2, 2.5, 3) for _ in range(4)]
        assert set(table["cell_type"]) == {"b"} and set(table["length"]) == {8}  # the median of the training
        codes = tf.constant(np.stack([dna.codes(letters) for letters in table["sequence"]]).astype(np.int32))
        for column, model in (("predicted", "generator"), ("judged", "judge")):
            expected = checkpoints.load(models / model).activity(codes, tf.ones([20], tf.int32))
            np.testing.assert_allclose(table[column], expected, rtol=1e-4)  # six digits of what XLA says
        expected = [grammar_of(letters, "b") for letters in table["sequence"]]
        np.testing.assert_allclose(table["expected"], expected, rtol=1e-5)
        for row in table.itertuples():
            assert row.gc == sum(row.sequence.count(letter) for letter in "GC") / 8
            distance = {other: edits(row.sequence, letters) for other, letters in TRAINING.items()}
            assert row.edit_distance == min(distance.values()) == distance[row.nearest]
        pd.testing.assert_frame_equal(
            table, pd.read_parquet(store.fetch(run, f"{name}.parquet")), rtol=1e-5, check_dtype=False
        )
    assert not set(written("random")["sequence"]) & set(written()["sequence"])

    lines = Path("work/generated/generated.fa").read_text().splitlines()
    rows = written()
    assert lines[1::2] == rows["sequence"].tolist()
    first = rows.iloc[0]
    assert lines[0].split() == [
        f">{first['name']}",
        *(f"{name}={first[name]:.6g}" for name in ("target", "predicted", "judged")),
        "cell_type=b",
    ]
    kept = {f"{name}.parquet" for name in ("generated", "random", "agreement")}
    assert kept | {"generated.fa", "activity.png", "composition.png"} <= store.artifacts(run)
    metrics = run.data.metrics
    for prefix, table in (("", rows), ("random/", written("random"))):
        for column in ("judged", "predicted", "expected"):
            name = f"{prefix}{column}" + ("_" if prefix else "/")
            spearman = stats.spearmanr(table["target"], table[column]).statistic
            pearson = stats.pearsonr(table["target"], table[column]).statistic
            assert metrics[f"{name}spearman"] == pytest.approx(spearman, abs=1e-5)
            # the table has six digits, and an untrained model says nearly the same of all sequences
            assert metrics[f"{name}pearson"] == pytest.approx(pearson, abs=1e-4)
            error = np.abs(table["target"] - table[column]).mean()
            assert metrics[f"{name}error"] == pytest.approx(error, rel=1e-4)
    assert metrics["diversity/distinct"] == rows["sequence"].nunique()
    assert metrics["edit_distance/median"] == rows["edit_distance"].median()
    assert metrics["gc/mean"] == pytest.approx(rows["gc"].mean())
    printed = capsys.readouterr().out
    assert "work/generated: 20 sequences of 8 letters by sample, for 5 targets in b" in printed
    assert "Judged by a model of another seed (2; the generator's is 1)" in printed
    assert "it can share the generator's errors, and is no experiment" in printed
    assert (
        "Held-out Pearson r in b: generator 0.500 (0.250 to 0.750), judge 0.250 (-0.250 to 0.500)" in printed
    )
    assert "warning: the judge is not known to follow activity in b: what it says may be by chance" in printed


# --- without models that have to be compiled ----------------------------------------------------------------------


class Stub:
    """Stands in for `Functions`: activity is how many G there are, and to the judge how many T."""

    calls: list[int] = []  # noqa: RUF012  # of the class: the command makes its own
    stop_at = 0
    made: list["Stub"] = []  # noqa: RUF012

    def __init__(self, model, cell, batch_size):
        self.cell, self.letter = cell, "GT"[len(self.made)]
        self.made.append(self)

    def predict(self, codes):
        if self.letter == "G":
            self._called(codes)
        return (codes == dna.ALPHABET.index(self.letter)).sum(1).astype(np.float64)

    def logits(self, codes, targets):
        self._called(codes)
        found = np.zeros([*codes.shape, 4])
        found[:, :, 2] = np.nan_to_num(targets)[:, None]
        return found

    def _called(self, codes):
        self.calls.append(len(codes))
        if len(self.calls) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(command, "Functions", Stub)
    for name, value in (("calls", []), ("made", []), ("stop_at", 0)):
        monkeypatch.setattr(Stub, name, value)
    return Stub


def test_the_same_seed_writes_the_same_files(folder, models, stub):
    contents = []
    for seed in (1, 1, 2):
        stub.made.clear()
        assert generate(models, seed=seed) == 0
        contents.append({path.name: path.read_bytes() for path in Path("work/generated").iterdir()})
    assert contents[0] == contents[1]
    assert all(contents[0][name] != contents[2][name] for name in FILES)


def test_random_sequences_are_drawn_apart_from_generated_ones(folder, models, stub):
    """With a target of 0 the stub leaves all to chance, and no pair of both is more alike than chance makes it."""
    same = []
    for seed in range(8):
        stub.made.clear()
        options = {"target_activity": 0, "temperature": 1, "candidates": 1, "num_sequences": 3, "length": 9}
        assert generate(models, seed=seed, **options) == 0
        one, other = (
            np.array([list(letters) for letters in written(name)["sequence"]])
            for name in ("generated", "random")
        )
        same.append((one[:, None] == other[None]).mean(2))
    assert np.mean(same, axis=0).max() < 0.45  # 72 letters of each pair, a quarter of them expected


def test_a_rest_of_sequences_goes_to_the_first_targets(folder, models, stub):
    assert generate(models, target_activity="3,1.25", num_sequences=5) == 0
    assert written()["target"].tolist() == [3, 3, 3, 1.25, 1.25]


def test_temperature_zero_writes_one_sequence_for_each_target(folder, models, stub, capsys):
    assert generate(models, temperature=0, target_activity="1,2") == 0
    table = written()
    assert table["duplicate_of"].tolist() == [""] + ["generated_01"] * 19
    assert set(table["sequence"]) == {"GGGGGGGG"}
    calls = len(stub.calls)
    stub.calls.clear(), stub.made.clear()
    assert generate(models, temperature=0, target_activity="1,2", candidates=1) == 0
    assert len(stub.calls) == calls  # there is nothing to choose among, so no candidates are written
    assert "1 of 20 are different; two differ at 0% of positions" in capsys.readouterr().out
    assert (written("random")["duplicate_of"] == "").any()


def test_higher_temperature_is_more_diverse(folder, models, stub):
    found = []
    for temperature in (0.25, 0.5, 100):
        stub.made.clear()
        assert generate(models, temperature=temperature) == 0
        metrics = parent(folder)[1].data.metrics
        found.append((metrics["diversity/hamming"], metrics["diversity/kmers"]))
        shares = pd.Series(fivemers(written()["sequence"])).value_counts(normalize=True)
        assert metrics["diversity/kmers"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    hamming, kmers = zip(*found, strict=True)
    assert hamming[0] < hamming[1] < hamming[2] and hamming[2] - hamming[0] > 0.2
    assert kmers[0] < kmers[1] < kmers[2] and kmers[2] > 2 * kmers[0]
    stub.made.clear()
    assert generate(models) == 0  # 0.5 by default
    assert parent(folder)[1].data.metrics["diversity/hamming"] == found[1][0]


def fivemers(sequences):
    """All 5-mers of sequences, each by the first of its names on both strands."""
    pieces = [one[at : at + 5] for one in sequences for at in range(len(one) - 4)]
    return [min(piece, piece[::-1].translate(str.maketrans("ACGT", "TGCA"))) for piece in pieces]


def test_the_generator_chooses_among_candidates_and_the_judge_does_not(folder, models, stub):
    """Which are the same as without choosing, and more."""
    assert generate(models, target_activity="3,1", num_sequences=40, candidates=1) == 0
    single = written()
    stub.made.clear()
    assert generate(models, target_activity="3,1", num_sequences=4, candidates=10) == 0
    table = written()
    letters = single["sequence"].to_numpy().reshape(4, 10)
    for chosen, group, target in zip(table["sequence"], letters, table["target"], strict=True):
        distance = [abs(one.count("G") - target) for one in group]
        assert chosen == group[int(np.argmin(distance))]
    assert table["predicted"].tolist() == [letters.count("G") for letters in table["sequence"]]
    assert table["judged"].tolist() == [letters.count("T") for letters in table["sequence"]]


def test_what_is_evolved_comes_nearer_to_its_target(folder, models, stub):
    assert generate(models, method="evolve", rounds=15, proposals=8) == 0
    table = written()
    assert np.abs(table["predicted"] - table["target"]).max() <= 0.5  # whole numbers of G for 1.5
    store, run = parent(folder)
    distances = [value for _, value in store.series(run, "evolve/distance")]
    assert len(distances) == 16 and distances == sorted(distances, reverse=True)
    random = written("random")  # which it began with
    assert distances[0] == pytest.approx(np.abs(random["predicted"] - random["target"]).mean())
    assert run.data.metrics["predicted/spearman"] > 0.9


def test_it_begins_with_given_sequences(folder, models, stub, capsys):
    Path("start.fa").write_text(">one\nACGTACGTA\n>two\nCCCCCCCCC\n>three\nGGGGGGGGG\n")
    options = {"method": "evolve", "length": 9, "start": "start.fa", "target_activity": "1,2"}
    assert generate(models, rounds=0, num_sequences=5, **options) == 0
    table = written()
    assert table["start"].tolist() == [1, 2, 3, 1, 2]
    assert table["sequence"].tolist() == ["ACGTACGTA", "C" * 9, "G" * 9, "ACGTACGTA", "C" * 9]
    stub.made.clear()
    assert "start" not in written("random")
    capsys.readouterr()
    assert generate(models, rounds=0, num_sequences=2, **options) == 0
    assert "start start.fa: the first 1 of 3 are begun with" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["sample", "evolve"])
def test_constraints_hold(folder, models, stub, method):
    options = {"fixed": "2:GA", "forbid": "CC,TA", "gc_min": 0.25, "gc_max": 0.5, "max_homopolymer": 2}
    more = {"rounds": 10} if method == "evolve" else {}
    assert generate(models, method=method, length=8, **options, **more) == 0
    for name in ("generated", "random"):
        for letters in written(name)["sequence"]:
            assert letters[2:4] == "GA" and 2 <= letters.count("G") + letters.count("C") <= 4
            assert not any(word in letters for word in ("CC", "GG", "TA", "AAA", "TTT"))


def test_a_template_says_the_length(folder, models, stub):
    assert generate(models, fixed="NNGATCN") == 0
    assert all(len(letters) == 7 and letters[2:6] == "GATC" for letters in written()["sequence"])


def test_a_cell_type_without_labels_is_said(folder, models, stub, capsys):
    assert generate(models, cell_type="a") == 0
    said = "a: no activity of this cell type was trained on; it is known from tracks and other cell types alone (b have"
    assert said in capsys.readouterr().out
    assert [one.cell for one in stub.made] == [0, 0]
    assert written()["expected"].tolist() == pytest.approx(
        [grammar_of(letters, "a") for letters in written()["sequence"]], rel=1e-5
    )


def test_targets_beyond_the_labels_are_said(folder, models, stub, capsys):
    assert generate(models, target_activity="0.5,2,9") == 0
    said = "target_activity 0.5, 9: 90% of the training labels of b are from 1 to 3; what the models say beyond is"
    assert f"{said} a guess\n" in capsys.readouterr().out


def test_one_target_has_no_correlation(folder, models, stub, capsys):
    assert generate(models, target_activity=2) == 0
    assert "judged by the other model           undefined" in capsys.readouterr().out
    _, run = parent(folder)
    assert "judged/spearman" not in run.data.metrics and "judged/error" in run.data.metrics
    assert run.info.status == "FINISHED"


def test_without_a_grammar_there_is_no_expectation(folder, models, stub):
    found = copied(models, folder)
    (found / "grammar.json").unlink()
    assert generate(found) == 0
    assert "expected" not in written()


# --- where models come from ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    experiment: str = "joint"


def trained(models, fails=False, name="joint"):
    """A run that left models in the store."""
    with runs.start_run(name, Options()) as run:
        if models is not None:
            run.keep(models)
        if fails:
            run.fail("it diverged")
    return run


def test_newest_is_the_last_finished_run_of_joint_with_models(folder, models, stub, capsys):
    trained(models)
    other = copied(models, folder)
    (other / "training.tsv").write_text("name\tsequence\nonly\tAAAAAA\n")
    other = other.rename(folder / "models")
    expected = trained(other)
    trained(models, fails=True)
    trained(models, name="train_head")
    trained(None)
    assert generate("newest") == 0
    assert set(written()["nearest"]) == {"only"} and set(written()["length"]) == {6}
    printed = capsys.readouterr().out
    assert f"model: {expected.name} of 20" in printed and f" UTC, runs:/{expected.id}\n" in printed
    _, run = parent(folder)
    assert run.data.tags["model"] == f"runs:/{expected.id}"
    stub.made.clear()
    assert generate(f"runs:/{expected.id}", output="again") == 0
    assert written(folder="again").equals(written())
    assert not list(Path("work").glob(".models-*"))


def test_without_a_run_of_joint_it_says_what_to_run_first(folder, capsys):
    assert generate("newest") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "--model newest: this store has no finished run of joint that kept models; `mlflow run . -e joint` makes one, "
        "or name its run (runs:/ID) or a folder"
    )


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "unit"), [("sample", "8 letters"), ("evolve", "100 rounds")])
def test_a_stopped_command_leaves_nothing(folder, models, stub, capsys, method, unit):
    stub.stop_at = 3
    assert generate(models, method=method, batch_size=400) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mlproject generate: stopped by SIGTERM after ")
    assert line.endswith(f" of {unit}; nothing was written")
    assert not Path("work").exists()
    _, run = parent(folder)
    assert run.info.status == "KILLED"
    assert len(stub.calls) == (
        4 if method == "sample" else 3
    )  # with and without a target: to the end of the round


def test_what_was_written_stays_whole_if_the_disk_fills_up(folder, models, stub, capsys, monkeypatch):
    assert generate(models) == 0
    before = {path.name: path.read_bytes() for path in Path("work/generated").iterdir()}

    def full(path, text):
        raise OSError(28, "No space left on device")

    stub.made.clear()
    monkeypatch.setattr(command, "write_whole", full)
    assert generate(models, seed=3) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output work/generated: cannot be written (No space left on device)" in line
    assert before == {path.name: path.read_bytes() for path in Path("work/generated").iterdir()}
    _, run = parent(folder)
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cell_type": "c"}, "--cell_type: found 'c'; the models have a, b"),
        (
            {"gc_min": 0.9, "fixed": "0:AAAA"},
            "--fixed 0:AAAA and --gc_min 0.9 cannot be met together: no sequence",
        ),
        (
            {"method": "evolve", "start": "start.txt"},
            "start start.txt, line 1: a sequence of 4 letters, expected 8",
        ),
        ({"num_sequences": 4}, "--num_sequences: found 4; it must be 5 or more, one for each target"),
        ({"fixed": "6:GAATTC"}, "--fixed: 6:GAATTC ends at 12, after the 8 letters of the sequence"),
        ({"length": 10}, "--length: found 10; these models take 9 at most"),
    ],
)
def test_what_models_cannot_do_is_one_line(folder, models, capsys, options, says):
    Path("start.txt").write_text("ACGT\n")
    assert generate(models, **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject generate: ") and says in line
    _, run = parent(folder)
    assert run.info.status == "FAILED" and not Path("work").exists()


def test_models_that_never_wrote_can_only_predict(folder, stub, capsys, tmp_path):
    models = toy_pair(tmp_path / "never", facts={"has_nucleotides": False})
    assert generate(models) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--method sample: masked letters were no part of this training" in line and "choose evolve" in line
    assert generate(models, method="evolve", rounds=1) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -0.5}, "--temperature: found -0.5; it must be 0 or more"),
        ({"num_sequences": 0}, "--num_sequences: found 0; it must be 1 or more"),
        (
            {"num_sequences": 2, "target_activity": "1,2,3"},
            "--num_sequences: found 2; it must be 3 or more, one for each target",
        ),
        ({"target_activity": "high"}, "--target_activity: found 'high', expected numbers with commas"),
        ({"target_activity": "nan"}, "--target_activity: found 'nan', expected numbers with commas"),
        ({"method": "dream"}, "--method: found 'dream', expected one of sample, evolve"),
        ({"length": -1}, "--length: found -1; it must be 0 or more"),
        ({"seed": -1}, "--seed: found -1; it must be 0 or more"),
        ({"unmask": 0}, "--unmask: found 0; it must be 1 or more"),
        ({"candidates": 0}, "--candidates: found 0; it must be 1 or more"),
        ({"batch_size": 0}, "--batch_size: found 0; it must be 1 or more"),
        ({"method": "evolve", "rounds": -1}, "--rounds: found -1; it must be 0 or more"),
        ({"method": "evolve", "proposals": 0}, "--proposals: found 0; it must be 1 or more"),
        ({"method": "evolve", "mutations": 0}, "--mutations: found 0; it must be 1 or more"),
        ({"rounds": 5}, "--rounds: is for --method evolve; found --method sample"),
        ({"start": "x"}, "--start: is for --method evolve; found --method sample"),
        ({"method": "evolve", "guidance": 0}, "--guidance: is for --method sample; found --method evolve"),
        ({"method": "evolve", "start": "nowhere"}, "start nowhere: cannot be read"),
        ({"gc_min": 0.7, "gc_max": 0.6}, "--gc_min: found 0.7, above --gc_max 0.6; choose a smaller one"),
        ({"gc_min": -0.1}, "--gc_min: found -0.1; expected a share from 0 to 1"),
        ({"max_homopolymer": -1}, "--max_homopolymer: found -1; expected 1 or more, or 0"),
        ({"forbid": "EcoRx"}, "--forbid: found 'EcoRx'"),
        (
            {"length": 8, "fixed": "0:GAATTC", "forbid": "EcoRI"},
            "--fixed 0:GAATTC and --forbid GAATTC (EcoRI) cannot be met together",
        ),
        ({"fixed": "GAXTTC"}, "--fixed: found 'X' at 2 (from 0)"),
        (
            {"model": "nowhere"},
            "--model nowhere: no folder with models.json, as joint keeps its models; name one",
        ),
        ({"model": "x" * 300}, "xxx: no folder with models.json"),
        ({"output": ""}, "--output: found ''; expected the name of a folder to write to"),
        ({"output": "{models}/models.json"}, "models.json'; expected the name of a folder to write to"),
        ({"output": "{models}/models.json/x"}, "models.json/x: cannot be written ("),
        ({"output": "x" * 300}, "xxx: cannot be written (File name too long)."),
    ],
)
def test_bad_options_are_one_line_and_no_run(tmp_path, monkeypatch, models, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    options = {name: str(value).format(models=models) for name, value in options.items()}
    assert generate(**{"models": models, **options}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject generate: ") and says in line
    assert not list(tmp_path.iterdir())
