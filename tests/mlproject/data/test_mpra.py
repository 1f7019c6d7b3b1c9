import gzip
from dataclasses import replace

import numpy as np
import pytest

from mlproject.data.mpra import MpraColumns, codes, log2_activity, read_mpra
from mlproject.errors import InputError

HEADER = "label,sequence,activity\n"
ROWS = "a,ACGT,0.5\nb,acgtn,-1e-3\nc,GGG,2\n"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def read(tmp_path, text, columns=None, **options):
    return read_mpra(write(tmp_path / "t.csv", text), columns, **({"max_length": 10} | options))


def test_a_table_is_read_in_file_order(tmp_path):
    table = read(tmp_path, HEADER + ROWS)
    assert table.names == ("a", "b", "c") and table.sequences == ("ACGT", "ACGTN", "GGG")
    assert table.cell_types == ("mpra",) and table.chromosomes == ("", "", "") and table.notes == ()
    assert table.activity.tolist() == [0.5, -1e-3, 2] and table.activity.dtype == np.float64
    assert table.sequence.tolist() == [0, 1, 2] and table.cell.tolist() == [0, 0, 0]
    assert table.sequence.dtype == table.cell.dtype == np.int64
    assert np.isnan(table.spread).all() and np.isnan(table.replicates).all()


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_tables_as_programs_write_them(tmp_path, separator, ending, start, quote):
    lines = (HEADER + ROWS).strip().split("\n")
    made = [separator.join(f"{quote}{word}{quote}" for word in line.split(",")) for line in lines]
    text = start + ending.join([*made, "", ""])
    expected = read(tmp_path, HEADER + ROWS).digest
    assert read(tmp_path, text).digest == expected
    packed = tmp_path / "t.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_mpra(packed, max_length=10).digest == expected


def test_words_stay_words(tmp_path):
    table = read(tmp_path, 'label,sequence,activity,cell_type\nNA,A,1,"T cells, CD4"\n007,C,2,NA\n')
    assert table.names == ("NA", "007") and table.cell_types == ("NA", "T cells, CD4")
    assert table.cell.tolist() == [1, 0]


def test_a_row_without_label_is_called_after_its_line(tmp_path):
    assert read(tmp_path, "sequence,activity\n\nA,1\nC,2\n").names == ("line_3", "line_4")
    assert read(tmp_path, "name,sequence,activity\nx,A,1\n").names == ("x",)


def test_what_is_not_measured_is_left_out_and_counted(tmp_path):
    text = (
        HEADER
        + ROWS
        + "".join(f"x,??{n},{word}\n" for n, word in enumerate(["", "NA", "NaN", "n/a", "null"]))
    )
    table = read(tmp_path, text)
    assert table.notes == ("5 of 8 activities are empty or NA: left out",)
    assert len(table.sequences) == 3 and table.digest == read(tmp_path, HEADER + ROWS).digest


def test_the_digest_is_of_everything(tmp_path):
    table = read(tmp_path, HEADER + ROWS)
    changes = [
        {"names": ("a", "b", "d")}, {"sequences": ("ACGT", "ACGTN", "GGT")}, {"chromosomes": ("", "1", "")},
        {"cell_types": ("x",)}, {"cell": np.array([0, 0, 1])}, {"activity": np.array([0.5, -1e-3, 2.0001])},
        {"spread": np.array([np.nan, np.nan, 0])}, {"replicates": np.array([np.nan, 1, np.nan])},
    ]  # fmt: skip
    digests = {table.digest, *(replace(table, **change).digest for change in changes)}
    assert len(digests) == 9
    assert replace(table, notes=("x",)).digest == table.digest


# --- cell types and replicates ------------------------------------------------------------------------------------


def test_columns_of_activity_are_cell_types(tmp_path):
    text = "sequence,K562_log2FC,HepG2_log2FC,K562_lfcSE,HepG2_lfcSE,n\nA,1,2,0.1,0.2,3\nC,NA,4,0.3,0.4,2\n"
    columns = MpraColumns(
        activity=("K562_log2FC", "HepG2_log2FC"), spread=("K562_lfcSE", "HepG2_lfcSE"), replicate_count=("n",)
    )
    table = read(tmp_path, text, columns)
    assert table.cell_types == ("HepG2", "K562") and table.sequence.tolist() == [0, 0, 1]
    assert [table.cell_types[cell] for cell in table.cell] == ["HepG2", "K562", "HepG2"]
    assert table.activity.tolist() == [2, 1, 4] and table.spread.tolist() == [0.2, 0.1, 0.4]
    assert table.replicates.tolist() == [3, 3, 2]
    assert table.notes == ("1 of 4 activities are empty or NA: left out",)


