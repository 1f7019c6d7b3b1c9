import errno
import gzip
import os
import threading
import zlib
from pathlib import Path

import pytest

from mlproject.data import files
from mlproject.data.files import (
    check_new,
    check_room,
    explained,
    new_folder,
    number,
    read_lines,
    read_rows,
    read_text,
    whole_number,
    write_whole,
)
from mlproject.errors import InputError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), r"\(out/x: Permission denied\)"),
        (OSError(errno.ENOSPC, "No space left on device"), r"\(No space left on device\)"),
        (EOFError("ended\nearly"), r"\(ended early\)"),
        (zlib.error("invalid block"), r"\(invalid block\)"),
    ],
)
def test_an_error_of_the_machine_becomes_one_line(error, said):
    said = f"output out: cannot be written {said}"
    with pytest.raises(InputError, match=said), explained("output out: cannot be written"):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError), explained("anything"):
        raise ZeroDivisionError


def test_lines_end_with_a_line_feed_only_and_keep_their_numbers(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffa\x85b\u2028c\x0bd\r\n\r\n \nlast".encode())
    assert read_lines(path, "text") == [(1, "a\x85b\u2028c\x0bd"), (4, "last")]
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_lines(path, "text")) == 2


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "t.txt"
    for content, said in (
        ("zw\xf6lf".encode("latin-1"), r"not UTF-8 text \(byte 2 is 0xf6\); save it as UTF-8"),
        ("text".encode("utf-16"), "not UTF-8 text"),
        (damaged_gzip(), "is gzip and cannot be decompressed"),
        (gzip.compress(b"text" * 999)[:40], "is gzip and cannot be decompressed"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^bed .*t\.txt: .*{said}"):
            read_text(path, "bed")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_text(tmp_path, "bed")


def damaged_gzip():
    whole = gzip.compress(bytes(range(256)) * 40)
    return whole[:14] + b"\xff" * 30 + whole[44:]


@pytest.mark.parametrize("word", ["", "1.5", "1e3", "--5", "\u0663", "\u00b2", "9" * 5000])
def test_what_is_no_whole_number_is_refused_in_a_short_line(word):
    with pytest.raises(InputError, match=r"line 3: start is .* expected a whole number") as caught:
        whole_number(word, "bed r.bed, line 3", "start")
    assert len(str(caught.value)) < 150
    assert whole_number(" -12 ", "", "") == -12


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "new" / "a.json", "one")
    assert (tmp_path / "new" / "a.json").read_text() == "one"
    (tmp_path / "b.json").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "b.json", "two")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.json", "new"]


@pytest.mark.parametrize(
    "word", ["", "high", "nan", "inf", "1e999", "1_000", "1,5", "\u0663", "0x10", "1 2", "--1"]
)
def test_what_is_no_number_is_refused(word):
    with pytest.raises(InputError, match=r"^table t, line 3: activity is .*, expected a number\.$"):
        number(word, "table t, line 3", "activity")
    assert [number(good, "", "") for good in ("-1.5", " 2e-3 ", "7", "+.5")] == [-1.5, 0.002, 7.0, 0.5]


def test_rows_are_words_by_column(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(
        b"\xef\xbb\xbfa\t\tb \r\n\r\n 1\tx\tNA\r\n\t\t\xc3\xa9\r\n".replace(b"\r\n\t\t", b"\r\n2\t\t")
    )
    assert read_rows(path, "table", ["b"]) == [(3, {"a": "1", "b": "NA"}), (4, {"a": "2", "b": "é"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "has no rows"), ("a\tb\n", "has no rows"),
     ("a,b\n1,2\n", "columns are separated by commas; save it with tabs"),
     ("a;b\n1,5;2\n", "columns are separated by semicolons"),
     ("a\tc\n1\t2\n", "has no column 'b'; it has a, c"),
     ("a\tb\ta\n1\t2\t3\n", "names column 'a' twice"),
     ("a\tb\n1\t2\n\n1\t2\t3\n", "line 4: has 3 columns, the header has 2")],
)  # fmt: skip
def test_a_wrong_table_is_refused(tmp_path, text, said):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(InputError, match=rf"^table .*t\.tsv.*{said}") as caught:
        read_rows(tmp_path / "t.tsv", "table", ["a", "b"])
    assert "\n" not in str(caught.value)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "out" / "[a]"
    with pytest.raises(RuntimeError), new_folder(final) as folder:
        (folder / "half").write_text("written")
        raise RuntimeError
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / ".[a].partial-new" / "left").mkdir(parents=True)
    with new_folder(final) as folder:
        (folder / "in").mkdir()
        (folder / "in" / "file").write_text("whole")
        assert not final.exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["[a]"]
    with new_folder(final) as folder:
        assert folder is None
    assert (final / "in" / "file").read_text() == "whole"


def test_a_folder_that_is_there_asks_for_no_right_to_write(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(Path, "mkdir", None)
    with new_folder(tmp_path / "a") as folder:
        assert folder is None


def test_nothing_is_left_of_a_folder_that_fails_far_below(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a" / "b" / "c"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def asked(final, answers):
    """Asks for a folder in another thread, and adds what it gets to `answers`."""

    def ask():
        with new_folder(final) as folder:
            answers.append(folder)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def test_only_who_asks_for_the_same_name_waits(tmp_path):
    same: list = []
    with new_folder(tmp_path / "a") as folder:
        waiting = [asked(tmp_path / "a", same) for _ in range(3)]
        asked(tmp_path / "b", []).join(60)
        assert (tmp_path / "b").is_dir() and not same
        (folder / "file").write_text("whole")
    for thread in waiting:
        thread.join(60)
    assert same == [None] * 3 and (tmp_path / "a" / "file").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_who_waits_makes_it_where_another_fails(tmp_path):
    answers: list = []
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a"):
        waiting = [asked(tmp_path / "a", answers) for _ in range(3)]
        raise RuntimeError
    for thread in waiting:
        thread.join(60)
    assert sorted(answer is None for answer in answers) == [False, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- before it is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 256, errno.ENAMETOOLONG),
        ("x" * 250, errno.ENAMETOOLONG),  # with what it is called until it is whole
        ("new/" + "x" * 256 + "/out", errno.ENAMETOOLONG),
        ("file/out", errno.ENOTDIR),
        ("file/below/out", errno.ENOTDIR),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_and_nothing_is_made(tmp_path, name, why):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        check_new(tmp_path / name)
    assert caught.value.errno == why
    check_new(tmp_path / "new" / "out")
    check_new(tmp_path)
    check_new(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_where_nothing_may_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError) as caught:
        check_new(tmp_path / "new" / "out")
    assert caught.value.filename == str(tmp_path)


def test_folders_of_one_disk_share_its_room(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "disk_free", lambda path: 100)
    parts = [("--output", Path("out"), 60), ("work_dir", Path("work/below"), 40)]
    check_room(parts, "take less")
    with pytest.raises(InputError) as caught:
        check_room([*parts, ("cache", Path("x"), 1_000_000)], "take less")
    said = "--output out, work_dir work/below, cache x: 1.00 MB needed there, 0.00 MB free; take less"
    assert str(caught.value) == said
