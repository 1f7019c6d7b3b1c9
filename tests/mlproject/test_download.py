"""Downloads from a bucket that a thread of the test serves."""

import base64
import hashlib
import http.server
import json
import threading
from urllib.parse import parse_qs, unquote, urlparse

import google_crc32c
import numpy as np
import pytest

from mlproject import download
from mlproject.errors import InputError

PREFIX = "models/enformer/sonnet_weights/"
FILES = {
    "checkpoint": b'model_checkpoint_path: "enformer-1"\n',
    "enformer-1.data-00000-of-00001": np.random.default_rng(0).bytes(10_000),
    "enformer-1.index": b"index",
    "empty": b"",
}
DATA = "enformer-1.data-00000-of-00001"


class Bucket(http.server.ThreadingHTTPServer):
    """What the public JSON API answers for FILES; tests change how it fails."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.listed = [describe(name, content) for name, content in FILES.items()]
        self.ranges = True
        self.cut: int | None = None  # bytes after which a connection is closed
        self.asked: list[tuple[str, str | None]] = []  # file and Range
        self.busy: list[int] = []  # what the next answers are, before it answers again
        self.requests = 0


def describe(name, content):
    """One item of the listing; sizes are words there."""
    return {
        "name": PREFIX + name,
        "size": str(len(content)),
        "generation": "1234",
        "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        "crc32c": base64.b64encode(google_crc32c.Checksum(content).digest()).decode(),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    server: Bucket

    def do_GET(self):
        self.server.requests += 1
        if self.server.busy:
            self.answer(self.server.busy.pop(0), b"", {"Retry-After": 3600})
            return
        address = urlparse(self.path)
        query = {name: words[0] for name, words in parse_qs(address.query).items()}
        _, _, name = address.path.partition("/storage/v1/b/dm-enformer/o")
        if not name:
            self.list(query)
        else:
            assert query == {"alt": "media", "generation": "1234"}
            self.send_file(unquote(name[1:]).removeprefix(PREFIX))

    def list(self, query):
        """Two pages, as for a bucket of many files."""
        assert query["prefix"] == PREFIX
        first = {"items": self.server.listed[:1], "nextPageToken": "more"}
        rest = {"items": [{**describe("", b""), "name": PREFIX}, *self.server.listed[1:]]}
        self.answer(200, json.dumps(rest if "pageToken" in query else first).encode(), {})

    def send_file(self, name):
        asked = self.headers.get("Range")
        self.server.asked.append((name, asked))
        content = self.server.files[name]
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            described = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self.answer(206, content[start:], described)
        else:
            self.answer(200, content, {})

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(monkeypatch):
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(download, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(download, "_PAUSE", 0.0)
        monkeypatch.setattr(download, "_PIECE", 100)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()
        thread.join()


def contents(folder):
    """The files of a folder, without what says that it is whole."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "whole"}


def test_the_whole(bucket, tmp_path, capsys):
    assert download.fetch_published(tmp_path / "new" / "published") == tmp_path / "new" / "published"
    assert contents(tmp_path / "new" / "published") == FILES
    assert f"published: fetching 0 MB from gs://dm-enformer/{PREFIX}" in capsys.readouterr().out
    assert download.is_whole(tmp_path / "new" / "published")
    before = bucket.requests
    assert download.fetch_published(tmp_path / "new" / "published") == tmp_path / "new" / "published"
    assert bucket.requests == before and not capsys.readouterr().out


def test_a_folder_is_whole_when_the_last_file_is_there(bucket, tmp_path):
    whole, send = [], Handler.send_file

    def ask_and_send(handler, name):
        whole.append(download.is_whole(tmp_path))
        send(handler, name)

    assert not download.is_whole(tmp_path) and not download.is_whole(tmp_path / "absent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "send_file", ask_and_send)
        download.fetch_published(tmp_path)
    assert len(whole) == 3 and not any(whole) and download.is_whole(tmp_path)  # nobody asks for an empty file


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / DATA).unlink(),
        lambda folder: (folder / DATA).write_bytes(FILES[DATA][:-1]),
        lambda folder: (folder / "enformer-1.index").unlink(),
        lambda folder: (folder / "whole").unlink(),
        lambda folder: (folder / "whole").write_bytes(b"\xff"),
        lambda folder: (folder / "whole").write_text(""),
        lambda folder: (folder / "whole").write_text("many checkpoint\n"),
    ],
)
def test_what_is_no_longer_whole_is_fetched_again(bucket, tmp_path, damage):
    download.fetch_published(tmp_path)
    damage(tmp_path)
    assert not download.is_whole(tmp_path)
    download.fetch_published(tmp_path)
    assert download.is_whole(tmp_path) and contents(tmp_path) == FILES


