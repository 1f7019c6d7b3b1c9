import contextlib
import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.dna import one_hot
from enformer_core.heads import TrackHeadConfig
from enformer_core.track_model import TrackModel
from mlproject import __main__ as door
from mlproject.commands import predict as command
from mlproject.data.predictions import Moments
from mlproject.inference import SignalPredictor
from mlproject.tracking import runs
from processes import Store, finish, launch
from toys import toy_model

LENGTHS = {"c10": 9_000, "c2": 5_001, "short": 300}
TARGETS = "index\tidentifier\tfile\tstrand_pair\tdescription\n" + "".join(
    f"{index}\t{name}\tf\t{pair}\t{what}\n"
    for index, name, pair, what in (
        (10, "plus", 11, "CAGE:x"),
        (11, "minus", 10, "CAGE:x"),
        (12, "open", 12, "DNASE:K562"),
    )
)
PARTNERS = [1, 0, 2]


def letters_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    letters = {chrom: "".join(random.choice(list("ACGTacgt"), size)) for chrom, size in lengths.items()}
    letters["c2"] = letters["c2"][:1000] + "N" * 1500 + "RY" + letters["c2"][2502:]
    return letters


LETTERS = letters_of(LENGTHS)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A genome, a table of tracks, a trunk (2,048 bp, the central 14 of 16 bins) and one with a trained head."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "genome.fa").write_text("".join(f">{chrom}\n{text}\n" for chrom, text in LETTERS.items()))
    (folder / "targets.txt").write_text(TARGETS)
    checkpoints.save(folder / "trunk", toy_model(seed=1))
    trained = TrackModel(toy_model(seed=1), TrackHeadConfig(2), "mine", seed=3)
    trained.tracks["mine"] = [{"identifier": "first"}, {"identifier": "second"}]
    checkpoints.save(folder / "trained", trained)
    checkpoints.save_head(folder / "head", trained, "trunk")
    return folder


def predict(places, **options):
    """Exit code of the command on this genome, in the current folder."""
    options = {"fasta": places / "genome.fa", "weights": places / "trunk", "head": "human", **options}
    return door.main(["predict", *(f"--{name}={value}" for name, value in options.items())])


def bed(*regions):
    Path("regions.bed").write_text("".join("\t".join(map(str, region)) + "\n" for region in regions))
    return "regions.bed"


def arrays(output="work/predicted"):
    with np.load(Path(output, "predictions.npz"), allow_pickle=False) as found:
        return dict(found)


def by_place(found, name="values"):
    """Values of each bin by chromosome and start."""
    return {
        (str(chrom), int(start) + 128 * row): found[name][offset + row]
        for chrom, start, offset, last in zip(
            found["chrom"], found["start"], found["offset"], found["offset"][1:], strict=False
        )
        for row in range(last - offset)
    }


def around(chrom, start, end):
    """Letters of a stretch, N beyond the chromosome."""
    text = LETTERS[chrom]
    return "".join(text[at] if 0 <= at < len(text) else "N" for at in range(start, end))


def resized(start, end, span):
    """As published, then to the nearest bin."""
    count = int(np.ceil((end - start) / span))
    first = (start + end) / 2 - count * span / 2
    return int(np.floor(first / 128 + 0.5) * 128), count


