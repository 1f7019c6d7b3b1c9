"""Model cards: what they say, and that hostile words mean nothing to Markdown or YAML."""

import math

import pytest
import yaml

from mlproject.reporting import Evaluation, ModelCard, model_card
from mlproject.reporting.cards import escaped

HOSTILE = (
    "</td><script>alert(1)</script> | [x](javascript:1) `code` *b* \n# heading\n---\nlicense: mit \u202egpj"
)


def card(**changes):
    fields = {
        "name": "linear of a study",
        "what": "A head.",
        "run_id": "abc",
        "address": "runs:/abc/model",
        "chosen": "It is the best of 3.",
        "commands": [("From a shell", "python -m mlproject predict --weights runs:/abc")],
        "datasets": [("demo/human", "0123456789abcdef", "work/demo")],
        "evaluations": [
            Evaluation("Pearson r of a track, mean", 0.51234, 0.4, 0.6, "3 seeds, 8 tracks"),
            Evaluation("Pearson r of a track, mean", 0.25, n="4 tracks", category="CAGE"),
            Evaluation("loss", math.nan),
        ],
        "summary": ["It is good.", "It is not known how good."],
        "uses": ["Research."],
        "limits": ["3 seeds.", "Demo data."],
        "versions": [("mlproject", "0.2.0")],
        "repeat": "python -m mlproject train_head --seeds 1,2,3",
        "tags": ["genomics"],
    }
    return ModelCard(**(fields | changes))


def parts(text):
    """Front matter, and the lines below it."""
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_card_has_every_part():
    front, body = parts(model_card(card()))
    assert front["tags"] == ["genomics"] and "license" not in front
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "demo/human", "type": "demo/human", "revision": "0123456789abcdef"}
    assert [one["value"] for one in result["metrics"]] == [0.51234, 0.25]  # nor what is not a number
    assert result["metrics"][1]["name"] == "Pearson r of a track, mean: CAGE"
    assert {one["type"] for one in result["metrics"]} == {"pearsonr"}
    for words in (
        "| Pearson r of a track, mean | all | 0.5123 | 0.4000 to 0.6000 | 3 seeds, 8 tracks |",
        "| Pearson r of a track, mean | CAGE | 0.2500 | - | 4 tracks |",
        "| demo/human | 0123456789abcdef | work/demo |",
        "run `abc`, `runs:/abc/model`. It is the best of 3.",
        "```\npython -m mlproject predict --weights runs:/abc\n```",
        "- Demo data.",
        "It is good. It is not known how good.",
        "| mlproject | 0.2.0 |",
        "```\npython -m mlproject train_head --seeds 1,2,3\n```",
    ):
        assert words in body
    assert parts(model_card(card(license="apache-2.0")))[0]["license"] == "apache-2.0"


def test_what_is_not_known_is_said():
    front, body = parts(model_card(card(datasets=[], evaluations=[], limits=[], tags=[])))
    assert front == {"library_name": "tensorflow"}
    assert "Not recorded." in body and "No number is known." in body and "Nothing is known." in body


@pytest.mark.parametrize(
    "field", ["name", "what", "address", "chosen", "summary", "limits", "datasets", "versions"]
)
def test_hostile_words_are_words(field):
    given = {
        "summary": [HOSTILE],
        "limits": [HOSTILE],
        "datasets": [(HOSTILE,) * 3],
        "versions": [(HOSTILE,) * 2],
    }
    front, body = parts(model_card(card(**{field: given.get(field, HOSTILE)})))
    assert "license" not in front and "\u202e" not in body
    assert not [line for line in body.splitlines() if line.startswith(("# heading", "license", "---"))]
    if field != "address":  # which is code
        assert "<script" not in body and "[x](" not in body
    else:
        assert "`` </td>" in body
    cells = body.replace("\\|", "")
    assert {line.count("|") for line in cells.splitlines() if line.startswith("|")} <= {3, 4, 6}
    if field == "name":
        assert front["model-index"][0]["name"].startswith("</td><script>")


def test_hostile_commands_stay_in_their_block():
    body = parts(model_card(card(repeat="python\n```\n# out\n````\nx")))[1]
    assert body.rstrip().endswith("`````\npython\n```\n# out\n````\nx\n`````")


def test_markdown_means_nothing_in_escaped_words():
    assert escaped("a|b\nc") == "a\\|b c"
    assert escaped("<b>&") == "&lt;b&gt;&amp;"
    assert escaped("[x](y) `z` *q* _p_ #h ~s~ $m$ !i \\") == (
        "\\[x\\](y) \\`z\\` \\*q\\* \\_p\\_ \\#h \\~s\\~ \\$m\\$ \\!i \\\\"
    )
