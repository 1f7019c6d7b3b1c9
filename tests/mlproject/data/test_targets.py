import numpy as np
import pytest

from mlproject.data.targets import as_rows, category, read_targets, strand_order, write_targets
from mlproject.errors import InputError


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_words_stay_words_and_defaults_are_filled(tmp_path):
    path = write(
        tmp_path / "t.txt",
        "\ufeff\tidentifier\tfile\tdescription\r\n0\tNA\ta.bw\tCHIP:x\r\n1\t007\tb.bw\tplain\r\n",
    )
    table = read_targets(path)
    assert table["identifier"].tolist() == ["NA", "007"]
    assert table["category"].tolist() == ["CHIP", "OTHER"]
    assert table["sum_stat"].tolist() == ["sum", "sum"]
    assert table["scale"].tolist() == [1.0, 1.0]
    assert table["clip"].isna().all()
    assert table["strand_pair"].isna().all()
    assert strand_order(table).tolist() == [0, 1]


def test_a_written_table_reads_back(toy, tmp_path):
    table = read_targets(toy.targets)
    write_targets(tmp_path / "copy.txt", table)
    assert read_targets(tmp_path / "copy.txt").equals(table)
    assert strand_order(table).tolist() == [0, 2, 1]


def test_strand_pairs_follow_the_index_column(tmp_path):
    head = "index\tidentifier\tfile\tstrand_pair\tdescription\n"
    path = write(tmp_path / "t.txt", head + "34\ta\ta\t35\tRNA:a\n35\tb\tb\t34\tRNA:a\n")
    assert strand_order(read_targets(path)).tolist() == [1, 0]


def test_published_tables(published_targets):
    human = read_targets(published_targets / "targets_human.txt")
    assert human["category"].value_counts().to_dict() == {"CHIP": 3991, "DNASE": 674, "CAGE": 638, "ATAC": 10}
    assert len(read_targets(published_targets / "targets_mouse.txt")) == 1643


@pytest.mark.parametrize(
    ("text", "said"),
    [("index\tidentifier\tdescription\n0\ta\tb\n", "no column 'file'"),
     ("identifier\tfile\tdescription\n", "has no rows"),
     ("identifier\tfile\tdescription\na\tb\n", "line 2: has 2 columns, the header has 3"),
     ("identifier\tfile\tdescription\tclip\na\tb\tc\t1\na\tb\tc\thigh\n", "line 3: clip is 'high'"),
     ("identifier\tfile\tdescription\tscale\na\tb\tc\tinf\n", "line 2: scale is 'inf'"),
     ("identifier\tfile\tdescription\tsum_stat\na\tb\tc\ttotal\n", "line 2: sum_stat is 'total'"),
     ("identifier\tfile\tdescription\tstrand_pair\na\tb\tc\t4\n", "line 2: strand_pair is '4'"),
     ("index\tidentifier\tfile\tdescription\nx\ta\tb\tc\n", "line 2: index is 'x'"),
     ("index\tidentifier\tfile\tdescription\n" + "9" * 5000 + "\ta\tb\tc\n", "line 2: index is '9"),
     ("identifier\tclip\tfile\tclip\tdescription\na\t1\tb\t2\tc\n", "names column 'clip' twice"),
     ("\n\nidentifier\tfile\tdescription\n\na\tb\tc\n\na\tb\n", "line 7: has 2 columns"),
     ("identifier\tfile\tdescription\na\t \tc\n", "line 2: file is empty"),
     ("identifier\tfile\tdescription\n\tb\tc\n", "line 2: identifier is empty"),
     ("identifier\tfile\tdescription\na\tb\tc\na\tb\tc\n", "line 3: identifier 'a' is that of another")],
)  # fmt: skip
def test_a_bad_table_names_column_or_row(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as caught:
        read_targets(write(tmp_path / "t.txt", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", ["1e300", "-1e39", "1e-300", "0", "nan", "NA", "inf", "\u0661"])
def test_a_scale_that_spoils_the_signal_is_refused(tmp_path, scale):
    head = "identifier\tfile\tscale\tdescription\n"
    with pytest.raises(InputError, match=f"line 3: scale is '{scale}', expected a number that is not 0"):
        read_targets(write(tmp_path / "t.txt", f"{head}a\ta\t\tx\nb\tb\t{scale}\tx\n"))
    assert read_targets(write(tmp_path / "t.txt", f"{head}a\ta\t\tx\nb\tb\t-2\tx\n"))["scale"].tolist() == [
        1,
        -2,
    ]


def test_a_description_may_hold_what_other_programs_take_for_a_line_end(tmp_path):
    text = "identifier\tfile\tdescription\na\ta\tCAGE:o\x85n\u2028e\n"
    table = read_targets(write(tmp_path / "t.txt", text))
    assert table["description"].tolist() == ["CAGE:o\x85n\u2028e"]
    write_targets(tmp_path / "copy.txt", table)
    assert read_targets(tmp_path / "copy.txt").equals(table)


def test_category():
    assert [category(d) for d in ("CHIP:H3K4me3:x", "Dnase:y", "plain", ":x")] == [
        "CHIP",
        "DNASE",
        "OTHER",
        "OTHER",
    ]


def test_numbers_are_numbers(toy):
    table = read_targets(toy.targets)
    np.testing.assert_array_equal(table["clip"], [np.nan, 9, 11.5])
    np.testing.assert_array_equal(table["scale"], [1, 0.5, 2])


def test_rows_are_words_by_column(toy):
    rows = as_rows(read_targets(toy.targets))
    assert [row["identifier"] for row in rows] == ["one", "NA", "007"]
    assert [row["strand_pair"] for row in rows] == ["0", "2", "1"]
    assert [row["clip"] for row in rows] == ["", "9", "11.5"]
    assert rows[1] == {
        "index": "1", "genome": "0", "identifier": "NA", "file": rows[1]["file"], "clip": "9", "clip_soft": "5",
        "scale": "0.5", "sum_stat": "mean_sqrt", "strand_pair": "2", "description": "CAGE:two +",
    }  # fmt: skip


def test_rows_name_a_partner_by_its_index_and_keep_other_columns(tmp_path):
    text = (
        "index\tidentifier\tfile\tstrand_pair\tdescription\tlab\n"
        "7\ta\ta\t5\tx\tone\n5\tb\tb\t7\tx\t\n9\tc\tc\t\tx\t3\n"
    )
    rows = as_rows(read_targets(write(tmp_path / "t.txt", text)))
    assert [row["strand_pair"] for row in rows] == ["5", "7", ""]
    assert [row["lab"] for row in rows] == ["one", "", "3"] and [row["scale"] for row in rows] == ["1"] * 3
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    again = read_targets(write(tmp_path / "again.txt", "\n".join(lines)))
    assert again.equals(read_targets(tmp_path / "t.txt"))
