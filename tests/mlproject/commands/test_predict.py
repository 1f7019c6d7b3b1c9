"""What is predicted and written; test_predict_again.py goes on with it, test_predict_mistakes.py refuses."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from enformer_core import checkpoints
from mlproject import __main__ as door
from mlproject.commands import predict as command
from mlproject.tracking import runs
from predicting import (
    LENGTHS,
    around,
    arrays,
    bed,
    by_place,
    expected_bins,
    predict,
    resized,
    share_of_letters,
)
from processes import Store
from toys import toy_model

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
        tracks="open,10-11",
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
    assert found["index"].tolist() == [12, 10, 11]  # of the table, which is no position
    assert found["identifier"].tolist() == ["open", "plus", "minus"]
    values, variance = by_place(found), by_place(found, "variance")
    assert list(values) == sorted(expected)  # c10 before c2
    assert {len(of_bin) for of_bin in expected.values()} == {8, 16}
    for place, of_bin in expected.items():
        np.testing.assert_allclose(values[place], of_bin.mean(0)[order], rtol=0, atol=1e-5)
        np.testing.assert_allclose(variance[place], of_bin.var(0)[order], rtol=0, atol=1e-6)
    assert found["variance"].max() > 1e-5
    assert found["end"].tolist()[-1] == 5_001

    output = Path("work/predicted")
    with pyBigWig.open(str(output / "0011_minus.bw")) as file:
        assert file.chroms() == {"c10": 9_000, "c2": 5_001}
        for (chrom, start), value in values.items():
            assert file.intervals(chrom, start, start + 1) == (
                (start, min(start + 128, LENGTHS[chrom]), value[2]),
            )
    lines = (output / "0012_open.variance.bedgraph").read_text().splitlines()
    assert [np.float32(line.split("\t")[3]) for line in lines] == found["variance"][:, 0].tolist()
    check_table(pd.read_csv(output / "regions.tsv", sep="\t"), values)

    store = Store(folder, "predict")
    run = store.parents[-1]
    assert {"signal.png", "regions.parquet", "regions.json"} <= store.artifacts(run)
    check_signals(pd.read_parquet(store.fetch(run, "signals_human.parquet")), values, variance)
    assert run.data.tags["output"] == str(output.resolve())
    fragments = 1 + 1 + 2  # the small region twice is one
    assert run.data.metrics["fragments"] == fragments and run.data.metrics["bins"] == len(expected)
    printed = capsys.readouterr().out
    said = f"work/predicted: 4 regions, {fragments} fragments, {len(expected)} bins of 128 bp x 3 tracks of head human"
    assert said in printed and "head: " not in printed
    assert sorted(path.name for path in Path("work").iterdir()) == ["genomes", "predict", "predicted"]
    assert not list(Path("work/predict").iterdir())


def check_signals(found, values, variance):
    """Tracks by index, and of each the regions in their order, the small one once."""
    assert found["identifier"].tolist() == ["plus"] * 3 + ["minus"] * 3 + ["open"] * 3
    assert found["chrom"].tolist() == ["c2", "c10", "c10"] * 3 and found["measured"].isna().all()
    spans = [resized(start, end, 128 * 14) for _, start, end, _ in REGIONS[:3]]
    for row in found.itertuples():
        first, count = spans[row.Index % 3]
        column = (1, 2, 0)[row.Index // 3]
        last = min(first + count * 14 * 128, LENGTHS[row.chrom])
        places = [(row.chrom, start) for start in range(max(0, first), last, 128)]
        assert (row.start, row.end) == (places[0][1], places[-1][1] + 128)
        np.testing.assert_array_equal(row.predicted, [values[place][column] for place in places])
        expected = np.sqrt([variance[place][column] for place in places])
        np.testing.assert_allclose(row.sd, expected, rtol=1e-6)


def check_table(table, values):
    """Numbers of every region and track from the bins that overlap the region."""
    assert table["region"].tolist() == [region[3] for region in REGIONS for _ in range(3)]
    assert table["identifier"].tolist() == ["open", "plus", "minus"] * 4
    assert table["index"].tolist() == [12, 10, 11] * 4
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


def test_a_folder_of_a_head_needs_no_slash_and_a_head_of_the_model_comes_first(
    folder, places, predictor, capsys
):
    shutil.copytree(places / "head", "head")
    shutil.copytree(places / "head", "human")
    for name, head in (("head", "mine"), ("human", "human")):
        assert predict(places, regions="c10:500-600", output=name + "_out", head=name) == 0
        assert f" tracks of head {head}, by " in capsys.readouterr().out


def test_the_record_says_what_was_predicted_from_what(folder, places, predictor):
    options = {"targets": places / "targets.txt", "tracks": "open,10", "formats": "npz"}
    assert predict(places, regions="c10:500-600,c2:7-9", output="a", **options) == 0
    assert predict(places, regions=bed(("c10", 500, 600), ("c2", 7, 10)), output="b", **options) == 0
    assert predict(places, regions=bed(("c10", 500, 600), ("c2", 7, 9)), output="c", **options) == 0
    assert predict(places, regions="c10:500-600", output="d", weights=places / "trained", head="mine") == 0
    first, second, third, other = (json.loads(Path(name, "prediction.json").read_text()) for name in "abcd")
    assert first["track_indices"] == "12,10" and first["tracks"] == first["regions"] == 2
    assert first["head"] == "human" and first["strands"] == "forward" and first["variance"] is False
    assert first["regions_sha256"] == third["regions_sha256"] != second["regions_sha256"]
    assert first["sequence_sha256"] == second["sequence_sha256"] != other["sequence_sha256"]
    assert first["model_sha256"] == second["model_sha256"] != other["model_sha256"]


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
    assert "3 tracks x 11 bins: up to 0.05 MB on disk" in printed
    assert "work/predicted/regions.tsv: has too many rows for the run" in printed
    store = Store(folder, "predict")
    assert "regions.json" not in store.artifacts(store.parents[-1])
    assert len(pd.read_csv("work/predicted/regions.tsv", sep="\t")) == 3


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