def expected_bins(regions, one_prediction, length, bins, shifts, both):
    """For each bin all that is predicted for it, window by window: {(chrom, start): [predictions, tracks]}."""
    span, flank = 128 * bins, (length - 128 * bins) // 2
    fragments = set()
    for chrom, start, end in regions:
        first, count = resized(start, end, span)
        fragments |= {(chrom, first + span * number) for number in range(count)}
    found = {}
    for chrom, start in fragments:
        for shift in range(-(shifts // 2), shifts - shifts // 2 + 1):
            text = around(chrom, start - flank + shift, start - flank + shift + length)
            sequence = one_hot(text)
            answers = [one_prediction(sequence)]
            if both:
                answers.append(one_prediction(sequence[::-1, ::-1])[::-1, PARTNERS])
            for row in range(bins):
                if 0 <= start + 128 * row < LENGTHS[chrom]:
                    found.setdefault((chrom, start + 128 * row), []).extend(a[row] for a in answers)
    return {place: np.array(values, np.float64) for place, values in found.items()}


REGIONS = [
    ("c2", 4_000, 5_001, "the end"),
    ("c10", 3_001, 3_100, "small"),
    ("c10", 2_500, 5_900, "overlaps it"),
    ("c10", 3_001, 3_100, "small again"),
]


def test_the_average_is_that_of_the_models_own_calls(folder, places, capsys):
    """Strands, shifts, a crop, fragments that overlap, a chromosome's end, and tracks in an order of their own."""
    code = predict(
        places,
        regions=bed(*REGIONS),
        targets=places / "targets.txt",
        tracks="open,0-1",
        strands="both",
        shifts=3,
        variance="true",
        batch_size=2,
        formats="npz,bigwig,bedgraph",
    )
    assert code == 0
    model = toy_model(seed=1)

    def one_prediction(sequence):
        return model(sequence[np.newaxis], is_training=False)["human"][0].numpy()

    expected = expected_bins([region[:3] for region in REGIONS], one_prediction, 2048, 14, 3, True)
    order = [2, 0, 1]
    found = arrays()
    assert found["index"].tolist() == order and found["identifier"].tolist() == ["open", "plus", "minus"]
    values, variance = by_place(found), by_place(found, "variance")
    assert list(values) == sorted(expected)  # c10 before c2
    assert {len(of_bin) for of_bin in expected.values()} == {8, 16}
    for place, of_bin in expected.items():
        np.testing.assert_allclose(values[place], of_bin.mean(0)[order], rtol=0, atol=1e-5)
        np.testing.assert_allclose(variance[place], of_bin.var(0)[order], rtol=0, atol=1e-6)
    assert found["variance"].max() > 1e-5
    assert found["end"].tolist()[-1] == 5_001

    output = Path("work/predicted")
    with pyBigWig.open(str(output / "0001_minus.bw")) as file:
        assert file.chroms() == {"c10": 9_000, "c2": 5_001}
        for (chrom, start), value in values.items():
            assert file.intervals(chrom, start, start + 1) == (
                (start, min(start + 128, LENGTHS[chrom]), value[2]),
            )
    lines = (output / "0002_open.variance.bedgraph").read_text().splitlines()
    assert [np.float32(line.split("\t")[3]) for line in lines] == found["variance"][:, 0].tolist()
    check_table(pd.read_csv(output / "regions.tsv", sep="\t"), values)

    store = Store(folder, "predict")
    run = store.parents[-1]
    assert {"signal.png", "regions.parquet", "regions.json"} <= store.artifacts(run)
    assert run.data.tags["output"] == str(output.resolve())
    fragments = 1 + 1 + 2  # the small region twice is one
    assert run.data.metrics["fragments"] == fragments and run.data.metrics["bins"] == len(expected)
    printed = capsys.readouterr().out
    said = f"work/predicted: 4 regions, {fragments} fragments, {len(expected)} bins of 128 bp x 3 tracks of head human"
    assert said in printed and "head: " not in printed
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict", "predicted"]
    assert not list(Path("work/predict").iterdir())


def check_table(table, values):
    """Numbers of every region and track from the bins that overlap the region."""
    assert table["region"].tolist() == [region[3] for region in REGIONS for _ in range(3)]
    assert table["identifier"].tolist() == ["open", "plus", "minus"] * 4
    for row in table.itertuples():
        column = row.Index % 3
        chrom, start, end, _ = REGIONS[row.Index // 3]
        inside = {
            at: value[column]
            for (name, at), value in values.items()
            if name == chrom and at < end and at + 128 > start
        }
        assert row.bins == len(inside) and (row.chrom, row.start, row.end) == (chrom, start, end)
        np.testing.assert_allclose(row.mean, np.mean(list(inside.values())), rtol=1e-5)
        np.testing.assert_allclose(row.sum, np.sum(list(inside.values())), rtol=1e-5)
        np.testing.assert_allclose(row.max, max(inside.values()), rtol=1e-5)
        assert row.max_position == max(inside, key=inside.get)
        first, count = resized(start, end, 128 * 14)
        last = first + count * 128 * 14
        assert (row.predicted_start, row.predicted_end) == (max(0, first), min(last, LENGTHS[chrom]))
        text = around(chrom, first - 128 - 1, last + 128 + 2).upper()  # of three shifts, one is to the left
        assert (row.n_bases, row.iupac) == (text.count("N"), text.count("R") + text.count("Y"))


# --- without a model that has to be compiled ----------------------------------------------------------------------


def share_of_letters(sequence):
    """`[L, 4]` to `[bins, 3]`: how often A, C and G stand in each bin, cropped as the model crops."""
    counts = sequence.reshape(-1, 128, 4).sum(1)[:, :3] / 128
    return counts[1:-1] if len(counts) == 16 else counts


class Predictor(SignalPredictor):
    """Counts letters in place of the model; is stopped where it is told to be."""

    calls: list[int] = []  # noqa: RUF012  # of the class: the command makes its own
    stop_at = 0
    bad = False

    def __init__(self, model, head, tracks, partners, shape, **how):
        super().__init__(model, head, tracks, partners, shape, **how)
        self._tracks = list(tracks)

    def __call__(self, sequences):
        self.calls.append(len(sequences))
        if len(self.calls) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        assert sequences.shape[1:] == (self.length, 4) and sequences.dtype == np.float32
        columns = np.array(self._tracks) % 3
        mean = np.array([share_of_letters(window)[:, columns] for window in sequences], np.float64)
        return Moments(mean * (np.nan if self.bad else 1), mean * 0 if self._variance else None)


@pytest.fixture
def predictor(monkeypatch):
    """The class, as the command uses it."""
    monkeypatch.setattr(command, "SignalPredictor", Predictor)
    for name, value in (("calls", []), ("stop_at", 0), ("bad", False)):
        monkeypatch.setattr(Predictor, name, value)
    return Predictor


@pytest.mark.parametrize(("length", "bins"), [(0, 14), (1024, 8)])
def test_every_record_of_the_fasta_to_its_ends(folder, places, predictor, capsys, length, bins):
    assert predict(places, length=length, batch_size=3, formats="npz") == 0
    found = arrays()
    regions = [(chrom, 0, size) for chrom, size in LENGTHS.items()]
    expected = expected_bins(regions, share_of_letters, length or 2048, bins, 0, False)
    values = by_place(found)
    assert list(values) == sorted(expected)
    for place, of_bin in expected.items():
        np.testing.assert_allclose(values[place], of_bin.mean(0), rtol=0, atol=1e-6)
    # all bins of the genome are there, and none beyond it
    assert Counter(chrom for chrom, _ in values) == {c: -(-size // 128) for c, size in LENGTHS.items()}
    assert found["end"].tolist() == [9_000, 5_001, 300]
    printed = capsys.readouterr().out
    assert "1,500 bp of N (1 run of 1,000 bp or more, the longest c2:1000-2500), 2 letters other" in printed


def test_regions_of_n_alone_are_named(folder, places, predictor, capsys):
    assert predict(places, regions="c2:1100-2,400,c2:0-300", formats="") == 0
    assert (
        "regions of N alone, whose prediction says nothing of them: c2:1100-2400\n" in capsys.readouterr().out
    )
    table = pd.read_csv("work/predicted/regions.tsv", sep="\t")
    assert table["n_bases"].tolist()[0] == 1500 and table["iupac"].tolist()[0] == 2
    assert not Path("work/predicted/predictions.npz").exists()


def test_a_trained_head_is_the_one_that_predicts(folder, places, predictor, capsys):
    for number, options in enumerate(
        [{"weights": places / "trained", "head": ""}, {"head": places / "head"}]
    ):
        assert predict(places, regions="c10:500-600", output=f"out{number}", tracks="second", **options) == 0
        assert "x 1 tracks of head mine" in capsys.readouterr().out
        assert arrays(f"out{number}")["identifier"].tolist() == ["second"]


def test_without_a_head_the_first_is_taken_and_said(folder, places, predictor, capsys):
    assert predict(places, regions="c10:500-600", head="") == 0
    assert "head: human (of human, mouse)\n" in capsys.readouterr().out


def test_unknown_tracks_have_no_other_strand_and_that_is_said(folder, places, predictor, capsys):
    assert predict(places, regions="c10:500-600", strands="both") == 0
    assert "What the 3 tracks of head human are is not known: on the other strand" in capsys.readouterr().out


def test_many_tracks_are_said_to_cost_and_a_long_table_stays_on_disk(
    folder, places, predictor, capsys, monkeypatch
):
    monkeypatch.setattr(command, "_MANY_TRACKS", 2)
    monkeypatch.setattr(command, "_MOST_ROWS", 2)
    assert predict(places, regions="c10:500-600") == 0
    printed = capsys.readouterr().out
    assert "3 tracks x 11 bins: up to 0.0 GB on disk" in printed
    assert "work/predicted/regions.tsv: has too many rows for the run" in printed
    store = Store(folder, "predict")
    assert "regions.json" not in store.artifacts(store.parents[-1])
    assert len(pd.read_csv("work/predicted/regions.tsv", sep="\t")) == 3


# --- once more ----------------------------------------------------------------------------------------------------


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
        ({"formats": "npz,bedgraph"}, "holds this prediction without bedgraph; remove it, or name"),
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
    def compiling():
        yield
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


def test_a_disk_that_fills_up_is_one_line_and_loses_no_prediction(
    folder, places, predictor, capsys, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(command.predictions, "write_formats", full)
        assert predict(places, regions="c10:500-600") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output work/predicted: cannot be written (No space left on device)" in line
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict"]
    predictor.calls.clear()
    assert predict(places, regions="c10:500-600") == 0
    assert not predictor.calls and len(arrays()["values"]) == 11  # of 14, three are before the chromosome


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


# --- newest -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    experiment: str = "ablation"


def trained(folder, seed, name="ablation", fails=False):
    """A model that a training left in the store."""
    checkpoints.save(folder / f"{name}{seed}" / "checkpoint", toy_model(seed=seed))
    key = {"grid": "0123456789abcdef", "seed": str(seed)}
    with runs.start_run(name, Options()) as run, run.child(f"seed {seed}", key=key, params={}) as child:
        child.keep(folder / f"{name}{seed}" / "checkpoint")
        if fails:
            child.fail("it diverged")


def test_newest_is_the_last_finished_model_of_tracks(folder, places, predictor, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        command.inference, "digest", lambda model: seen.append(checkpoints.digest(model.variables))
    )
    trained(folder, 5)
    trained(folder, 6, "train_head")
    trained(folder, 7, "finetune")
    trained(folder, 8, fails=True)
    assert predict(places, weights="newest", regions="c10:500-600") == 0
    assert seen == [checkpoints.digest(toy_model(seed=6).variables)]
    printed = capsys.readouterr().out
    assert printed.startswith("weights: seed 6 of 20") and ", by runs:/" in printed


def test_with_no_options_the_demo_is_predicted(folder, predictor, capsys):
    assert door.main(["predict"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "This store has no model that was trained on tracks: an untrained one (weights=random)"
    )
    assert "5 regions, " in printed and " x 16 tracks of head human, by random" in printed
    assert arrays()["identifier"].tolist()[0] == "human_DNASE_A"


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "humen"}, "--head: found 'humen'; did you mean human?; the model has human, mouse"),
        ({"head": "runs:/0123"}, "--head runs:/0123: "),
        ({"head": "{places}/trunk"}, "--head {places}/trunk: "),
        ({"tracks": "3"}, "--tracks: found '3'; the head has tracks 0 to 2"),
        ({"tracks": "opn", "targets": "{places}/targets.txt"}, "did you mean 'open'?"),
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
