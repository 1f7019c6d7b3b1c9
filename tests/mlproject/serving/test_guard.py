"""What the scoring server answers and refuses, request by request, in this process."""

import asyncio
import json
import math
import threading
import time

import mlflow.pyfunc.scoring_server as stock
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.exceptions import MlflowException

from asking import ask, post, request_of, sequences

FORMS = [
    {"inputs": {"sequence": ["ACGT", "aac"]}},
    {"inputs": [{"sequence": "ACGT"}, {"sequence": "aac"}]},
    {"instances": [{"sequence": "ACGT"}, {"sequence": "aac"}]},
    {"dataframe_records": [{"sequence": "ACGT"}, {"sequence": "aac"}]},
    {"dataframe_split": {"columns": ["sequence"], "data": [["ACGT"], ["aac"]]}},
    {"dataframe_split": {"columns": ["sequence"], "index": [7, 9], "data": [["ACGT"], ["aac"]]}},
]
DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD = {
    "not JSON": (b"ACGT", 400, "not JSON"),
    "half a JSON": (b'{"inputs": ', 400, "not JSON"),
    "empty": (b"", 400, "empty"),
    "not UTF-8": (b'{"inputs": "\xff"}', 400, "UTF-8"),
    "no object": ([1], 400, "found a list"),
    "null": (b"null", 400, "found null"),
    "no form": ({"params": {}}, 400, "no rows"),
    "two forms": ({"inputs": {}, "instances": []}, 400, "inputs and instances"),
    "unknown key": ({"inputs": {"sequence": ["A"]}, "extra": 1}, 400, "'extra'"),
    "key twice": (b'{"inputs": {"sequence": ["A"]}, "inputs": {"sequence": ["C"]}}', 400, "stands twice"),
    "NaN": (b'{"inputs": {"sequence": [NaN]}}', 400, "NaN"),
    "Infinity": (b'{"inputs": {"sequence": ["A"], "weight": [-Infinity]}}', 400, "-Infinity"),
    "infinite": (b'{"inputs": {"sequence": ["A"], "weight": [1e999]}}', 400, "weight"),
    "long number": (b'{"inputs": {"sequence": [' + b"1" * 5000 + b"]}}", 400, "too long"),
    "deep": (DEEP, 400, "deep"),
    # seconds, were each quote looked at as the beginning of a string that is closed
    "no end of a string": (b"[" + b"[]," * 9 + b'"' + b'\\"' * 250_000, 400, "not JSON"),
    "deeper than rows": ({"inputs": [[[["A"]]]]}, 400, "found a list"),
    "wrong column": ({"inputs": {"letters": ["A"]}}, 400, "'letters'"),
    "extra column": ({"inputs": {"sequence": ["A"], "y": [1]}}, 400, "'y'"),
    "no column": ({"inputs": {"start": [1]}}, 400, "column sequence: it is missing"),
    "columns of two sizes": ({"inputs": {"sequence": ["A", "C"], "start": [1]}}, 400, "different numbers"),
    "number for letters": (
        {"inputs": {"sequence": ["A", 5]}},
        400,
        "row 1, column sequence: found the number 5",
    ),
    "list for letters": ({"inputs": {"sequence": [["A"]]}}, 400, "row 0, column sequence: found a list"),
    "letters for a number": ({"inputs": {"sequence": ["A"], "start": ["x"]}}, 400, "row 0, column start"),
    "a fraction for a whole number": ({"inputs": {"sequence": ["A"], "start": [1.5]}}, 400, "column start"),
    "a large whole number": ({"inputs": {"sequence": ["A"], "start": [2**63]}}, 400, "column start"),
    "a gap": (
        {"inputs": {"sequence": ["A", "C"], "start": [1, None]}},
        400,
        "row 1, column start: found no value",
    ),
    "no letters": (sequences(""), 400, "row 0"),
    "other letters": (sequences("ACGT", "XYZ!"), 400, "row 1: no DNA"),
    "no rows": ({"inputs": {"sequence": []}}, 400, "no rows"),
    "rows of two sizes": ({"dataframe_split": {"columns": ["sequence"], "data": [["A"], []]}}, 400, "row 1"),
    "split without data": ({"dataframe_split": {"columns": ["sequence"]}}, 400, "data"),
    "split with more": ({"dataframe_split": {"columns": [], "data": [], "x": 1}}, 400, "'x'"),
    "column twice": ({"dataframe_split": {"columns": ["sequence"] * 2, "data": []}}, 400, "twice"),
    "unknown parameter": (sequences("A", track=3), 400, "'track'"),
    "wrong parameter": (sequences("A", letters=3), 400, "params: letters"),
    "parameters in a list": ({"inputs": {"sequence": ["A"]}, "params": [1]}, 400, "params: found a list"),
    "lone surrogate": (b'{"inputs": {"sequence": ["\\ud800"]}}', 400, "row 0"),
    "ten thousand rows": (sequences(*["A"] * 10_000), 413, "10000 rows; at most 1000"),
    "100 MB": (b"x" * 100_000_000, 413, "16777216"),
    "many lists": (b'{"inputs": [' + b"[]," * 100_000 + b"[]]}", 413, "rows"),
}


