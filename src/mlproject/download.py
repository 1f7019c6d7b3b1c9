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
from tqdm import tqdm

from mlproject.data.files import locked, sync
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
    call has left of it is gone on with. Two processes that want the same folder work one after the other.

    Raises:
        InputError: no network, a file that is not what the bucket lists, or a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder), requests.Session() as session:
            listed = list(_list(session))
            missing = [file for file in listed if not (folder / file.path).is_file()]
            if missing:
                size = sum(file.size for file in missing) / 1e6
                print(f"{folder}: fetching {size:.0f} MB from gs://{BUCKET}/{PREFIX}", flush=True)
            for file in missing:
                _fetch(session, file, folder / file.path)
    except requests.RequestException as error:  # which is an OSError too
        raise InputError(
            f"{ENDPOINT}: the published weights cannot be fetched ({_reason(error)}); {BY_HAND}"
        ) from error
    except OSError as error:
        raise InputError(f"{folder}: the published weights cannot be written ({error})") from error
    return next((folder / file.path).parent for file in listed if file.path.endswith(".index"))


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
    _check(file, part)
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


def _check(file: Listed, part: Path) -> None:
    """InputError, and the part is removed, where it is not what the bucket lists."""
    found: dict[str, Any] = {
        "md5Hash": hashlib.md5(usedforsecurity=False),
        "crc32c": google_crc32c.Checksum(),
    }
    size = 0
    with part.open("rb") as content:
        while piece := content.read(_PIECE):
            size += len(piece)
            for checksum in found.values():
                checksum.update(piece)
    pairs = {
        name: (base64.b64encode(found[name].digest()).decode(), file.checksums[name])
        for name in file.checksums
    }
    for name, (is_, listed) in {"size": (str(size), str(file.size)), **pairs}.items():
        if is_ != listed:
            part.unlink()
            raise InputError(
                f"{part}: its {name} is {is_}, and {listed} in the listing of the bucket; it is removed, and the same "
                "command fetches it again"
            )
