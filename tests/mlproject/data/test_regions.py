import numpy as np
import pytest

from mlproject.data.genome import Genome, Interval
from mlproject.data.regions import (
    Fragment,
    Region,
    Span,
    fragments_of,
    read_codes,
    read_letters,
    read_regions,
    resized,
)
from mlproject.errors import InputError

LENGTHS = {"chr1": 2_000_000, "chrUn_KI270302v1": 5_000, "HLA:A*01": 3_000}


def bed(tmp_path, text):
    path = tmp_path / "regions.bed"
    path.write_text(text)
    return path


def test_a_bed_file_gives_regions_with_their_names(tmp_path):
    path = bed(tmp_path, "track name=x\n#c\nchr1\t5\t9\tpeak 1\t7\nchr1\t0\t2000000\nHLA:A*01\t1\t2\t\n")
    assert read_regions(str(path), LENGTHS) == [
        Region("peak 1", "chr1", 5, 9),
        Region("chr1:0-2000000", "chr1", 0, 2_000_000),
        Region("HLA:A*01:1-2", "HLA:A*01", 1, 2),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("chr1:5-9", [("chr1", 5, 9)]),
        (
            "chr1:1,000-2,000,000, chrUn_KI270302v1:0-1",
            [("chr1", 1000, 2_000_000), ("chrUn_KI270302v1", 0, 1)],
        ),
        ("HLA:A*01:7-8,chr1:5-9,", [("HLA:A*01", 7, 8), ("chr1", 5, 9)]),
        ("", [(chrom, 0, length) for chrom, length in LENGTHS.items()]),
    ],
)
def test_words_give_regions(words, expected):
    assert [tuple(region[1:]) for region in read_regions(words, LENGTHS)] == expected


def test_many_words_are_no_path(tmp_path, monkeypatch):
    """A name of more than 255 characters is an error of the file system."""
    words = ",".join(f"chr1:{1000 * number:,}-{1000 * number + 500:,}" for number in range(50))
    assert len(words) > 255
    found = read_regions(words, LENGTHS)
    assert [region.start for region in found] == [1000 * number for number in range(50)]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^bed x+: cannot be read \(File name too long"):
        read_regions("x" * 300, LENGTHS)
    with pytest.raises(InputError, match="is no region; expected a BED file or chrom:start-end"):
        read_regions(words + ",chr1:x", LENGTHS)


def test_a_path_may_look_like_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:2024-05").mkdir()
    path = tmp_path / "run:2024-05" / "r.bed"
    path.write_text("chr1\t5\t9\n")
    assert read_regions("run:2024-05/r.bed", LENGTHS) == [Region("chr1:5-9", "chr1", 5, 9)]
    (tmp_path / "chr1:7-9").write_text("chr1\t1\t2\n")
    assert read_regions("chr1:7-9", LENGTHS)[0].start == 7


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("chr1\t9\t5", "regions.bed, line 2: end 5 is not greater than start 9."),
        ("chr1\t-4\t5", "regions.bed, line 2: start is -4, expected 0 or more."),
        ("chr1\t7\t7", "regions.bed, line 2: end 7 is not greater than start 7."),
        ("chr1\t7\tx", "regions.bed, line 2: end is 'x', expected a whole number."),
        ("chr1\t7", "regions.bed, line 2: has 2 columns, expected at least 3, separated by tabs."),
        ("1\t7\t9", "regions.bed, line 2: chromosome 1 is not in the FASTA, which has chr1, "),
        (
            "chr1\t7\t2000001",
            "regions.bed, line 2: end 2000001 is off the end of chr1, which is 2000000 bp long.",
        ),
    ],
)
def test_a_wrong_line_of_a_bed_is_named(tmp_path, line, says):
    with pytest.raises(InputError) as caught:
        read_regions(str(bed(tmp_path, f"chr1\t1\t2\n{line}\n")), LENGTHS)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("chr1:9-5", "--regions: 'chr1:9-5': end 5 is not greater than start 9."),
        ("chr1:5-5", "--regions: 'chr1:5-5': end 5 is not greater than start 5."),
        ("chr1:-5-9", "--regions: 'chr1:-5-9' is no region; expected a BED file or chrom:start-end."),
        ("chr1:5-9,chr1:7", "--regions: 'chr1:7' is no region; expected a BED file or chrom:start-end."),
        ("chr1:a-9", "--regions: 'chr1:a-9': start is 'a', expected a whole number."),
        ("chr11:5-9", "'chr11:5-9': chromosome chr11 is not in the FASTA, which has chr1, "),
        ("chr1:5-2000001", "end 2000001 is off the end of chr1, which is 2000000 bp long."),
        ("nowhere.bed", "bed nowhere.bed: cannot be read"),
    ],
)
def test_a_wrong_word_is_named(words, says):
    with pytest.raises(InputError) as caught:
        read_regions(words, LENGTHS)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_records_without_bases_are_no_regions():
    assert [region.chrom for region in read_regions("", {"a": 0, "b": 1})] == ["b"]
    with pytest.raises(InputError, match=r"^the FASTA has no bases, only names\.$"):
        read_regions("", {"a": 0})