@pytest.mark.parametrize(
    ("names", "cells"),
    [(("activity_a", "activity_b"), ("a", "b")), (("K562", "K563"), ("K562", "K563")),
     (("x_a.1_y", "x_b.1_y"), ("a", "b")), (("activity", "activity_b"), ("activity", "activity_b")),
     (("a_a", "a_a_a"), ("a", "a_a")), (("log2 T cell", "log2 B cell"), ("T", "B"))],
)  # fmt: skip
def test_what_all_columns_are_called_is_no_cell_type(tmp_path, names, cells):
    table = read(tmp_path, f"sequence,{','.join(names)}\nA,1,2\n", MpraColumns(activity=names))
    assert table.cell_types == tuple(sorted(cells))
    assert dict(zip((table.cell_types[c] for c in table.cell), table.activity, strict=True)) == dict(
        zip(cells, (1, 2), strict=True)
    )


def test_the_cell_type_is_of_the_column_or_what_is_given(tmp_path):
    text = "sequence,activity,cell_type\nA,1,y\nC,2,x\nA,3,x\n"
    table = read(tmp_path, text)
    assert table.cell_types == ("x", "y")
    assert (table.sequence.tolist(), table.cell.tolist(), table.activity.tolist()) == (
        [0, 0, 1],
        [0, 1, 0],
        [3, 1, 2],
    )
    assert read(tmp_path, HEADER + ROWS, cell_type="z").cell_types == ("z",)
    several = read(tmp_path, "sequence,cell_type,a,b\nA,x,1,2\n", MpraColumns(activity=("a", "b")))
    assert several.cell_types == ("a", "b")
    with pytest.raises(InputError, match=r"found 'z', and mpra .*t\.csv has a column for it; leave it out"):
        read(tmp_path, text, cell_type="z")
    with pytest.raises(InputError, match="has a column of activity for each cell type; leave it out"):
        read(tmp_path, "sequence,a,b\nA,1,2\n", MpraColumns(activity=("a", "b")), cell_type="z")
    assert several.notes == ("column 'cell_type' is not read: each column of activity is a cell type",)


def test_replicates_are_averaged_and_their_spread_kept(tmp_path):
    text = "sequence,r1,r2,r3\nA,1,2,6\nC,1,,2\nG,5,NA,\nT,,,\n"
    table = read(tmp_path, text, MpraColumns(replicates=("r1", "r2", "r3")))
    np.testing.assert_allclose(table.activity, [3, 1.5, 5])
    np.testing.assert_allclose(table.spread, [np.std([1, 2, 6], ddof=1), np.std([1, 2], ddof=1), np.nan])
    assert table.replicates.tolist() == [3, 2, 1] and table.sequences == ("A", "C", "G")


def test_what_is_measured_twice_is_averaged_and_counted(tmp_path):
    text = "label,sequence,activity,s,n\na,A,1,0.1,2\nb,C,0,0.1,2\nc,a,2,0.1,2\nd,C,0.1,0.1,2\ne,G,9,0.1,2\n"
    table = read(tmp_path, text, MpraColumns(spread=("s",), replicate_count=("n",)))
    assert table.names == ("a", "b", "e") and table.activity.tolist() == [1.5, 0.05, 9]
    np.testing.assert_allclose(table.spread[0], np.sqrt((2 * 0.1**2 + 1) / 3))
    assert table.replicates.tolist() == [4, 4, 2]
    assert table.notes == (
        "2 of 3 activities are measured more than once and averaged, "
        "1 of them contradict themselves by more than chance",
    )


# --- joined with FASTA, and where it is from ----------------------------------------------------------------------


def test_sequences_are_joined_by_label(tmp_path):
    fasta = write(tmp_path / "l.fa", ">b more words\r\nac\r\nGT\r\n>a\r\nGGX\r\n>c\r\nAA\r\n>d\r\nA\r\n")
    table = read(tmp_path, "label,activity\nb,1\nc,2\na,NA\n", fasta=fasta)
    assert table.names == ("b", "c") and table.sequences == ("ACGT", "AA")
    assert table.notes == (
        "1 of 3 activities are empty or NA: left out",
        "2 of 4 FASTA records have no activity",
    )
    with pytest.raises(InputError, match=r"l\.fa, record a: sequence has 'X' at position 2 \(0-based\)"):
        read(tmp_path, "label,activity\na,1\n", fasta=fasta)
    said = (
        r"has no sequence for 2 measured labels of mpra .*, such as x, y; it has b, a, c, \.\.\. \(4 in all\)"
    )
    with pytest.raises(InputError, match=said):
        read(tmp_path, "label,activity\nx,1\nb,1\ny,2\nx,3\nz,NA\n", fasta=fasta)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("ACGT\n", "line 1: found 'ACGT', expected a line that starts with '>'"),
     (">a\nA\n> \nC\n", "line 3: a record without a name"), (">a\nA\n>a x\nC\n", "line 3: record 'a' is there twice"),
     (">a\n>b\nA\n", "record a: sequence is empty")],
)  # fmt: skip
def test_a_bad_fasta_says_where(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"fasta .*l\.fa.*{said}"):
        read(tmp_path, "label,activity\na,1\n", fasta=write(tmp_path / "l.fa", text))


