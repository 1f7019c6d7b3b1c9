"""Requests that nobody would think of: none makes the server fail, and each refusal is one line of JSON."""

import asyncio
import json
from collections import Counter

import hypothesis
from hypothesis import strategies as st

from asking import post

ROUNDS, IN_A_ROUND = 500, 11
NAMES = st.sampled_from(["sequence", "start", "weight", "letters", "row", ""]) | st.text(max_size=8)
DNA = st.text("ACGTNacgtn", max_size=40)
NUMBERS = st.integers() | st.floats() | st.integers(-(10**400), 10**400)
CELLS = st.none() | st.booleans() | NUMBERS | DNA | st.text(max_size=20)
ANY = st.recursive(
    CELLS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
RIGHT = {"sequence": DNA, "start": st.integers(-9, 9), "weight": st.floats(allow_nan=False)}
ROWS = st.fixed_dictionaries({"sequence": DNA}, optional={name: RIGHT[name] for name in ("start", "weight")})
COLUMNS = st.dictionaries(NAMES, st.lists(CELLS, max_size=4) | CELLS, max_size=3)
SPLIT = st.fixed_dictionaries(
    {
        "columns": st.lists(NAMES, max_size=3) | ANY,
        "data": st.lists(st.lists(CELLS, max_size=3), max_size=4) | ANY,
    },
    optional={"index": ANY, "more": ANY},
)
PARAMS = st.dictionaries(st.sampled_from(["letters", "share", "head"]) | NAMES, CELLS, max_size=3) | ANY
FORMS = st.one_of(
    st.fixed_dictionaries({"inputs": COLUMNS | st.lists(ROWS, max_size=4) | st.lists(DNA, max_size=4) | ANY}),
    st.fixed_dictionaries({"instances": st.lists(ROWS | COLUMNS, max_size=4) | ANY}),
    st.fixed_dictionaries(
        {"dataframe_records": st.lists(ROWS, max_size=4) | st.lists(COLUMNS, max_size=4) | ANY}
    ),
    st.fixed_dictionaries({"dataframe_split": SPLIT | ANY}),
    st.dictionaries(st.sampled_from(["inputs", "instances", "params"]) | NAMES, ANY, max_size=3),
)


def with_params(form, params):
    return {**form, "params": params} if isinstance(form, dict) else form


def changed(body, place, letters):
    place = place % (len(body) + 1)
    return body[:place] + letters + body[place + 1 :]


JSON = st.builds(
    lambda value: json.dumps(value).encode(), FORMS | st.builds(with_params, FORMS, PARAMS) | ANY
)
WELL = st.builds(
    lambda form, words, share: json.dumps(
        {form: [{"sequence": word} for word in words], "params": {"share": share}}
    ).encode(),
    st.sampled_from(["inputs", "instances", "dataframe_records"]),
    st.lists(st.text("ACGT", min_size=1, max_size=20), min_size=1, max_size=3),
    st.booleans(),
)
BODIES = st.one_of(
    WELL,
    st.builds(changed, WELL, st.integers(0, 100), st.binary(max_size=2)),
    JSON,
    st.builds(changed, JSON, st.integers(0, 500), st.binary(max_size=3)),
    st.binary(max_size=60),
    st.lists(st.lists(NAMES | DNA | st.text(max_size=5), max_size=3).map(",".join), max_size=4).map(
        lambda lines: "\n".join(lines).encode()
    ),
    st.lists(DNA, max_size=4).map(lambda words: "\n".join(["sequence", *words]).encode()),
)
KINDS = ["application/json"] * 12 + ["text/csv"] * 4 + ["text/csv; charset=x", "text/html", ""]
TYPES = (
    st.sampled_from(KINDS) | st.sampled_from(KINDS) | st.text(st.characters(max_codepoint=255), max_size=20)
)


def test_no_request_makes_the_server_fail(guard):
    seen = Counter()

    @hypothesis.settings(
        max_examples=ROUNDS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(st.tuples(BODIES, TYPES), min_size=IN_A_ROUND, max_size=IN_A_ROUND))
    def fuzz(requests):
        async def all_at_once():
            return await asyncio.gather(*(post(guard, body, kind) for body, kind in requests))

        for answer in asyncio.run(all_at_once()):
            seen[answer.status] += 1
            assert answer.status in (200, 400, 413, 415), answer
            assert answer.body.count(b"\n") == 1
            assert list(answer.json) == ["predictions" if answer.status == 200 else "error"]

    fuzz()
    assert seen.total() >= 5000 and all(seen[status] > 100 for status in (200, 400, 415)), seen
    assert guard.held == 0
    assert not [line for line in guard.lines if "failure" in line]