def test_a_bed_without_regions_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"regions\.bed: has no regions\.$"):
        read_regions(str(bed(tmp_path, "# nothing\n\n")), LENGTHS)


# --- fragments ----------------------------------------------------------------------------------------------------


def test_regions_are_resized_about_their_centre_on_the_grid():
    random = np.random.default_rng(0)
    for _ in range(500):
        span = 128 * int(random.integers(1, 40))
        start = int(random.integers(0, 100_000))
        region = Region("r", "chr1", start, start + int(random.integers(1, 30_000)))
        found = resized(region, span)
        size = region.end - region.start
        assert (found.end - found.start) % span == 0 and found.start % 128 == 0
        assert size <= found.end - found.start < size + span
        assert abs((found.start + found.end) - (region.start + region.end)) <= 2 * 64
        # nothing but up to 64 bp at one end is left out
        assert region.start >= found.start - 64 and region.end <= found.end + 64


@pytest.mark.parametrize(
    ("start", "end", "span", "expected"),
    [
        (1280, 2560, 1280, (1280, 2560)),  # as published: exactly one fragment, where it is
        (1280, 2561, 1280, (640, 3200)),  # 640.5
        (1000, 1001, 256, (896, 1152)),  # 872.5 is nearer to 896 than to 768
        (64, 192, 128, (128, 256)),  # half way: up
        (0, 100, 1024, (-512, 512)),  # over the end of the chromosome: -462
    ],
)
def test_places_of_spans(start, end, span, expected):
    assert resized(Region("", "chr1", start, end), span) == ("chr1", *expected)


def test_fragments_of_overlapping_spans_are_computed_once():
    spans = [Span("chr2", 512, 1024), Span("chr10", 0, 512), Span("chr2", 256, 768), Span("chr2", 128, 384)]
    assert fragments_of(spans, 256) == [
        *(Fragment("chr10", start) for start in (0, 256)),
        *(Fragment("chr2", start) for start in (128, 256, 512, 768)),
    ]


# --- letters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(f">a\nACGT{'N' * 2000}acgtnRyA\n>b\nACGTACGT\n>c\n{'N' * 30}\n")
    yield Genome(path, tmp_path / "work")


def test_sequence_beyond_a_chromosome_is_n(genome):
    assert read_codes(genome, "b", -2, 10).tolist() == [4, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4, 4]
    assert read_codes(genome, "b", 8, 10).tolist() == [4, 4]
    assert read_codes(genome, "b", -9, -7).tolist() == [4, 4]
    assert read_codes(genome, "a", 2003, 2012).tolist() == [4, 0, 1, 2, 3, 4, 4, 4, 0]


@pytest.mark.parametrize("chunk", [4_000_000, 7])
def test_letters_are_counted_once(genome, monkeypatch, chunk):
    monkeypatch.setattr("mlproject.data.regions._CHUNK", chunk)
    letters = read_letters(genome, [Interval("a", -50, 1000), Interval("a", 900, 3000), Interval("b", 2, 4)])
    assert letters.runs["a"].tolist() == [[4, 2004], [2008, 2009]]
    assert letters.other["a"].tolist() == [2009, 2010]
    assert letters.summary() == (
        "in the sequence that is read: 2,001 bp of N (1 run of 1,000 bp or more, the longest a:4-2004), "
        "2 letters other than A, C, G, T and N, which are read as N"
    )
    assert letters.unknown_in(Interval("a", -50, 3000), 2012) == (50 + 2001 + 988, 2)
    assert letters.unknown_in(Interval("a", 100, 200), 2012) == (100, 0)
    assert letters.unknown_in(Interval("a", 2007, 2010), 2012) == (1, 1)
    assert letters.unknown_in(Interval("a", -50, -40), 2012) == (10, 0)
    assert letters.unknown_in(Interval("b", 2, 4), 8) == (0, 0)


def test_counts_are_those_of_a_plain_count(tmp_path):
    random = np.random.default_rng(0)
    text = "".join(random.choice(list("ACGTNNNNR"), 500))
    (tmp_path / "g.fa").write_text(f">a\n{text}\n")
    genome = Genome(tmp_path / "g.fa", tmp_path / "work")
    letters = read_letters(genome, [Interval("a", 0, 500)])
    for _ in range(100):
        start, end = sorted(random.choice(700, 2, replace=False).tolist())
        start, end = start - 100, end - 100
        found = [text[at] if 0 <= at < 500 else "N" for at in range(start, end)]
        assert letters.unknown_in(Interval("a", start, end), 500) == (found.count("N"), found.count("R"))


def test_a_digest_is_of_letters_and_places(genome, tmp_path):
    first = read_letters(genome, [Interval("b", 0, 4)]).digest
    assert read_letters(genome, [Interval("b", 0, 2), Interval("b", 1, 4)]).digest == first
    assert read_letters(genome, [Interval("b", 4, 8)]).digest != first  # the same letters
    assert read_letters(genome, [Interval("b", 4, 8)]).summary() == ""
