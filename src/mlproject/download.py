"""The published Sonnet checkpoint from its public bucket: a progress bar, checksums, and going on where it was cut."""

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import google_crc32c
import requests
from requests.adapters import HTTPAdapter, Retry
from tqdm import tqdm

from mlproject.data.files import locked, sync, write_whole
from mlproject.errors import InputError

ENDPOINT = "https://storage.googleapis.com"
BUCKET = "dm-enformer"
PREFIX = "models/enformer/sonnet_weights/"
BY_HAND = (
    f"`gsutil -m cp -r gs://{BUCKET}/{PREFIX.rstrip('/')} FOLDER` fetches them where there is a network; then name "
    "the folder with weights_dir or the variable ENFORMERBASELINE"
)
_CHECKSUMS = ("md5Hash", "crc32c")
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
_PAUSE = 1.0  # seconds, and that much longer each time
_TRIES = 5  # that get no further
_BUSY = (429, 500, 502, 503, 504)  # what a server answers that may know better a little later
_WHOLE = "whole"  # the size and path of every file, a line each; written last
_PIECE = 1 << 20
_CUT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Listed(NamedTuple):
    """A file of the bucket."""

    name: str
    path: str  # below the folder of the checkpoint
    size: int
    generation: str  # which of its versions
    checksums: dict[str, str]  # by kind, in base64


def fetch_published(folder: Path) -> Path:
    """The folder of the published checkpoint, `folder` or one in it; files that are missing are downloaded.

    A file is `NAME.part` until it is whole and has the size and the checksums that the bucket lists. What an earlier
    call has left of it is gone on with; a file that is not as listed is fetched again. Two processes that want the same
    folder work one after the other. Of a folder that `is_whole` the bucket is not asked.

    Raises:
        InputError: no network, a file that is not what the bucket lists, or a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder), requests.Session() as session:
            if not is_whole(folder):
                _fetch_all(session, folder)
    except requests.RequestException as error:  # which is an OSError too
        raise InputError(
            f"{ENDPOINT}: the published weights cannot be fetched ({_reason(error)}); {BY_HAND}"
        ) from error
    except OSError as error:
        raise InputError(f"{folder}: the published weights cannot be written ({error})") from error
    return min(folder.rglob("*.index")).parent


def is_whole(folder: Path) -> bool:
    """Whether `fetch_published` has finished with this folder, and every file is there in its size."""
    try:
        lines = (folder / _WHOLE).read_text(encoding="utf-8").splitlines()
        sizes = {path: int(size) for size, _, path in (line.partition(" ") for line in lines)}
        there = all((folder / path).stat().st_size == size for path, size in sizes.items())
        return there and any(path.endswith(".index") for path in sizes)
    except (OSError, ValueError):
        return False


def _fetch_all(session: requests.Session, folder: Path) -> None:
    """Downloads what is missing, and says that nothing is."""
    retry = Retry(
        _TRIES - 1,
        connect=0,
        read=0,
        status_forcelist=_BUSY,
        backoff_factor=_PAUSE,
        respect_retry_after_header=False,  # which may ask for hours
        raise_on_status=False,
    )
    session.mount(ENDPOINT, HTTPAdapter(max_retries=retry))
    listed = list(_list(session))
    missing = [file for file in listed if _difference(file, folder / file.path)]
    if missing:
        size = sum(file.size for file in missing) / 1e6
        print(f"{folder}: fetching {size:.0f} MB from gs://{BUCKET}/{PREFIX}", flush=True)
    for file in missing:
        _fetch(session, file, folder / file.path)
    write_whole(folder / _WHOLE, "".join(f"{file.size} {file.path}\n" for file in listed))
    sync(folder)


def _reason(error: BaseException) -> str:
    """Why a request failed, in a few words: the innermost of the causes that libraries wrap in each other."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (str(error).splitlines() or [repr(error)])[0][:200]


