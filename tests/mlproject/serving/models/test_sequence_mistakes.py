"""What is wrong with a request is one short line that says what and where."""

import json

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from serving_models import GENOME, read

GOOD = {"sequence": ["ACGT"]}
C1 = {"chrom": ["c1"]}


@pytest.fixture(scope="module")
def model(toy):
    """Without a genome."""
    return read(toy)


def refused(model, table, params=None, code="INVALID_PARAMETER_VALUE"):
    with pytest.raises(MlflowException) as caught:
        model.predict(None, pd.DataFrame(table, dtype=object) if isinstance(table, dict) else table, params)
    assert caught.value.error_code == code
    message = caught.value.message
    assert "\n" not in message and len(message) < 500 and message.isascii()
    return message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "found ''; expected exactly sequence"),
        ({"sequences": ["A"]}, "found 'sequences'"),
        ({**GOOD, "extra": [1]}, "found 'sequence, extra'"),
        ({**GOOD, **C1}, "expected exactly"),
        ({**C1, "start": [1]}, "expected exactly"),
        ({0: ["ACGT"]}, "found '0'"),
        (pd.DataFrame([["A", "C"]], columns=["sequence", "sequence"]), "found 'sequence, sequence'"),
        ({"sequence": []}, "0 rows"),
        ({"sequence": ["A"] * 1001}, "1001 rows; expected 1 to 1000"),
        ({"sequence": ["A", ""]}, "row 1: sequence: found ''"),
        ({"sequence": ["A", None]}, "row 1: sequence: found "),
        ({"sequence": [float("nan")]}, "row 0: sequence: found nan; expected text"),
        ({"sequence": [5]}, "row 0: sequence: found 5; expected text"),
        ({"sequence": [["A"] * 1000]}, "row 0: sequence: found ['A', 'A'"),
        ({"sequence": [{"a": 1}]}, "expected text"),
        ({"sequence": ["ACGT", "ACGJT"]}, "row 1: sequence: found 'J' at position 3 (from 0); expected ACGT"),
        ({"sequence": ["AC GT"]}, "found ' ' at position 2"),
        ({"sequence": ["ACGT\n"]}, "found '\\n' at position 4"),
        ({"sequence": ["ACG-"]}, "found '-'"),
        ({"sequence": ["ACGU"]}, "found 'U' at position 3 (from 0); expected ACGTRYSWKMBDHVN, T for U"),
        ({"sequence": ["ACé"]}, "found '\\xe9' at position 2"),
        ({"sequence": ["A\ud800"]}, "found '\\ud800' at position 1"),
        ({"sequence": ["A\x00"]}, "found '\\x00' at position 1"),
        ({"sequence": ["A" * 2048, "A" * 2049]}, "row 1: sequence is 2049 bp long; the model takes 2048 at most"),
        ({**C1, "start": [0], "end": [9]}, "need a reference genome"),
        ({**C1, "pos": [0], "ref": ["A"], "alt": ["C"]}, "need a reference genome"),
        ([["ACGT"]], "expected a table, found list"),
        (None, "expected a table, found NoneType"),
    ],
)  # fmt: skip
def test_tables(model, table, words):
    assert words in refused(model, table)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"heads": "human"}, "parameter 'heads' is not known; there are head, tracks"),
        ({"head": "fly"}, "head: found 'fly'; the model has human, mouse"),
        ({"head": 1}, "head: found 1; expected text"),
        ({"head": None}, "head: found None; expected text"),
        ({"tracks": "13"}, "tracks: found '13'; expected indices or ranges within 10-12"),
        ({"tracks": "9-12"}, "tracks: found '9-12'"),
        ({"tracks": "12-10"}, "tracks: found '12-10'"),
        ({"tracks": "open,"}, "tracks: found ''"),
        ({"tracks": "ATAC"}, "identifiers such as 'open', or categories such as DNASE, CAGE"),
        ({"tracks": "x" * 10_000}, "xxx"),
        ({"tracks": "10,11,12,13"}, "found 4 words; the head has 3 tracks"),
        ({"bins": "3"}, "bins: found '3'; expected a-b, within 0-14"),
        ({"bins": "3-3"}, "bins: found '3-3'"),
        ({"bins": "3-15"}, "within 0-14"),
        ({"bins": "-1-3"}, "bins: found '-1-3'"),
        ({"bins": "0-" + "9" * 5000}, "bins: found '0-999"),
        ({"aggregate": "sum"}, "aggregate: found 'sum'; expected mean, max, none"),
        ({"strands": "+"}, "strands: found '+'; expected forward, reverse, both"),
        ({"log1p": 1}, "log1p: found 1; expected true or false"),
        ({"log1p": "true"}, "log1p: found 'true'"),
    ],
)
def test_parameters(model, params, words):
    assert words in refused(model, GOOD, params)