def run(awaitable):
    return asyncio.run(awaitable)


def check_refused(answer, status):
    """One JSON line that says why, and nothing of the server's inside."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.count(b"\n") == 1 and answer.body.endswith(b"\n") and len(answer.body) < 1000
    assert list(answer.json) == ["error"]
    assert "Traceback" not in answer.json["error"] and ".py" not in answer.json["error"]
    return answer.json["error"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: json.dumps(form)[:24])
def test_answers_are_those_of_mlflows_server(guard, letters, form):
    async def both():
        return await post(guard, form), await post(stock.init(letters), form)

    ours, theirs = run(both())
    assert ours.status == theirs.status == 200
    assert ours.json == theirs.json
    assert b" " not in ours.body


def test_csv_is_read_by_the_type_of_a_column(guard):
    """Letters such as NA stay letters, and 007 in a column of text does too."""
    answer = run(post(guard, b"sequence,start\r\nNA,7\n\nACGT,8\n", "text/csv; charset=UTF-8"))
    assert [row["count"] for row in answer.json["predictions"]] == [1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "body, message",
    [
        (b"sequence\nA,C\n", "row 0: found 2 values"),
        (b"letters\nA\n", "'letters'"),
        (b"sequence,sequence\nA,C\n", "twice"),
        (b"sequence,start\nA,x\n", "row 0, column start"),
        (b"sequence,start\nA,1e5\nC,\n", "column start"),
        (b'sequence\n"A', "not CSV"),
        (b"sequence\n", "no rows"),
        (b"sequence,weight\nA,1..5\n", "column weight"),
        (b"sequence,weight\nA,1e999\n", "column weight"),
    ],
)
def test_a_bad_csv_is_refused(guard, body, message):
    assert message in check_refused(run(post(guard, body, "text/csv")), 400)


def test_too_many_rows_of_csv(guard):
    assert "1000 rows" in check_refused(run(post(guard, b"sequence\n" + b"A\n" * 1001, "text/csv")), 413)


@pytest.mark.parametrize("body, status, message", BAD.values(), ids=list(BAD))
def test_a_bad_request_is_told_what_and_where(guard, body, status, message):
    began = time.monotonic()
    answer = run(post(guard, body))
    assert message in check_refused(answer, status)
    assert time.monotonic() - began < 5
    assert guard.held == 0


@pytest.mark.parametrize(
    "kind, headers",
    [
        (None, {}),
        ("", {}),
        ("text/plain", {}),
        ("application/vnd.apache.parquet", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json; x=1", {}),
        ("application/json", {"content-encoding": "gzip"}),
    ],
)
def test_other_content_types_are_refused(guard, kind, headers):
    check_refused(run(post(guard, sequences("A"), kind, headers=headers)), 415)


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/invocations/", 404),
        ("GET", "/invocations", 405),
        ("PUT", "/invocations", 405),
        ("POST", "/ping", 405),
    ],
)
def test_other_paths_and_methods(guard, method, path, status):
    answer = run(ask(guard, request_of(method, path)))
    check_refused(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


def test_a_query_is_refused(guard):
    scope = request_of("POST", "/invocations", {"content-type": "application/json"}, b"share=1")
    assert "query" in check_refused(run(ask(guard, scope, [b"{}"])), 400)


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_small_questions_have_an_answer_with_headers_that_browsers_obey(guard, path):
    answer = run(ask(guard, request_of("GET", path)))
    assert answer.status == 200 and answer.json
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert run(ask(guard, request_of("HEAD", path))).body == b""


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:5001", 200),
        ("127.0.0.1", 200),
        ("[::1]:5001", 200),
        ("LOCALHOST", 200),
        ("10.evil.com", 403),
        ("127.0.0.1.evil.com", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_answered_to(guard, host, status):
    assert run(ask(guard, request_of("GET", "/ping", {"host": host}))).status == status


def test_any_host_where_that_is_wanted(guard_of):
    guard = guard_of(allowed_hosts=("*",))
    assert run(ask(guard, request_of("GET", "/ping", {"host": "lab.example"}))).status == 200


def test_a_body_that_says_it_is_too_large_is_not_waited_for(guard):
    headers = {
        "content-type": "application/json",
        "content-length": str(10**8),
        "expect": "100-continue",
    }
    answer = run(ask(guard, request_of("POST", "/invocations", headers), []))
    check_refused(answer, 413)
    assert answer.headers["connection"] == "close"


def test_a_body_that_never_ends(guard_of):
    guard = guard_of(timeout_seconds=0.2)

    async def slow():
        async def receive():
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b" ", "more_body": True}

        sent = []

        async def send(message):
            sent.append(message)

        await guard(request_of("POST", "/invocations", {"content-type": "text/csv"}), receive, send)
        return sent[0]["status"]

    assert run(slow()) == 408
    assert guard.held == 0


def test_a_mistake_of_the_model_shows_nothing_of_it(guard):
    answer = run(post(guard, sequences("CRASH")))
    assert "log" in check_refused(answer, 500)
    (line,) = guard.lines
    assert line["failure"] == "ValueError" and "letters_model.py" in line["at"]
    assert "CRASH" not in json.dumps(line)


def test_what_mlflow_says_of_a_failure_inside_is_not_passed_on(guard_of):
    def fail(table, params):
        raise MlflowException("/home/secret: no")

    assert "secret" not in check_refused(run(post(guard_of(fail), sequences("A"))), 500)


def test_numbers_are_the_shortest_that_read_back_and_nan_is_null(guard_of):
    values = np.array([0.1, math.nan, 1e-30, math.inf], np.float32)
    guard = guard_of(lambda table, params: pd.DataFrame({"row": 0, "x": values, "y": [[0.5, math.nan]] * 4}))
    answer = run(post(guard, sequences("A")))
    assert [row["x"] for row in answer.json["predictions"]] == [0.1, None, 1e-30, None]
    assert answer.json["predictions"][0]["y"] == [0.5, None]


def test_the_log_has_a_line_for_each_request_and_no_sequence(guard):
    run(post(guard, sequences("ACGTACGT", "AA")))
    run(post(guard, sequences("GATTACA!")))
    run(ask(guard, request_of("GET", "/ACGTACGT")))
    first, second, third = guard.lines
    assert first["rows"] == 2 and first["status"] == 200 and first["ms"] > 0 and first["bytes_in"] > 0
    assert second["status"] == 400
    assert third["path"] == "other"
    assert "ACGT" not in json.dumps(guard.lines) and "GATTACA" not in json.dumps(guard.lines)
    assert len({line["id"] for line in guard.lines}) == 3


# --- time, and many at once -----------------------------------------------------------------------------------------


def test_work_that_goes_on_after_its_time_is_not_free(guard_of):
    """The next request waits for it, and those for whom there is no room are told to come again."""
    release = threading.Event()

    def predict(table, params):
        if table["sequence"][0] == "SLEEP":
            release.wait(10)
        return pd.DataFrame({"row": range(len(table))})

    guard = guard_of(predict, timeout_seconds=0.3, most_waiting=1)

    async def several():
        late = await post(guard, sequences("SLEEP"))
        busy = guard.scorer.busy
        waiting = asyncio.create_task(post(guard, sequences("A")))
        await asyncio.sleep(0.05)
        refused = await post(guard, sequences("C"))
        waited = await waiting
        release.set()
        while guard.scorer.busy:
            await asyncio.sleep(0.01)
        return late, busy, waited, refused, await post(guard, sequences("G"))

    late, busy, waited, refused, then = run(several())
    check_refused(late, 504)
    assert busy
    check_refused(waited, 504)
    check_refused(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert then.status == 200


@pytest.mark.parametrize("parts", [[b'{"inputs"'], None])
def test_a_client_that_goes_away(guard_of, parts):
    """While it sends, and while it waits: its turn is given up."""
    calls = []
    release = threading.Event()

    def predict(table, params):
        calls.append(table["sequence"][0])
        release.wait(5)
        return pd.DataFrame({"row": range(len(table))})

    guard = guard_of(predict)

    async def several():
        if parts:
            messages = [{"type": "http.request", "body": parts[0], "more_body": True}]

            async def receive():
                return messages.pop() if messages else {"type": "http.disconnect"}

            scope = request_of("POST", "/invocations", {"content-type": "application/json"})
            await guard(scope, receive, None)
            release.set()
            return
        first = asyncio.create_task(post(guard, sequences("A")))
        await asyncio.sleep(0.05)
        assert await post(guard, sequences("C"), gone_after=0.05) is None
        release.set()
        assert (await first).status == 200
        assert (await post(guard, sequences("G"))).status == 200

    run(several())
    assert 499 in [line["status"] for line in guard.lines]
    assert "C" not in calls
    assert guard.held == 0


def test_bodies_at_once_have_a_limit(guard_of):
    guard = guard_of(max_body_bytes=1000)
    guard.held = 7990
    check_refused(run(post(guard, sequences("A" * 100))), 503)
    assert guard.held == 7990


def test_concurrent_clients_get_their_own_answers(guard):
    words = ["A" * (1 + number % 7) + "C" * (1 + number % 5) for number in range(100)]

    async def all_at_once():
        return await asyncio.gather(*(post(guard, sequences(word)) for word in words))

    for word, answer in zip(words, run(all_at_once()), strict=True):
        counts = [row["count"] for row in answer.json["predictions"]]
        assert counts == [word.count(letter) for letter in "ACGT"]


def test_memory_stays_as_it_is(guard):
    process = psutil.Process()
    bodies = [sequences("ACGT" * 5000), sequences(*["ACGT"] * 200), b"x" * 2**20, DEEP]

    async def several(times):
        for number in range(times):
            await post(guard, bodies[number % len(bodies)])

    run(several(40))
    before = process.memory_info().rss
    run(several(400))
    assert process.memory_info().rss - before < 20e6
