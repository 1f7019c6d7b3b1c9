import errno
import gzip
import zlib

import pytest

from mlproject.data.files import explained, read_lines, read_text, whole_number, write_whole
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
