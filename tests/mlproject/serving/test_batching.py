"""Requests that wait at the same time go through the model together, and each has its own rows back."""

import asyncio
import time

import numpy as np
import pandas as pd
import pytest

from mlproject.serving.batching import Scorer
from mlproject.serving.requests import Asked


class Model:
    """Answers two rows for each row, or fails for the word `bad`."""

    def __init__(self, **changed):
        self.sizes, self.changed = [], changed

    def __call__(self, table, params):
        self.sizes.append(len(table))
        time.sleep(0.01)
        if "bad" in set(table["word"]):
            raise ValueError("bad")
        answer = {"row": np.repeat(np.arange(len(table)), 2), "word": np.repeat(table["word"].to_numpy(), 2)}
        return pd.DataFrame({**answer, "param": params.get("x", 0)}).rename(columns=self.changed)


def asked(*words, **params):
    return Asked(pd.DataFrame({"word": list(words)}), params)


async def all_of(scorer, requests):
    return await asyncio.gather(*map(scorer.score, requests), return_exceptions=True)


def test_waiting_requests_are_one_call_and_get_their_rows():
    model = Model()
    scorer = Scorer(model, batch_rows=8, most_waiting=100)
    answers = asyncio.run(all_of(scorer, [asked("a"), asked("b", "c"), asked("d"), asked("e")]))
    assert model.sizes == [1, 4]
    assert [answer["word"].tolist() for answer in answers] == [
        ["a"] * 2,
        ["b", "b", "c", "c"],
        ["d"] * 2,
        ["e"] * 2,
    ]
    assert [answer["row"].tolist() for answer in answers] == [[0, 0], [0, 0, 1, 1], [0, 0], [0, 0]]
    assert [answer.index.tolist() for answer in answers] == [[0, 1], [0, 1, 2, 3], [0, 1], [0, 1]]


def test_other_parameters_and_full_batches_are_calls_of_their_own():
    model = Model()
    scorer = Scorer(model, batch_rows=3, most_waiting=100)
    requests = [asked("first"), asked("a"), asked("b", x=1), asked("c", "d"), asked("e", x=1), asked("f")]
    answers = asyncio.run(all_of(scorer, requests))
    assert model.sizes == [1, 3, 2, 1]
    assert [set(answer["word"]) for answer in answers] == [set(request.table["word"]) for request in requests]
    assert [set(answer["param"]) for answer in answers] == [{0}, {0}, {1}, {0}, {1}, {0}]


def test_a_mistake_in_one_request_is_not_the_others():
    scorer = Scorer(Model(), batch_rows=8, most_waiting=100)
    answers = asyncio.run(all_of(scorer, [asked("a"), asked("b"), asked("bad"), asked("c")]))
    assert [isinstance(answer, ValueError) for answer in answers] == [False, False, True, False]
    assert answers[3]["word"].tolist() == ["c", "c"]


@pytest.mark.parametrize("batch_rows, changed", [(0, {}), (8, {"row": "other"})])
def test_without_a_column_that_says_whose_a_row_is_each_request_is_a_call(batch_rows, changed):
    model = Model(**changed)
    scorer = Scorer(model, batch_rows=batch_rows, most_waiting=100)
    for _ in range(2):
        answers = asyncio.run(all_of(scorer, [asked("a"), asked("b"), asked("c")]))
        assert [set(answer["word"]) for answer in answers] == [{"a"}, {"b"}, {"c"}]
    assert model.sizes.count(1) == 6 and model.sizes.count(2) == (1 if changed else 0)


def test_an_answer_is_the_same_whatever_it_was_computed_with(letters):
    def predict(table, params):
        return letters.predict(table, params=params)

    requests = [
        Asked(pd.DataFrame({"sequence": ["ACGT" * number, "AAC"]}), {"share": True})
        for number in range(1, 20)
    ]
    together = asyncio.run(all_of(Scorer(predict, batch_rows=64, most_waiting=100), requests))
    for request, answer in zip(requests, together, strict=True):
        pd.testing.assert_frame_equal(answer, predict(*request))
