import gzip
import math

import pytest

from mlproject.data.constructs import Site
from mlproject.data.genome import Genome, Interval
from mlproject.data.payloads import (
    Payload,
    read_activities,
    read_flanks,
    read_locus,
    read_sequences,
    read_sites,
    search_sites,
)
from mlproject.errors import InputError

HEADER = "MenDel.Name\tgroups\tfoldchange\tactivity\n"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_the_largest_numbers_of_float32_are_averaged(tmp_path):
    rows = "a\tg\t1\t3.4e38\n" * 3 + "b\tg\t1\t-3.4e38\n"
    found = read_activities(write(tmp_path / "t.tsv", HEADER + rows), "activity").payloads
    assert (found["a"].activity, found["b"].activity) == (pytest.approx(3.4e38), -3.4e38)


def one_line(caught) -> bool:
    return "\n" not in str(caught.value)


def test_rows_of_a_payload_are_averaged_and_those_without_a_value_counted(tmp_path):
    rows = "NA\tg\t1\t0.1\n007\th\t1\tNA\nNA\tg\t2\t0.2\nNA\tg\tnan\t9\nb~c\tg\t\t1\nb~c\tg\t1\tNone\nd\th\t3\t-1e-1\n"
    text = "\ufeff" + (HEADER + rows).replace("\n", "\r\n")
    found = read_activities(write(tmp_path / "t.tsv", text), "activity")
    assert (found.rows, found.without_value) == (7, 4)
    assert list(found.payloads) == ["NA", "007", "b_c", "d"]
    assert found.payloads["d"] == Payload("d", "h", -0.1)
    assert found.payloads["NA"] == Payload("NA", "g", pytest.approx(0.15))
    assert found.payloads["b_c"].name == "b~c" and math.isnan(found.payloads["b_c"].activity)
    other = read_activities(tmp_path / "t.tsv", "foldchange", "MenDel.Name")
    assert other.payloads["d"] == Payload("d", "d", 3.0)


def test_the_column_of_groups_may_be_called_group(tmp_path):
    write(tmp_path / "t.tsv", "group\tMenDel.Name\tactivity\ng\ta\t1\n")
    assert read_activities(tmp_path / "t.tsv", "activity").payloads == {"a": Payload("a", "g", 1.0)}


@pytest.mark.parametrize(
    ("text", "said"),
    [(HEADER.replace("\t", ",") + "a,g,1,1\n", "columns are separated by commas; save it with tabs"),
     (HEADER.replace("activity", "signal") + "a\tg\t1\t1\n", "has no column 'activity'; it has MenDel.Name"),
     (HEADER.replace("groups", "kin") + "a\tg\t1\t1\n", "has no column groups or group; .* group_column"),
     (HEADER + "a\tg\t1\t1\na\tg\t1\thigh\n", "line 3: activity is 'high', expected a number"),
     (HEADER + "a\tg\t1,5\t1\n", "line 2: foldchange is '1,5', expected a number"),
     (HEADER + "a\tg\t1\t1\na\tg\t1\t1e308\na\tg\t1\t1e308\n",
      r"line 3: activity is 1e308, expected at most 3\.4e\+38 \(float32\)"),
     (HEADER + "a\tg\tNA\tinf\n", "line 2: activity is 'inf', expected a number"),
     (HEADER + "a\tg\t1\t1\n\tg\t1\t1\n", "line 3: MenDel.Name is empty"),
     (HEADER + "a\t\t1\t1\n", "line 2: groups is empty"),
     (HEADER + "a\tg\t1\t1\n\na\th\t1\t1\n", "line 4: groups of a is 'h', on line 2 it is 'g'"),
     (HEADER + "a~b\tg\t1\t1\na_b\tg\t1\t1\n", "line 3: a_b differs from a~b of line 2 in ~ and _ only"),
     (HEADER + "a\tg\t1\n", "line 2: has 3 columns, the header has 4")],
)  # fmt: skip
def test_a_bad_table_names_line_and_field(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"^table .*t\.tsv.*{said}") as caught:
        read_activities(write(tmp_path / "t.tsv", text), "activity")
    assert one_line(caught)


def test_sequences_are_upper_case_and_other_bases_are_n(tmp_path):
    text = "\ufeff>a~b first\r\nacgt\r\nNNry\r\n\r\n>NA\r\nTTT\r\n"
    assert read_sequences(write(tmp_path / "p.fa", text)) == ({"a_b": "ACGTNNNN", "NA": "TTT"}, 2)
    (tmp_path / "p.fa.gz").write_bytes(gzip.compress(text.encode()))
    assert read_sequences(tmp_path / "p.fa.gz") == read_sequences(tmp_path / "p.fa")