@pytest.mark.parametrize(
    ("label", "chromosome"),
    [("chr8-4357766-4357930_CPPP_WT", "chr8"), ("chr8:1-2", "chr8"), ("chrX_100_200", "chrX"),
     ("peak1_chr2L_0_249(+)", "chr2L"), ("chr1_KI270706v1_random:1-2", "chr1_KI270706v1_random"),
     ("chrUn_KI270302v1:1-2", "chrUn_KI270302v1"), ("chr10:1,000-2,000:-", "chr10"),
     ("chr8_peak", ""), ("xchr8:1-2", ""), ("scrambled_8", ""), ("", "")],
)  # fmt: skip
def test_a_label_may_say_the_chromosome(tmp_path, label, chromosome):
    assert read(tmp_path, f'label,sequence,activity\n"{label}",A,1\n').chromosomes == (chromosome,)


def test_a_column_says_the_chromosome(tmp_path):
    text = "label,sequence,activity,chr\nchr8:1-2,A,1,7\nchr8:1-2,C,1,\nb,a,1,9\nc,c,1,9\n"
    assert read(tmp_path, text, MpraColumns(chromosome="chr")).chromosomes == ("7", "9")


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "has no rows"), (HEADER, "has no rows"), (HEADER + "a,ACGT,NA\n", "no activity is measured"),
     (HEADER + ROWS + "d,ACXT,1\n", r"line 5: sequence has 'X' at position 2 \(0-based\), expected A, C, G, T or N"),
     (HEADER + "d,,1\n", "line 2: sequence is empty"), (HEADER + "d,A\n", "line 2: has 2 columns, the header has 3"),
     (HEADER + "d,A,x\n", "line 2: activity is 'x', expected a number"),
     (HEADER + "d,A,-inf\n", "line 2: activity is '-inf', expected a finite number, or an empty cell"),
     (HEADER + "d,A,1e39\n", "line 2: activity is 1e39, expected at most"),
     (HEADER + "d,A,1_0\n", "line 2: activity is '1_0'"),
     (HEADER + '"d,A,1\n', "line 2: is not a row of a table"), (HEADER + '"d"x,A,1\n', "line 2: is not a row"),
     ("label,seqence,activity\nd,A,1\n", r"no column 'sequence' \(sequence\); .*; did you mean seqence\?"),
     ("label,activity\nd,1\n", "no column 'sequence' .* or a FASTA file that has them"),
     ("label,sequence,score\nd,A,1\n", r"no column 'activity' \(activity\); it has label, sequence, score"),
     ("ACGTACGTACGTACGT,1\nACGT,2\n", "the first line looks like a row, expected a header line"),
     ("sequence,activity,sequence\nA,1,A\n", "the header names column 'sequence' twice"),
     ("sequence,activity,cell_type\nA,1,\n", "line 2: cell_type is empty")],
)  # fmt: skip
def test_a_bad_table_names_line_and_field(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"mpra .*t\.csv.*{said}") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_longer_sequences_are_counted(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, HEADER + ROWS + "d,AAAAA,1\ne,AAAA,1\n", max_length=3)
    assert str(caught.value).endswith(
        "line 2: sequence is 4 bp long, expected at most 3; 4 of 5 sequences are longer: "
        "set --mpra_len to 5, the longest."
    )
    assert len(read(tmp_path, HEADER + ROWS, max_length=5).sequences) == 3


