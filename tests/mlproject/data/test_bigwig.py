"""The bigWig reader against pyBigWig, pybigtools and files written byte by byte; damaged files are refused."""

import struct
import warnings
import zlib

import numpy as np
import pybigtools
import pyBigWig
import pytest

from mlproject.data import bigwig
from mlproject.data.bigwig import DAMAGED, BigWig

LENGTHS = {"c1": 300_000, "c2": 70_000}


def bed_graph(rng, file):
    """Runs of 1 to 12 bp, with gaps after some."""
    for chrom, length in LENGTHS.items():
        lengths, gaps = (
            rng.integers(1, 13, length // 7),
            rng.integers(0, 40, length // 7) * (rng.random(length // 7) < 0.01),
        )
        starts = 50 + np.concatenate([[0], np.cumsum(lengths + gaps)[:-1]])
        inside = starts + lengths < length
        starts, ends = starts[inside], (starts + lengths)[inside]
        values = rng.poisson(2, len(starts)) * 0.3
        file.addEntries([chrom] * len(starts), starts.tolist(), ends=ends.tolist(), values=values.tolist())


def per_base(rng, file):
    """Every position a record of its own."""
    for chrom, length in LENGTHS.items():
        starts = np.arange(length)
        values = rng.normal(size=length)
        file.addEntries([chrom] * length, starts.tolist(), ends=(starts + 1).tolist(), values=values.tolist())


def variable_step(rng, file):
    for chrom, length in LENGTHS.items():
        starts = np.flatnonzero(rng.random(length // 5 - 1) < 0.4) * 5
        file.addEntries(chrom, starts.tolist(), values=rng.gamma(1, 2, len(starts)).tolist(), span=5)


def fixed_step(rng, file):
    for chrom, length in LENGTHS.items():
        file.addEntries(chrom, 100, values=rng.gamma(1, 2, (length - 200) // 10).tolist(), span=7, step=10)


@pytest.fixture(params=[bed_graph, per_base, variable_step, fixed_step], ids=lambda kind: kind.__name__)
def path(request, tmp_path):
    file = pyBigWig.open(str(tmp_path / "x.bw"), "w")
    file.addHeader(list(LENGTHS.items()))
    request.param(np.random.default_rng(3), file)
    file.close()
    return tmp_path / "x.bw"


def test_values_equal_those_of_other_readers(path):
    ours, theirs, others = BigWig(path), pyBigWig.open(str(path)), pybigtools.open(str(path))
    assert {chrom: entry.length for chrom, entry in ours.chromosomes.items()} == LENGTHS
    rng = np.random.default_rng(0)
    for chrom, length in LENGTHS.items():
        stretches = [(0, length), (0, 1), (length - 1, length), *np.sort(rng.integers(0, length, (40, 2)))]
        for start, end in stretches:
            if start == end:
                continue
            found = ours.values(chrom, int(start), int(end))
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, theirs.values(chrom, int(start), int(end), numpy=True))
            np.testing.assert_array_equal(found, others.values(chrom, int(start), int(end), fillna=None))
    theirs.close()
    others.close()


@pytest.mark.parametrize("stretch", [("c3", 0, 10), ("c2", 0, 70_001), ("c1", 10, 10), ("c1", -1, 10)])
def test_what_is_not_there_is_refused(path, stretch):
    with pytest.raises(ValueError, match=rf"its {stretch[0]} has [0-9]+ bp"):
        BigWig(path).values(*stretch)


def test_tables_of_one_genome_are_kept_once(path):
    assert BigWig(path).chromosomes is BigWig(path).chromosomes


def by_hand(order, records, *, packed=True, child=None):
    """A file of one chromosome `c` (number 0, 1,000 bp) and one block of bedGraph records."""

    def pack(kinds, *values):
        return struct.pack(order + kinds, *values)

    body = b"".join(pack("IIf", *record) for record in records)
    block = pack("IIIIIBBH", 0, records[0][0], records[-1][1], 0, 0, 1, 0, len(records)) + body
    block = zlib.compress(block) if packed else block
    names = pack("IIIIQQ", 0x78CA8C91, 1, 1, 8, 1, 0) + pack("BBH1sII", 1, 0, 1, b"c", 0, 1000)
    index_at = 64 + len(names)
    box = (0, records[0][0], 0, records[-1][1])
    index = pack("IIQIIIIQII", 0x2468ACE0, 1, 1, *box, 0, 1, 0)
    if child is None:
        index += pack("BBHIIIIQQ", 1, 0, 1, *box, index_at + 84, len(block))
    else:
        index += pack("BBHIIIIQ", 0, 0, 1, *box, index_at + child)
    header = pack("IHHQQQHHQQIQ", 0x888FFC26, 4, 0, 64, index_at, index_at, 0, 0, 0, 0, 4096 * packed, 0)
    return header + names + index.ljust(84, b"\0") + block


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [True, False])
def test_either_order_of_bytes_packed_or_not(tmp_path, order, packed):
    (tmp_path / "x.bw").write_bytes(
        by_hand(order, [(10, 14, 1.5), (14, 15, -2.0), (20, 30, 0.1)], packed=packed)
    )
    expected = np.full(1000, np.nan, np.float32)
    expected[10:14], expected[14], expected[20:30] = 1.5, -2, 0.1
    np.testing.assert_array_equal(BigWig(tmp_path / "x.bw").values("c", 0, 1000), expected)
    np.testing.assert_array_equal(BigWig(tmp_path / "x.bw").values("c", 12, 25), expected[12:25])
    np.testing.assert_array_equal(BigWig(tmp_path / "x.bw").values("c", 15, 20), expected[15:20])


@pytest.mark.parametrize(
    "records", [[(10, 14, 1.0), (13, 15, 2.0)], [(14, 15, 2.0), (10, 14, 1.0)], [(5, 5, 1.0)]]
)
def test_records_that_overlap_or_are_not_in_order_are_refused(tmp_path, records):
    (tmp_path / "x.bw").write_bytes(by_hand("<", records))
    with pytest.raises(ValueError, match="overlap or are not in order"):
        BigWig(tmp_path / "x.bw").values("c", 0, 100)


def test_an_index_that_leads_in_a_circle_is_refused(tmp_path):
    (tmp_path / "x.bw").write_bytes(by_hand("<", [(10, 14, 1.0)], child=48))
    with pytest.raises(ValueError, match="leads in a circle"):
        BigWig(tmp_path / "x.bw").values("c", 0, 100)


def test_damage_anywhere_ends_in_one_of_the_errors_named(tmp_path):
    """libBigWig crashes on some of these files, and pybigtools ends in a panic."""
    file = pyBigWig.open(str(tmp_path / "x.bw"), "w")
    file.addHeader([("c1", 20_000)])
    per_base_values = np.random.default_rng(1).poisson(3, 20_000).astype(float)
    file.addEntries("c1", 0, values=per_base_values.tolist(), span=1, step=1)
    file.close()
    whole = (tmp_path / "x.bw").read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        # the header and the trees are small; half of the damage goes there
        places = rng.integers(0, 64 if number % 2 else len(whole), rng.integers(1, 5))
        for place in places:
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.bw").write_bytes(
            damaged[: rng.integers(len(whole)) if number % 10 == 0 else None]
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = BigWig(tmp_path / "damaged.bw")
                for chrom, entry in found.chromosomes.items():
                    assert found.values(chrom, 0, min(entry.length, 20_000)).dtype == np.float32
        except DAMAGED:
            refused += 1
    assert refused > 50


def test_a_file_without_records_is_empty(tmp_path):
    file = pyBigWig.open(str(tmp_path / "x.bw"), "w")
    file.addHeader(list(LENGTHS.items()))
    file.close()
    found = BigWig(tmp_path / "x.bw")
    assert found.empty
    assert np.isnan(found.values("c1", 0, 100)).all()


def test_nothing_stays_open_or_grows_with_what_is_read(path, monkeypatch):
    opened = []
    real = bigwig._Pieces

    class Counted(real):
        def __exit__(self, *words):
            opened.append(self)
            super().__exit__(*words)

    monkeypatch.setattr(bigwig, "_Pieces", Counted)
    found = BigWig(path)
    before = {name: id(value) for name, value in vars(found).items()}
    for start in range(0, 60_000, 1_000):
        found.values("c1", start, start + 2_000)
    assert len(opened) == 61
    assert before == {name: id(value) for name, value in vars(found).items()}