VARIANT = {"chrom": "c1", "pos": 3000, "ref": GENOME["c1"][3000], "alt": "A"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chrom": "c9", "start": 0, "end": 9}, "row 0: chrom: found 'c9'; the reference has c1, c2"),
        ({"chrom": None, "start": 0, "end": 9}, "row 0: chrom: found "),
        ({"chrom": "c1", "start": -1, "end": 9}, "found start -1 and end 9; expected 0 <= start < end <= 6000"),
        ({"chrom": "c1", "start": 9, "end": 9}, "found start 9 and end 9"),
        ({"chrom": "c2", "start": 9, "end": 701}, "<= 700, the length of 'c2'"),
        ({"chrom": "c1", "start": 1.5, "end": 9}, "row 0: start: found 1.5; expected a whole number"),
        ({"chrom": "c1", "start": "1", "end": 9}, "row 0: start: found '1'"),
        ({"chrom": "c1", "start": 1, "end": float("nan")}, "row 0: end: found nan"),
        ({"chrom": "c1", "start": 1, "end": float("inf")}, "row 0: end: found inf"),
        ({"chrom": "c1", "start": 1, "end": 10**30}, "row 0: end: found 1000"),
        ({"chrom": "c1", "start": True, "end": 9}, "row 0: start: found True"),
        ({"chrom": "c1", "start": 0, "end": 2049}, "the interval is 2049 bp long; the model takes 2048"),
        ({**VARIANT, "ref": "ACGTACGTACGT"}, "row 0: ref is 'ACGTACGTACGT', the reference has '"),
        ({**VARIANT, "ref": ""}, "row 0: ref: found ''; expected text of DNA letters"),
        ({**VARIANT, "alt": "<DEL>"}, "row 0: alt: found '<' at position 0"),
        ({**VARIANT, "alt": "."}, "row 0: alt: found '.'"),
        ({**VARIANT, "alt": "A" * 1500}, "row 0: alt is 1500 bp long; the model takes 1025 at most"),
        ({**VARIANT, "ref": "A" * 2049}, "row 0: ref is 2049 bp long"),
        ({**VARIANT, "pos": 6000}, "row 0: pos 6000, 1 letters: not inside 'c1' of 6000"),
        ({**VARIANT, "pos": -1}, "row 0: pos -1"),
    ],
)  # fmt: skip
def test_places(toy, fasta, row, words):
    assert words in refused(read(toy), pd.DataFrame([row], dtype=object))


def test_an_answer_that_would_be_too_long(toy, monkeypatch):
    monkeypatch.setenv("MLPROJECT_MAX_VALUES", "80")
    model = read(toy)
    message = refused(model, {"sequence": ["A", "C"]}, {"aggregate": "none"})
    assert "the answer would have 84 numbers, 80 are the most" in message
    assert len(model.predict(None, pd.DataFrame({"sequence": ["A", "C"]}))) == 6


@pytest.mark.parametrize("name", ["MLPROJECT_MAX_ROWS", "MLPROJECT_BATCH_SIZE", "MLPROJECT_MAX_VALUES"])
@pytest.mark.parametrize("word", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_number(toy, monkeypatch, name, word):
    monkeypatch.setenv(name, word)
    with pytest.raises(MlflowException, match=f"{name}: found '{word}'"):
        read(toy)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00", b"no FASTA\n", None])
def test_a_genome_that_is_none(toy, tmp_path, monkeypatch, content):
    path = tmp_path / "genome.fa"
    monkeypatch.setenv("MLPROJECT_REFERENCE_FASTA", str(path))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MlflowException, match=r"MLPROJECT_REFERENCE_FASTA: '.*'"):
        read(toy)


def test_a_model_that_answers_no_number_is_no_mistake_of_the_user(toy):
    model = read(toy)
    model._call = lambda **_: {"human": np.full([1, 14, 3], np.nan)}
    model._outputs = lambda sequences, head: model._call()[head]
    assert "row 0: the model's answer is no finite number" in refused(model, GOOD, code="INTERNAL_ERROR")


def test_log_of_a_number_below_minus_one(activity):
    model = read(activity)
    model._outputs = lambda sequences, head: np.full([len(sequences), 1], -1.5)
    assert "log1p: the model answers -1.5 from row 0 on" in refused(model, GOOD, {"log1p": True})
    assert json.dumps(model.predict(None, pd.DataFrame(GOOD)).to_dict("records"))


def test_a_head_without_bins(activity):
    assert "head activity has no bins" in refused(read(activity), GOOD, {"bins": "0-1"})
