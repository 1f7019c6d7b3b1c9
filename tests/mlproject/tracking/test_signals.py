"""Signal that runs have kept, from a real sqlite store."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mlproject.errors import InputError
from mlproject.tracking import runs, signals


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


TRACKS, WINDOWS, BINS = 100, 3, 4
VALUES = np.random.default_rng(0).random((TRACKS, WINDOWS, BINS), np.float32)
PLACES = [("chr1", 0), ("chr1", 1024), ("chr2", 1024)]


def table():
    """Tracks t0 to t99 of indices 0, 2, 4, ...; measured is twice what is predicted, of the last window it is NaN."""
    rows = [(track, window) for track in range(TRACKS) for window in range(WINDOWS)]
    measured = VALUES * 2
    measured[:, -1] = np.nan
    numbers = pa.list_(pa.float32())
    return pa.table(
        {
            "identifier": [f"t{track}" for track, _ in rows],
            "index": [2 * track for track, _ in rows],
            "description": ["<b>CAGE</b>:\u202e" + "x" * 300] * len(rows),
            "chrom": [PLACES[window][0] for _, window in rows],
            "start": [PLACES[window][1] for _, window in rows],
            "end": [PLACES[window][1] + BINS * 128 for _, window in rows],
            "bin_size": pa.array([128] * len(rows), pa.int32()),
            "predicted": pa.array([VALUES[row] for row in rows], numbers),
            "measured": pa.array([measured[row] for row in rows], numbers),
            "sd": pa.nulls(len(rows), numbers),
        }
    )


@pytest.fixture
def run(folder):
    with runs.start_run("ablation", Options()) as run:
        run.keep_parquet("signals_human", table())
    return run


def test_what_there_is(run):
    assert signals.list_signals(run.id) == ["human"]
    found = signals.read_signal_index(run.id, "human")
    assert list(found) == ["identifier", "index", "description", "chrom", "start", "end", "bin_size"]
    assert len(found) == TRACKS * WINDOWS and found["identifier"].iloc[-1] == "t99"
    assert found["end"].tolist()[:3] == [512, 1536, 1536] and found["description"][0].startswith(
        "<b>CAGE</b>:"
    )


def test_tracks_by_index_and_by_identifier(run):
    found = signals.read_signals(run.id, "human", ["t98", 2, 196, "t50"], "chr1", 1024)
    assert found["identifier"].tolist() == ["t98", "t1", "t98", "t50"]
    for row, track in enumerate([98, 1, 98, 50]):
        np.testing.assert_array_equal(found["predicted"][row], VALUES[track, 1])
        np.testing.assert_array_equal(found["measured"][row], 2 * VALUES[track, 1])
        assert found["predicted"][row].dtype == np.float32 and found["sd"][row] is None
    everywhere = signals.read_signals(run.id, "human", ["t5"])
    assert list(zip(everywhere["chrom"], everywhere["start"], strict=True)) == PLACES
    assert np.isnan(everywhere["measured"][2]).all()
    assert signals.read_signals(run.id, "human", ["t5"], start=1024)["chrom"].tolist() == ["chr1", "chr2"]
    assert signals.read_signals(run.id, "human", []).empty


def test_little_more_than_what_is_wanted_is_read(run, monkeypatch):
    read = []
    original = parquet.ParquetFile.read_row_groups

    def spy(self, groups, **how):
        read.append((self.num_row_groups, groups))
        return original(self, groups, **how)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_groups", spy)
    found = signals.read_signals(run.id, "human", ["t98", "t1"], "chr1", 0)
    assert read == [(5, [0, 4])]  # 300 rows, 64 in a group
    np.testing.assert_array_equal(found["predicted"][0], VALUES[98, 0])
    np.testing.assert_array_equal(found["predicted"][1], VALUES[1, 0])


def test_a_store_elsewhere_is_asked_once(run, monkeypatch):
    expected = signals.read_signals(run.id, "human", ["t7"])
    monkeypatch.setattr(signals, "urlsplit", lambda uri: type("Address", (), {"scheme": "mlflow-artifacts"}))
    signals._fetched.cache_clear()
    for _ in range(2):
        found = signals.read_signals(run.id, "human", ["t7"])
        assert found["predicted"][1].tolist() == expected["predicted"][1].tolist()
    assert signals._fetched.cache_info()[:2] == (1, 1)
    assert len(signals.read_signal_index(run.id, "human")) == TRACKS * WINDOWS


def kept(run, name):
    """Where a file is."""
    return Path(run.client.get_run(run.id).info.artifact_uri.removeprefix("file://"), f"{name}.parquet")


def test_a_file_on_this_machine_is_read_where_it_is(run, monkeypatch):
    monkeypatch.setattr(signals, "_fetched", None)
    assert signals.read_signals(run.id, "human", ["t7"])["predicted"][0].tolist() == VALUES[7, 0].tolist()
    assert signals._source(run.client, run.id, "signals_human.parquet", 0) == kept(run, "signals_human")


def refusal(*words, read=signals.read_signals):
    with pytest.raises(InputError) as caught:
        read(*words)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize(
    "organism",
    ["../human", "..", "a/b", "", "human\n", "%2e%2e/x", "human.parquet/../x", "\u202e", "x" * 500 + "/"],
)
def test_a_name_that_leaves_the_run_is_refused(run, organism):
    wanted = "keeps no signal of" if organism == ".." else "it names a file"
    for read, words in ((signals.read_signals, (["t1"],)), (signals.read_signal_index, ())):
        assert wanted in refusal(run.id, organism, *words, read=read)


def test_what_is_not_there_is_one_line(run):
    assert "keeps no signal of track 't100'" in refusal(run.id, "human", ["t1", "t100"])
    assert "keeps no signal of track '1'" in refusal(run.id, "human", [1])
    assert "keeps no signal at chr9:0" in refusal(run.id, "human", ["t1"], "chr9", 0)
    assert "keeps no signal of mouse" in refusal(run.id, "mouse", ["t1"])
    for read, words in ((signals.list_signals, ()), (signals.read_signals, ("human", ["t1"]))):
        assert "run 123: " in refusal("123", *words, read=read)


def test_a_run_of_an_earlier_version_has_none(folder):
    with runs.start_run("ablation", Options()) as run:
        run.keep_text("signals_human.csv", "x")
        run.keep_text("signals_a b.parquet", "x")
        run.keep_text("signals_folder.parquet/x", "x")
    assert signals.list_signals(run.id) == []
    assert "it has not ended, or is of an earlier version" in refusal(run.id, "human", ["t1"])


def test_a_damaged_file_is_one_line(folder, tmp_path):
    with runs.start_run("ablation", Options()) as run:
        run.keep_text("signals_words.parquet", "no parquet")
        run.keep_parquet("signals_other", pa.table({"identifier": ["a"]}))
        run.keep_parquet("signals_cut", table())
        path = kept(run, "signals_cut")
        path.write_bytes(path.read_bytes()[:1000] + bytes(3000) + path.read_bytes()[4000:])
        run.keep_parquet("signals_lacking", table().drop_columns(["sd"]))
    for organism in ("words", "other", "cut", "lacking"):
        message = refusal(run.id, organism, ["t1", "t50", "t99"])
        assert f"signals_{organism}.parquet cannot be read" in message


def test_the_file_alone_is_kept(run):
    names = {item.path for item in run.client.list_artifacts(run.id)}
    assert names == {"options.json", "signals_human.parquet"}
    column = parquet.ParquetFile(kept(run, "signals_human")).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    found, expected = parquet.read_table(kept(run, "signals_human")), table()
    assert found.schema == expected.schema
    assert found.drop_columns("measured").equals(expected.drop_columns("measured"))  # NaN is not NaN