def test_files_that_others_have_put_there_are_checked(bucket, tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if name != DATA else content[:-1] + b"?")
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES and {name for name, _ in bucket.asked} == {DATA}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(bucket, tmp_path, status):
    bucket.busy = [status] * 4  # of the listing
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES


def test_a_server_that_is_busy_with_a_file_is_asked_again(bucket, tmp_path, monkeypatch):
    send, left = Handler.send_file, [503, 429, 502, 504]

    def busy(handler, name):
        if name == DATA and left:
            handler.answer(left.pop(), b"", {})
        else:
            send(handler, name)

    monkeypatch.setattr(Handler, "send_file", busy)
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES and not left


def test_a_server_that_stays_busy_is_one_line(bucket, tmp_path):
    bucket.busy = [503] * 100
    said = r"^http://127[^\n]*: the published weights cannot be fetched \(503 Server Error[^\n]*\); `gsutil"
    with pytest.raises(InputError, match=said):
        download.fetch_published(tmp_path)
    assert bucket.requests == 5 and not contents(tmp_path)


def test_a_file_without_a_checksum_is_refused(bucket, tmp_path):
    for name in ("md5Hash", "crc32c"):
        bucket.listed[1].pop(name)
    said = rf"^http://127[^\n]*: the bucket lists {PREFIX}{DATA} with neither md5Hash nor crc32c, so [^\n]*`gsutil"
    with pytest.raises(InputError, match=said):
        download.fetch_published(tmp_path)
    assert not contents(tmp_path) and not download.is_whole(tmp_path)


def test_a_part_is_gone_on_with(bucket, tmp_path):
    (tmp_path / f"{DATA}.part").write_bytes(FILES[DATA][:4000])
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES
    assert (DATA, "bytes=4000-") in bucket.asked


def test_a_part_that_is_whole_is_only_checked(bucket, tmp_path):
    (tmp_path / f"{DATA}.part").write_bytes(FILES[DATA])
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES and DATA not in dict(bucket.asked)


def test_connections_that_are_cut(bucket, tmp_path):
    bucket.cut = 3000
    bucket.listed[0] = describe("checkpoint", FILES["checkpoint"])
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES
    starts = [asked for name, asked in bucket.asked if name == DATA]
    assert starts[0] is None and len(starts) == 4


def test_a_server_that_gives_up_leaves_the_part(bucket, tmp_path):
    bucket.files[DATA] = FILES[DATA][:3000]
    said = r"^http://127[^\n]*the published weights cannot be fetched \([^\n]* 3000 of 10000 bytes\); `gsutil"
    bucket.ranges = False
    with pytest.raises(InputError, match=said):
        download.fetch_published(tmp_path)
    assert contents(tmp_path)[f"{DATA}.part"] == FILES[DATA][:3000]
    bucket.files[DATA] = FILES[DATA]
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES


def test_a_server_that_ignores_the_range(bucket, tmp_path):
    bucket.ranges = False
    (tmp_path / f"{DATA}.part").write_bytes(b"something else")
    download.fetch_published(tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("kind", ["md5Hash", "crc32c", "size"])
def test_what_is_not_as_listed_is_removed(bucket, tmp_path, kind):
    content = FILES[DATA][:-1] + b"?" if kind != "size" else FILES[DATA] + b"more" * 100
    bucket.files[DATA] = content
    for item in bucket.listed:
        item.pop("md5Hash" if kind == "crc32c" else "crc32c")
    said = rf"{DATA}\.part: its {kind} is [^\n]* in the listing of the bucket; it is removed, and the same"
    with pytest.raises(InputError, match=said):
        download.fetch_published(tmp_path)
    assert contents(tmp_path) == {"checkpoint": FILES["checkpoint"]}


def test_a_listing_without_checkpoint(bucket, tmp_path):
    bucket.listed = bucket.listed[:1]
    with pytest.raises(InputError, match=r"lists no checkpoint \(\*\.index\) below models/enformer"):
        download.fetch_published(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_names_that_lead_elsewhere(bucket, tmp_path, name):
    bucket.listed[1]["name"] = PREFIX + name
    with pytest.raises(InputError, match="does not answer with a listing of files"):
        download.fetch_published(tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_file_that_is_gone(bucket, tmp_path):
    def gone(handler, name):
        handler.answer(404, b"", {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "send_file", gone)
        with pytest.raises(InputError, match=r"cannot be fetched \(404 Client Error"):
            download.fetch_published(tmp_path)


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said = r"^http://127\.0\.0\.1:9: the published weights cannot be fetched \([^\n]*refused\); `gsutil -m cp -r gs://"
    with pytest.raises(InputError, match=said) as caught:
        download.fetch_published(tmp_path)
    assert str(caught.value).endswith("name the folder with weights_dir or the variable ENFORMERBASELINE")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the published weights cannot be written"):
        download.fetch_published(tmp_path / "file" / "published")