@pytest.mark.parametrize(
    ("text", "said"),
    [(">a\nACGT\n>b\nAC\n>a\nA\n", "line 5: record a is there on line 1 already"),
     (">a~b\nACGT\n>a_b\nAC\n", "line 3: record a_b is there on line 1 already"),
     (">a\nACGT\nAC-T\n", r"line 3: record a has '-' at position 6 \(0-based\)"),
     (">a\nACGU\n", "line 2: record a has 'U' at position 3"), (">a\n>b\nACGT\n", "line 1: record a has no sequence"),
     ("ACGT\n", "line 1: is not FASTA: found 'ACGT'"), ("\n", "holds no sequence"), ("", "holds no sequence"),
     ("> \nACGT\n", "line 1: a record without a name")],
)  # fmt: skip
def test_a_bad_fasta_names_record_and_line(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"^payloads .*p\.fa.*{said}") as caught:
        read_sequences(write(tmp_path / "p.fa", text))
    assert one_line(caught)


def test_sites_are_by_payload_and_ascending(tmp_path):
    bed = write(
        tmp_path / "s.bed", "#x\na~b\t5\t9\tlate\t.\t-\na_b\t0\t5\tearly\na~b\t5\t9\tlate\nc\t0\t1\tA:1\n"
    )
    assert read_sites(bed, {"a_b": "A" * 9, "c": "A"}) == {
        "a_b": (Site("early", 0, 5), Site("late", 5, 9)),
        "c": (Site("A:1", 0, 1),),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [("a\t0\t10\tx", "line 2: end 10 is off the end of a, which is 9 bp long"), ("b\t0\t5\tx", "line 2: .* b is not"),
     ("a\t0\t5", "line 2: has 3 columns, expected at least 4"), ("a\t0\t5\t ", "the fourth column is empty"),
     ("a\t0\t5\tx;y", "'x;y' has a semicolon"), ("a\t5\t5\tx", "end 5 is not greater than start 5")],
)  # fmt: skip
def test_a_bad_site_names_the_line(tmp_path, line, said):
    with pytest.raises(InputError, match=rf"^bed .*s\.bed.*{said}") as caught:
        read_sites(write(tmp_path / "s.bed", f"a\t0\t5\tx\n{line}\n"), {"a": "A" * 9})
    assert one_line(caught)


def test_sites_are_searched_on_both_strands(tmp_path):
    site = "ACGTTGCAAGGCTATTCCGA"
    back = "TCGGAATAGCCTTGCAACGT"
    sequences = {"a": f"CC{site}GG", "b": f"{back}T{site}{site}", "c": site[:-1] + "T", "d": f"T{site}"}
    sites = {"a": (Site("x", 2, 22), Site("short", 3, 21))}
    assert search_sites(sequences, sites, ["b", "c"]) == {
        "b": (Site("x", 0, 20), Site("x", 21, 41), Site("x", 41, 61))
    }


@pytest.fixture
def genome(tmp_path):
    genome = Genome(write(tmp_path / "r.fa", ">c:1\nacgtNRCCGGTTAACC\n"), tmp_path / "work")
    yield genome
    genome.close()


def test_a_locus_may_be_on_the_reverse_strand(genome):
    assert read_locus(" c:1:4-1,0 ", genome) == (Interval("c:1", 4, 10), False)
    assert read_locus("c:1:10-4", genome) == (Interval("c:1", 4, 10), True)


@pytest.mark.parametrize(
    ("locus", "said"),
    [("c:1:4-17", "is not inside c:1 of reference .* 16 bp long"), ("d:4-8", "has no chromosome d; it has c:1"),
     ("c:1:a-8", "expected chrom:start-end"), ("c4-8", "expected chrom:start-end"),
     ("c:1:-3-8", "expected chrom:start-end"),     ("c:1:,-8", "expected chrom:start-end")],
)  # fmt: skip
def test_a_wrong_locus_is_refused(genome, locus, said):
    with pytest.raises(InputError, match=f"^locus .*{said}") as caught:
        read_locus(locus, genome)
    assert one_line(caught)


def test_flanks_are_next_to_the_locus_on_its_strand(genome):
    assert read_flanks(genome, read_locus("c:1:4-10", genome), 3) == ("CGT", "TTA")
    assert read_flanks(genome, read_locus("c:1:4-10", genome), 8) == ("....ACGT", "TTAACC..")
    assert read_flanks(genome, read_locus("c:1:10-4", genome), 8) == ("..GGTTAA", "ACGT....")
    assert read_flanks(genome, read_locus("c:1:0-16", genome), 2) == ("..", "..")
    assert read_flanks(genome, read_locus("c:1:7-7", genome), 3) == ("NNC", "CGG")
