"""The scoring server as an ASGI application: what MLflow's own answers, and refuses what that one trips over.

It takes the requests of `mlflow.pyfunc.scoring_server` and gives its predictions, by the same call of the model. It
does not pass them on to that application, which makes of every failure of a model a 400 with a stack trace, reads any
body whole and answers what it did not understand: see docs/serving.md.

    scope -> Guard -> one _Exchange a request -> requests.read -> batching.Scorer -> answers.predictions
"""

import asyncio
import dataclasses
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mlflow.exceptions import MlflowException

from mlproject.serving import answers, requests
from mlproject.serving.batching import Predict, Scorer
from mlproject.serving.requests import Asked, Refused, Schema, short

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_METHODS = {"/ping": "GET", "/health": "GET", "/version": "GET", "/invocations": "POST"}
_HEADERS = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_CLIENT_GONE = 499  # nginx's number for it; nobody gets it, the log has it
_MOST_DRAINED = (
    16  # times the limit of a body: read and thrown away, as clients read no answer before they have sent
)
_MOST_HELD = 8  # bodies of the largest size at once
_LARGE = 64 * 1024  # bytes of a body, and cells of an answer, that are read beside the loop
_MOST_MESSAGE = 400
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one worker takes."""

    max_body_bytes: int = 16 * 2**20
    max_rows: int = 1000
    timeout_seconds: float = 60.0
    batch_rows: int = 0
    """Most rows of several requests in one call of the model; 0: none are put together."""
    most_waiting: int = 128
    allowed_hosts: tuple[str, ...] = LOOPBACK
    """Names that a request may be addressed to, without port; * is any."""


@dataclasses.dataclass(frozen=True)
class Served:
    """A loaded model."""

    predict: Predict
    schema: Schema
    about: dict[str, Any]
    """What /version says."""


class _ClientGone(Exception):
    pass


def log_line(entry: dict[str, Any]) -> None:
    """Writes one line of JSON to standard error, in one piece among those of other workers."""
    sys.stderr.flush()
    os.write(2, answers.compact(entry) + b"\n")


class Guard:
    """The application.

    Args:
        load: makes the model ready to answer; called once, when the server starts.
        limits: of a request.
        log: takes what is said of each request.
    """

    def __init__(
        self, load: Callable[[], Served], limits: Limits, log: Callable[[dict[str, Any]], None] = log_line
    ) -> None:
        self._load, self.limits, self.log = load, limits, log
        self.hosts = {name.lower().strip("[]") for name in limits.allowed_hosts}
        self.held = 0  # bytes of bodies
        self._served: Served | None = None
        self._scorer: Scorer | None = None

    @property
    def served(self) -> Served:
        """The model."""
        assert self._served is not None, "no request comes before the start"
        return self._served

    @property
    def scorer(self) -> Scorer:
        """What calls the model."""
        assert self._scorer is not None
        return self._scorer

    def start(self) -> None:
        """Loads the model."""
        self._served = self._load()
        self._scorer = Scorer(
            self._served.predict,
            batch_rows=self.limits.batch_rows,
            most_waiting=self.limits.most_waiting,
        )

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection of ASGI: the server's own life, or a request."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await asyncio.to_thread(self.start)
        except Exception as error:
            self.log({"event": "the model cannot be loaded", "error": _line(str(error)), **_where(error)})
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        if self.scorer.busy:  # TensorFlow aborts where Python ends below it
            os._exit(0)


class _Exchange:
    """One request, its answer and the line in the log."""

    def __init__(self, guard: Guard, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._began = time.monotonic()
        self._ends = self._began + guard.limits.timeout_seconds
        self._id = uuid.uuid4().hex
        self._bytes_in = self._bytes_out = self._held = self._rows = 0

    async def run(self) -> None:
        failure: dict[str, Any] = {}
        headers: dict[str, str] = {}
        try:
            status, body = 200, await self._answer()
        except Refused as refused:
            status, headers, body = refused.status, refused.headers, _error(refused.message)
        except _ClientGone:
            status, body = _CLIENT_GONE, b""
        except MlflowException as error:
            status = 400 if error.get_http_status_code() < 500 else 500
            body = _error(_line(error.message) if status == 400 else self._failed())
            failure = _where(error) if status == 500 else {}
        except Exception as error:
            status, body, failure = 500, _error(self._failed()), _where(error)
        finally:
            self._guard.held -= self._held
        if status != _CLIENT_GONE:
            await self._reply(status, body, headers)
        path = self._scope["path"]
        self._guard.log(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
                + f".{time.time_ns() // 10**6 % 1000:03}Z",
                "id": self._id,
                "method": self._scope["method"][:20],
                "path": path if path in _METHODS else "other",  # it may hold anything
                "status": status,
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
                "rows": self._rows,
                "ms": round(1000 * (time.monotonic() - self._began), 1),
                **failure,
            }
        )

    async def _answer(self) -> bytes:
        headers: dict[bytes, bytes] = dict(self._scope["headers"])
        self._check_host(headers.get(b"host", b""))
        path, method = self._scope["path"], self._scope["method"]
        if path not in _METHODS:
            raise Refused(404, f"found no such path; there are {', '.join(_METHODS)}")
        if method != _METHODS[path] and not (method == "HEAD" and _METHODS[path] == "GET"):
            raise Refused(405, f"{path} takes {_METHODS[path]} only", allow=_METHODS[path])
        if path == "/version":
            return answers.compact(self._guard.served.about)
        if path != "/invocations":
            return answers.compact({"status": "ok"})
        if self._scope.get("query_string"):
            raise Refused(400, "query: found one; parameters go into params of a JSON body")
        media = requests.media_type(_text(headers, b"content-type"), _text(headers, b"content-encoding"))
        body = await self._body(headers)
        return await self._scored(media, body)

    def _check_host(self, host: bytes) -> None:
        """Against pages of others whose name leads here (DNS rebinding)."""
        name = host.decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if "*" not in self._guard.hosts and name not in self._guard.hosts:
            raise Refused(403, f"host: found {short(name)}, which --allowed_hosts does not name")

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        limit = self._guard.limits.max_body_bytes
        too_large = Refused(413, f"body: more than {limit} bytes; send its rows in several requests")
        length = headers.get(b"content-length", b"")
        if (
            length.isdigit()
            and int(length) > limit
            and headers.get(b"expect", b"").lower() == b"100-continue"
        ):
            raise too_large  # who says so sends nothing before it is told to
        parts: list[bytes] = []
        async for part in self._parts():
            if self._bytes_in <= limit:
                self._hold(len(part))
                parts.append(part)
            else:
                parts.clear()
            if self._bytes_in > _MOST_DRAINED * limit:
                break
        if self._bytes_in > limit:
            raise too_large
        return b"".join(parts)

    async def _parts(self) -> Any:
        """Pieces of the body as they come, not after the request's time is over."""
        more = True
        while more:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.001, self._ends - time.monotonic()))
            except (asyncio.TimeoutError, TimeoutError):
                raise Refused(408, "body: it did not arrive in time", connection="close") from None
            if message["type"] == "http.disconnect":
                raise _ClientGone
            part = message.get("body", b"")
            self._bytes_in += len(part)
            yield part
            more = message.get("more_body", False)

    def _hold(self, size: int) -> None:
        if self._guard.held + size > _MOST_HELD * self._guard.limits.max_body_bytes:
            raise Refused(503, "too much is being sent at once; ask again later", retry_after="1")
        self._held += size
        self._guard.held += size

    async def _scored(self, media: str, body: bytes) -> bytes:
        schema, limits = self._guard.served.schema, self._guard.limits
        if len(body) > _LARGE:
            asked = await asyncio.to_thread(requests.read, media, body, schema, limits.max_rows)
        else:
            asked = requests.read(media, body, schema, limits.max_rows)
        self._rows = len(asked.table)
        found = await self._waited(asked)
        if getattr(found, "size", _LARGE) < _LARGE // 16:
            return answers.predictions(found)
        return await asyncio.to_thread(answers.predictions, found)

    async def _waited(self, asked: Asked) -> Any:
        """What the model says, unless time is over or the client gone before."""
        scoring = asyncio.ensure_future(self._guard.scorer.score(asked))
        gone = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait(
                {scoring, gone},
                timeout=max(0.001, self._ends - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if scoring.done():
                return scoring.result()
            if gone.done():
                raise _ClientGone
            seconds = self._guard.limits.timeout_seconds
            raise Refused(504, f"no answer within {seconds:g} s; send fewer rows", retry_after="1")
        finally:
            for task in (scoring, gone):
                task.cancel()
            await asyncio.gather(scoring, gone, return_exceptions=True)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        body += b"\n"
        self._bytes_out = len(body)
        fields = [*_HEADERS, (b"content-length", b"%d" % len(body)), (b"x-request-id", self._id.encode())]
        if status == 413:  # of some bodies a part is still to come
            headers = {**headers, "connection": "close"}
        fields += [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        await self._send(
            {"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else body}
        )

    def _failed(self) -> str:
        return f"the model failed; the server's log says where, under id {self._id}"


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _line(message: str) -> str:
    """A message of the model or of MLflow as one line of a bounded length."""
    line = " ".join(message.split())
    return line if len(line) <= _MOST_MESSAGE else f"{line[:_MOST_MESSAGE]}…"


def _where(error: BaseException) -> dict[str, Any]:
    """Kind and place of a failure, for the log; its message may hold a sequence, so it is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    place = " < ".join(f"{os.path.basename(one.filename)}:{one.lineno} {one.name}" for one in frames[::-1])
    return {"failure": type(error).__name__, "at": place}
