"""Model cards in Markdown: what a model is, how good, how surely, and what it is not for."""

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mlproject.reporting import words
from mlproject.reporting.pages import Report


class Evaluation(NamedTuple):
    """One number that says how good a model is."""

    what: str
    """What is measured of what, such as `Pearson r of a track, mean`."""
    value: float
    low: float = math.nan
    high: float = math.nan
    """Ends of a 95% interval; NaN where none is known."""
    n: str = ""
    """How many values, and of what: `3 seeds, 8 tracks`."""
    category: str = ""
    """The part of the data that it is of; empty: all of it."""


class Told(NamedTuple):
    """What is told of a study: a page, its numbers, and what belongs in the card of its best model."""

    report: Report
    tables: dict[str, pd.DataFrame]
    """Frames by name."""
    best: str
    """ID of the run with the best model; empty where there is none."""
    chosen: str
    """How it was chosen."""
    evaluations: Sequence[Evaluation]
    limits: Sequence[str]


class ModelCard(NamedTuple):
    """What a card says. All of it is text: whatever stands in it is escaped."""

    name: str
    what: str
    """What the model is, in a sentence."""
    run_id: str
    address: str
    """Of the model, or of its checkpoint, in the store."""
    chosen: str
    """How it was chosen among others."""
    commands: Sequence[tuple[str, str]]
    """What for, and what a shell or Python takes."""
    datasets: Sequence[tuple[str, str, str]]
    """Name, digest and source of what it was trained on."""
    evaluations: Sequence[Evaluation]
    summary: Sequence[str]
    """What was learnt of the study."""
    uses: Sequence[str]
    limits: Sequence[str]
    versions: Sequence[tuple[str, str]]
    repeat: str
    """The command that repeats the study."""
    tags: Sequence[str] = ()
    license: str = ""
    """As Hugging Face names it; empty: not known."""


def model_card(card: ModelCard) -> str:
    """The card as Markdown with the front matter that Hugging Face's cards have."""
    return f"{_front_matter(card)}\n\n{card_text(card)}"


def card_text(card: ModelCard) -> str:
    """The card without its front matter, which a page that knows Markdown alone shows as words."""
    parts = [
        f"# {escaped(card.name)}",
        escaped(card.what),
        f"It is the model of run `{_plain(card.run_id)}`, {_code(card.address)}. {escaped(card.chosen)}",
        "## How to load it",
        *(f"{escaped(what)}:\n\n{_block(words)}" for what, words in card.commands),
        "## Training data",
        _table(("data", "digest", "source"), card.datasets) if card.datasets else "Not recorded.",
        "## Evaluation",
        *([" ".join(map(escaped, card.summary))] if card.summary else []),
        _evaluations(card.evaluations),
        "## Intended use",
        _list(card.uses),
        "## Limits",
        _list(card.limits),
        "## Versions",
        _table(("what", "version"), card.versions),
        "## To repeat it",
        _block(card.repeat),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Words in one line of Markdown that mean nothing to it: no markup, table cell, link or HTML."""
    text = _plain(text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", text)


def _plain(text: str) -> str:
    """One line, without characters that control a terminal or the direction of text."""
    text = " ".join(str(text).split())
    return "".join(one for one in text if unicodedata.category(one) not in ("Cc", "Cf", "Cs"))


def _code(text: str) -> str:
    text = _plain(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _block(text: str) -> str:
    """A block of code, whose fence is longer than any in the text."""
    lines = [
        "".join(one for one in line if unicodedata.category(one) not in ("Cc", "Cf", "Cs"))
        for line in text.splitlines()
    ]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return "\n".join([fence, *lines, fence])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines) or "Nothing is known."


def _evaluations(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "No number is known."
    rows = [
        (one.what, one.category or "all", words.number(one.value, 4), words.interval(one.low, one.high, 4), one.n)
        for one in evaluations
    ]  # fmt: skip
    return _table(("number", "of", "value", "95% interval", "n"), rows)


def _front_matter(card: ModelCard) -> str:
    """YAML whose words are written as JSON writes them, which YAML reads as the same."""
    lines = ["---", "library_name: tensorflow"]
    if card.license:
        lines.append(f"license: {_quoted(card.license)}")
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in card.tags)] if card.tags else []
    known = [one for one in card.evaluations if math.isfinite(one.value)]
    if known:
        name, digest = (*card.datasets[0][:2],) if card.datasets else ("not recorded", "")
        lines += [
            "model-index:",
            f"- name: {_quoted(card.name)}",
            "  results:",
            "  - task:",
            "      type: regression",
            "    dataset:",
            f"      name: {_quoted(name)}",
            f"      type: {_quoted(name)}",
            *([f"      revision: {_quoted(digest)}"] if digest else []),
            "    metrics:",
        ]
        for one in known:
            lines += [
                f"    - type: {_type(one.what)}",
                f"      name: {_quoted(': '.join(filter(None, (one.what, one.category))))}",
                f"      value: {one.value:.6g}",
            ]
    return "\n".join([*lines, "---"])


def _type(what: str) -> str:
    return next((f"{name}r" for name in ("pearson", "spearman") if name in what.lower()), "other")


def _quoted(text: str) -> str:
    return json.dumps(_plain(text))