@pytest.mark.parametrize(
    ("columns", "said"),
    [({"spread": ("a", "b")}, "found 2 columns of spread for 1 of activity"),
     ({"spread": ("activity",), "replicate_count": ("a", "b")}, "found 2 columns of replicate_count for 1"),
     ({"replicate_count": ("activity",)}, "replicate_count is given without spread"),
     ({"replicates": ("activity",), "spread": ("a",)}, "spread is given with replicates"),
     ({"activity": ()}, "no column of activity is named"),
     ({"activity": ("activity",) * 2}, "'activity' is asked for twice"),
     ({"spread": ("sd",)}, r"no column 'sd' \(spread\)"), ({"chromosome": "chr"}, r"no column 'chr' \(chromosome\)"),
     ({"label": "id"}, r"no column 'id' \(label\)"), ({"cell_type": "cell"}, r"no column 'cell' \(cell_type\)")],
)  # fmt: skip
def test_columns_that_cannot_be_are_refused(tmp_path, columns, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, HEADER + ROWS, MpraColumns(**columns))


@pytest.mark.parametrize(
    ("spread", "count", "said"), [("-1", "2", "spread of activity is -1"), ("1", "0", "is 0, exp")]
)
def test_spreads_and_counts_are_checked(tmp_path, spread, count, said):
    columns = MpraColumns(spread=("s",), replicate_count=("n",))
    with pytest.raises(InputError, match=f"line 2: .*{said}"):
        read(tmp_path, f"sequence,activity,s,n\nA,1,{spread},{count}\n", columns)
    table = read(tmp_path, "sequence,activity,s,n\nA,1,NA,\nC,NA,-1,0\n", columns)
    assert np.isnan(table.spread).all() and len(table.activity) == 1


# --- codes, and real data -----------------------------------------------------------------------------------------


def test_codes_are_padded_at_the_end():
    found = codes(["ACGTN", "", "TTT"], 6)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1, 2, 3, 4, 6], [6] * 6, [3, 3, 3, 6, 6, 6]]
    assert codes([], 4).shape == (0, 4)
    with pytest.raises(InputError, match="a sequence is 5 bp long, expected at most 4"):
        codes(["ACGTN"], 4)


def test_a_published_table_joined_with_its_fasta(crx_mpra):
    columns = MpraColumns(
        activity=("expression",), spread=("expression_std",), replicate_count=("expression_reps",)
    )
    options = {"fasta": crx_mpra / "library1And2.fasta", "cell_type": "rod"}
    table = read_mpra(crx_mpra / "rhoActivityJoinedAnnotated.txt", columns, **options, max_length=164)
    assert len(table.sequences) == len(table.activity) == 9633 and table.cell_types == ("rod",)
    assert table.notes == (
        "55 of 9,688 activities are empty or NA: left out",
        "205 of 9,838 FASTA records have no activity",
    )
    assert set(table.replicates) == {3.0} and set(table.chromosomes) <= {
        f"chr{n}" for n in [*range(1, 20), "X", "Y"]
    }
    assert table.names[0] == "chr1-104768570-104768734_UPCQ_MUT-allCrxSites"
    assert (table.activity[0], table.spread[0]) == (3.027743876435533, 0.3304822997629895)
    with pytest.raises(InputError, match="9,633 of 9,633 sequences are longer: set --mpra_len to 164"):
        read_mpra(crx_mpra / "rhoActivityJoinedAnnotated.txt", columns, **options, max_length=150)


# --- logarithms ---------------------------------------------------------------------------------------------------


def test_spreads_of_logarithms_are_those_of_a_simulation(tmp_path):
    text = "sequence,activity,sd,n\nA,3,0.1,4\nC,40,2,3\nG,0,0.02,2\nT,1,,5\n"
    columns = MpraColumns(spread=("sd",), replicate_count=("n",))
    table = read(tmp_path, text, columns)
    found = log2_activity(table, 1)
    np.testing.assert_allclose(found.activity, np.log2([4, 41, 1, 2]), atol=1e-12)
    drawn = np.random.default_rng(0).normal(table.activity, table.spread, (200_000, 4))
    expected = np.log2(drawn + 1).std(axis=0)
    # of the first order in spread / activity, which is 5% at most
    np.testing.assert_allclose(found.spread, expected, rtol=0.01)
    assert np.isnan(found.spread[3]) and found.replicates.tolist() == [4, 3, 2, 5]
    assert found.sequences == table.sequences and found.digest != table.digest


def test_what_has_no_logarithm_is_refused(tmp_path):
    table = read(tmp_path, "sequence,activity\nA,0\nC,-0.5\nG,2\n")
    with pytest.raises(
        InputError, match=r"--mpra_log2 0: 2 of 3 activities are 0 or less \(the lowest is -0.5\)"
    ):
        log2_activity(table, 0)
    with pytest.raises(InputError, match=r"--mpra_log2 0.5: 1 of 3 activities are -0.5 or less"):
        log2_activity(table, 0.5)
    np.testing.assert_allclose(log2_activity(table, 0.75).activity, np.log2([0.75, 0.25, 2.75]))