def _list(session: requests.Session) -> Iterator[Listed]:
    """The files of the checkpoint, by the listing of the bucket; InputError where it lists no checkpoint."""
    page: dict[str, str] | None = {}
    found = False
    while page is not None:
        address = f"{ENDPOINT}/storage/v1/b/{BUCKET}/o"
        answer = session.get(address, params={"prefix": PREFIX, **page}, timeout=_TIMEOUT)
        answer.raise_for_status()
        try:
            document = answer.json()
            files = [_listed(item) for item in document.get("items", [])]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{address}: does not answer with a listing of files; {BY_HAND}") from error
        yield from (file for file in files if file.path and not file.path.endswith("/"))  # those are folders
        found = found or any(file.path.endswith(".index") for file in files)
        page = {"pageToken": document["nextPageToken"]} if "nextPageToken" in document else None
    if not found:
        raise InputError(f"{ENDPOINT}: the bucket {BUCKET} lists no checkpoint (*.index) below {PREFIX}")


def _listed(item: dict[str, Any]) -> Listed:
    path = item["name"].removeprefix(PREFIX)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path} is outside of the folder")
    checksums = {name: str(item[name]) for name in _CHECKSUMS if name in item}
    if not checksums and path and not path.endswith("/"):
        raise InputError(
            f"{ENDPOINT}: the bucket lists {item['name']} with neither {' nor '.join(_CHECKSUMS)}, so that nobody can "
            f"tell whether it is whole; {BY_HAND}"
        )
    return Listed(item["name"], path, int(item["size"]), str(item["generation"]), checksums)


def _fetch(session: requests.Session, file: Listed, target: Path) -> None:
    """Downloads one file; it has its name when it is whole and on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.touch()
    tries = 0
    with tqdm(total=file.size, desc=target.name, unit="B", unit_scale=True, disable=None) as bar:
        while (done := part.stat().st_size) < file.size:
            error: Exception = requests.ConnectionError(f"{file.path} ends at {done} of {file.size} bytes")
            try:
                _go_on(session, file, part, bar)
            except _CUT as found:
                error = found
            tries = 0 if part.stat().st_size > done else tries + 1
            if tries == _TRIES:
                raise error
            time.sleep(tries * _PAUSE)
    if different := _difference(file, part):
        part.unlink()
        raise InputError(
            f"{part}: {different} in the listing of the bucket; it is removed, and the same command fetches it again"
        )
    sync(part)
    os.replace(part, target)
    sync(target.parent)


def _go_on(session: requests.Session, file: Listed, part: Path, bar: tqdm) -> None:
    """Adds to the part of a file what it lacks, or as much of it as comes."""
    done = part.stat().st_size
    address = f"{ENDPOINT}/storage/v1/b/{BUCKET}/o/{quote(file.name, safe='')}"
    query = {"alt": "media", "generation": file.generation}
    range_ = {"Range": f"bytes={done}-"} if done else {}
    with session.get(address, params=query, headers=range_, timeout=_TIMEOUT, stream=True) as answer:
        answer.raise_for_status()
        if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(
            f"bytes {done}-"
        ):
            raise requests.ConnectionError(
                f"asked for bytes {done}-, got {answer.headers.get('Content-Range')}"
            )
        with part.open("ab" if answer.status_code == 206 else "wb") as target:
            for piece in answer.iter_content(_PIECE):
                target.write(piece)
                bar.update(target.tell() - bar.n)
                if bar.n > file.size:
                    return


def _difference(file: Listed, path: Path) -> str:
    """How a file differs from what the bucket lists, such as "its size is 3, and 5"; empty where it does not."""
    if not path.is_file():
        return "is not there, and it is"
    if (size := path.stat().st_size) != file.size:
        return f"its size is {size}, and {file.size}"
    found: dict[str, Any] = {
        "md5Hash": hashlib.md5(usedforsecurity=False),
        "crc32c": google_crc32c.Checksum(),
    }
    with path.open("rb") as content:
        while piece := content.read(_PIECE):
            for checksum in found.values():
                checksum.update(piece)
    for name, listed in file.checksums.items():
        if (is_ := base64.b64encode(found[name].digest()).decode()) != listed:
            return f"its {name} is {is_}, and {listed}"
    return ""
