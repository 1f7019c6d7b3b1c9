import numpy as np
import pytest

from mlproject.data.constructs import Construct, Site, as_table, read_constructs, sample_offsets
from mlproject.errors import InputError

HEADER = "index\tname\tgroup\tfold\tactivity\tannotation\tsequence\n"
ROW = "0\ta\tg\ttrain\t0.5\tx:1-3;y:0-4\tACGT\n"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_written_table_reads_back(tmp_path):
    constructs = [
        Construct(3, "NA", "007", "k", "train", 1 / 3, (Site("a:b", 0, 2), Site("c", 1, 6)), "ACGTNN"),
        Construct(1, "b~c", "g", "l", "0", -2e-7, (), "TTTTTT"),
        Construct(2, "d", "g", "l", "0", -3.4e38, (), "TTTTTT"),
        Construct(4, "e", "g", "m", "Fold_1.b-2", 1e-300, (), "TTTTTT"),
    ]
    assert read_constructs(write(tmp_path / "constructs.tsv", as_table(constructs))) == constructs
    assert read_constructs(tmp_path) == constructs


def test_the_published_layout_has_no_clusters(tmp_path):
    text = "\ufeff" + (HEADER + ROW).replace("ACGT", "acgn").replace("\n", "\r\n")
    (construct,) = read_constructs(write(tmp_path / "t.tsv", text))
    assert (construct.cluster, construct.sequence, construct.activity) == ("g", "ACGN", 0.5)
    assert construct.sites == (Site("x", 1, 3), Site("y", 0, 4))
    other = ROW.replace("0\ta", "1\tb").replace("train", "test")
    assert [one.fold for one in read_constructs(write(tmp_path / "t.tsv", HEADER + ROW + other))] == [
        "train",
        "test",
    ]


@pytest.mark.parametrize("fold", ["a/b", "../x", "..", ".a", "a b", "é", "a\\b", "x" * 65, "~"])
def test_a_fold_is_a_plain_name(tmp_path, fold):
    with pytest.raises(InputError) as caught:
        read_constructs(write(tmp_path / "t.tsv", HEADER + ROW.replace("train", fold)))
    said = f"line 2: fold is {fold!r}, expected up to 64 letters, digits, '_', '-' and '.', and no '.' at the start."
    assert str(caught.value).endswith(said)


def test_a_cluster_in_two_folds_names_both_lines(tmp_path):
    rows = [("a", "0", "k"), ("b", "1", "l"), ("c", "1", "k")]
    text = "".join(
        f"{n}\t{a}\tg\t{fold}\t1\t\tACGT\t{cluster}\n" for n, (a, fold, cluster) in enumerate(rows)
    )
    said = r"line 4: cluster 'k' is in fold 1, on line 2 it is in fold 0; expected a cluster in one fold"
    with pytest.raises(InputError, match=said):
        read_constructs(write(tmp_path / "t.tsv", HEADER.replace("\n", "\tcluster\n") + text))


@pytest.mark.parametrize(
    ("text", "said"),
    [(HEADER, "has no rows"), (HEADER.replace("fold\t", "") + "x\n", "has no column 'fold'"),
     (HEADER.replace("\t", ",") + "x\n", "separated by commas"),
     (HEADER + ROW + ROW.replace("a\tg", "b\tg"), "line 3: index 0 is that of line 2"),
     (HEADER + ROW + ROW.replace("0\ta", "1\ta"), "line 3: name 'a' is that of line 2"),
     (HEADER + ROW + "1\tb\tg\ttrain\t1\t\tACG\n", "line 3: sequence is 3 bp, that of the first construct 4"),
     (HEADER + ROW.replace("ACGT", "ACXT"), r"line 2: sequence has 'X' at position 2 \(0-based\)"),
     (HEADER + ROW.replace("ACGT", ""), "line 2: sequence is empty"),
     (HEADER + ROW.replace("train", " "), "line 2: fold is empty"),
     (HEADER + ROW.replace("0.5", "NaN"), "line 2: activity is 'NaN', expected a number"),
     (HEADER + ROW.replace("0.5", "-1e39"), r"line 2: activity is -1e39, expected at most 3\.4e\+38 \(float32\)"),
     (HEADER + ROW.replace("0\ta", "x\ta"), "line 2: index is 'x', expected a whole number"),
     (HEADER + ROW.replace("x:1-3", "x:1"), "line 2: annotation has 'x:1', expected name:start-end"),
     (HEADER + ROW.replace("x:1-3", "x:2-5"), "line 2: annotation x:2-5 is not a stretch .* 4 bp long"),
     (HEADER + ROW.replace("x:1-3", "x:3-3"), "line 2: annotation x:3-3 is not a stretch"),
     (HEADER + ROW + "1\tb\n", "line 3: has 2 columns, the header has 7")],
)  # fmt: skip
def test_a_bad_row_names_line_and_field(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"constructs .*t\.tsv.*{said}") as caught:
        read_constructs(write(tmp_path / "t.tsv", text))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"constructs .*constructs\.tsv: cannot be read \(No such file"):
        read_constructs(tmp_path)


def test_offsets_are_places_of_the_grid_and_each_is_drawn_once():
    for samples, count in ((1, 1), (7, 7), (1000, 34), (0.5, 17), (0.001, 1)):
        offsets = sample_offsets(1_000, 901, samples=samples, stride=3, seed=1, name="a")
        assert offsets.dtype == np.int64 and len(offsets) == count
        assert (np.diff(offsets) > 0).all()
        assert set(offsets.tolist()) <= set(range(0, 100, 3))


def test_offsets_depend_on_seed_and_name_alone():
    def draw(**changes):
        options = {"samples": 5, "stride": 1, "seed": 1, "name": "a"} | changes
        return sample_offsets(10_000, 100, **options).tolist()

    assert draw() == draw()
    assert draw() != draw(seed=2) and draw() != draw(name="b")
    # every place is as likely: the mean of many draws is the middle, within four standard errors
    drawn = [offset for n in range(400) for offset in draw(name=str(n))]
    assert abs(np.mean(drawn) - 4950) < 4 * 9901 / 12**0.5 / len(drawn) ** 0.5


@pytest.mark.parametrize(
    ("length", "window", "changes", "said"),
    [(100, 101, {}, "construct a: a window of 101 bp does not fit on its 100 bp"),
     (100, 0, {}, "a window of 0 bp"), (100, 50, {"samples": 0}, "samples is 0"),
     (100, 50, {"samples": -0.5}, "samples is -0.5"), (100, 50, {"samples": 2.5}, "samples is 2.5"),
     (100, 50, {"samples": float("nan")}, "samples is nan"), (100, 50, {"samples": float("inf")}, "samples"),
     (100, 50, {"stride": 0}, "stride is 0, expected 1 or more"),
     (100, 50, {"stride": 101}, "stride is 101, expected at most 100, the bp of construct a"),
     (100, 50, {"stride": 10**30}, "stride is 10{30}, expected at most 100")],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(length, window, changes, said):
    with pytest.raises(InputError, match=said):
        sample_offsets(length, window, **({"samples": 5, "stride": 1, "seed": 0, "name": "a"} | changes))
