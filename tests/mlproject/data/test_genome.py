import gzip
import os

import pytest

from enformer_core.dna import codes
from mlproject.data.genome import Genome, Interval, read_bed
from mlproject.errors import InputError


def test_letters_are_what_the_file_says(toy):
    genome = Genome(toy.fasta, toy.folder / "work")
    assert genome.lengths == {chrom: len(letters) for chrom, letters in toy.letters.items()}
    assert genome.letters(Interval("c1", 290, 1000)) == toy.letters["c1"][290:1000].upper()
    assert genome.letters(Interval("c3", 0, 4000)) == toy.letters["c3"].upper()
    genome.close()


def test_gzip_reads_the_same_and_nothing_is_written_beside_the_file(toy, tmp_path):
    folder = tmp_path / "readonly"
    folder.mkdir()
    packed = folder / "toy.fa.gz"
    packed.write_bytes(gzip.compress(toy.fasta.read_bytes()))
    (folder / "toy.fa.gz.fai").write_text("c1\t5\t4\t60\t61\n")  # stale: must not be trusted
    genome = Genome(packed, tmp_path / "work")
    assert genome.letters(Interval("c2", 100, 200)) == toy.letters["c2"][100:200].upper()
    assert sorted(os.listdir(folder)) == ["toy.fa.gz", "toy.fa.gz.fai"]
    genome.close()


def test_a_changed_file_is_indexed_again(toy):
    Genome(toy.fasta, toy.folder / "work").close()
    toy.fasta.write_text(">c9\nACGTN\n")
    genome = Genome(toy.fasta, toy.folder / "work")
    assert genome.lengths == {"c9": 5}
    assert codes(genome.letters(Interval("c9", 0, 5))).tolist() == [0, 1, 2, 3, 4]
    genome.close()


@pytest.mark.parametrize(
    ("interval", "said"),
    [(("c1", 8000, 9001), "9000 bp"), (("c1", -1, 5), "not inside"), (("c1", 5, 5), "not inside"),
     (("chr1", 0, 5), "c1, c2, c3")],
)  # fmt: skip
def test_a_region_outside_is_refused(toy, interval, said):
    genome = Genome(toy.fasta, toy.folder / "work")
    with pytest.raises(InputError, match=said):
        genome.letters(Interval(*interval))
    genome.close()


@pytest.mark.parametrize("content", [b"", b"no header\nACGT\n", b"\x1f\x8bnot gzip at all"])
def test_what_is_not_fasta_is_refused(tmp_path, content):
    (tmp_path / "bad.fa").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.fa"):
        Genome(tmp_path / "bad.fa", tmp_path / "work")
    with pytest.raises(InputError, match="cannot be read"):
        Genome(tmp_path / "absent.fa", tmp_path / "work")


def test_a_gzip_damaged_in_its_middle_is_refused_and_nothing_is_kept(toy, tmp_path):
    whole = gzip.compress(toy.fasta.read_bytes())
    for content in (whole[:500] + bytes(100) + whole[600:], whole[: len(whole) // 2]):
        (tmp_path / "bad.fa.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.fa\.gz: cannot be decompressed"):
            Genome(tmp_path / "bad.fa.gz", tmp_path / "work")
        assert not list((tmp_path / "work" / "genomes").iterdir())


def test_what_only_looks_like_fasta_is_explained(toy, tmp_path):
    (tmp_path / "bom.fa").write_bytes(b"\xef\xbb\xbf" + toy.fasta.read_bytes())
    with pytest.raises(InputError, match=r"bom\.fa: begins with a byte order mark"):
        Genome(tmp_path / "bom.fa", tmp_path / "work")
    (tmp_path / "plain.fa.gz").write_bytes(toy.fasta.read_bytes())
    with pytest.raises(InputError, match=r"plain\.fa\.gz: is not gzip"):
        Genome(tmp_path / "plain.fa.gz", tmp_path / "work")


def test_a_work_dir_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"work_dir .*file: cannot be written .*Not a directory"):
        Genome(toy.fasta, tmp_path / "file")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "genomes").write_text("x")
    with pytest.raises(InputError, match=r"work_dir .*work: cannot be written .*genomes: File exists"):
        Genome(toy.fasta, tmp_path / "work")


def test_a_chromosome_may_begin_like_a_header_word(tmp_path):
    (tmp_path / "a.bed").write_text("browser position c1\ntrack name=x\ntracker1\t0\t10\nbrowser2\t0\t10\n")
    found = [interval.chrom for interval, _ in read_bed(tmp_path / "a.bed", {"tracker1": 10, "browser2": 10})]
    assert found == ["tracker1", "browser2"]


def test_a_label_is_one_of_those_asked_for(tmp_path):
    (tmp_path / "a.bed").write_text("#h\n\nc1\t0\t5\ttrain\nc1\t5\t9\tdev\n")
    with pytest.raises(
        InputError, match=r"line 4: the fourth column is 'dev', expected train, valid or test"
    ):
        read_bed(tmp_path / "a.bed", {"c1": 10}, ("train", "valid", "test"))


def test_bed_with_header_bom_and_crlf(tmp_path):
    bed = tmp_path / "a.bed"
    bed.write_bytes(b"\xef\xbb\xbf#c\r\ntrack x\r\nc1\t0\t10\ttrain\r\n\r\nc2\t5\t7\tvalid\r\n")
    assert read_bed(bed, {"c1": 10, "c2": 7}, ("train", "valid")) == [
        (Interval("c1", 0, 10), "train"),
        (Interval("c2", 5, 7), "valid"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [("c1\t10\t5", "end 5 is not greater than start 10"), ("c1\t-1\t5", "start is -1"),
     ("c1\t1.5\t5", "start is '1.5'"),
     ("c1\t5", "2 columns"), ("c1,0,5", "separated by tabs"), ("c1\t0\t" + "9" * 5000, "5000 characters"),
     ("c1\t\u0663\t9", "expected a whole number"), ("c1\t0\t11", "off the end of c1, which is 10 bp"),
     ("chr1\t0\t5", "chr1.*has c1")],
)  # fmt: skip
def test_a_bad_region_names_file_line_and_field(tmp_path, line, said):
    bed = tmp_path / "bad.bed"
    bed.write_text("c1\t0\t10\n" + line + "\n")
    with pytest.raises(InputError, match=said) as caught:
        read_bed(bed, {"c1": 10})
    assert "bad.bed, line 2" in str(caught.value)
    assert "\n" not in str(caught.value)
