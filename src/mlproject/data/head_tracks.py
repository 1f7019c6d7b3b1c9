"""What the tracks of a head are, and which of them an option chooses."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from mlproject.data.targets import strand_order
from mlproject.errors import InputError
from mlproject.options import nearest


class Track(NamedTuple):
    """One track of a head."""

    position: int
    """Place in the head, from 0."""
    identifier: str
    description: str
    partner: int
    """Position of the track that is read on the other strand, its own where it has none."""


def of_head(
    head: str, count: int, targets: pd.DataFrame | None, rows: Sequence[Mapping[str, str]] | None
) -> list[Track]:
    """The tracks of a head of `count`, from the table that was given, or else from what the model knows.

    Raises:
      InputError: they are not as many.
    """
    known = of_rows(rows) if rows else unnamed(head, count)
    source = "the model's own table"
    if targets is not None:
        known, source = of_targets(targets), "--targets: the table"
    if len(known) != count:
        raise InputError(
            f"{source} has {len(known)} tracks, head {head} has {count}; give the table that it was trained on"
        )
    return known


def of_targets(targets: pd.DataFrame) -> list[Track]:
    """The tracks of a table that `read_targets` gives."""
    partners = strand_order(targets)
    return [
        Track(row, str(identifier), str(description), int(partner))
        for row, (identifier, description, partner) in enumerate(
            zip(targets["identifier"], targets["description"], partners, strict=True)
        )
    ]


def of_rows(rows: Sequence[Mapping[str, str]]) -> list[Track]:
    """The tracks of a model's rows of `targets.txt`, words by column; `strand_pair` is the index of another row."""
    positions = {row.get("index", str(at)): at for at, row in enumerate(rows)}
    return [
        Track(
            at,
            row.get("identifier", str(at)),
            row.get("description", ""),
            positions.get(row.get("strand_pair", ""), at),
        )
        for at, row in enumerate(rows)
    ]


def unnamed(head: str, count: int) -> list[Track]:
    """The tracks of a head of which nothing is known but their number."""
    return [Track(at, f"{head}_{at}", "", at) for at in range(count)]


def choose(words: str, tracks: Sequence[Track]) -> list[Track]:
    """The tracks that an option names, each once, in the order in which they are named.

    Args:
      words: comma list of whole numbers (positions from 0), ranges `3-7` (both ends included), identifiers, and
        patterns, with `*` and `?`, of whole identifiers or descriptions, whatever the case; nothing means all.
      tracks: those of the head.

    Raises:
      InputError: a word that names none, with what is nearest to it.
    """
    if not words.strip():
        return list(tracks)
    chosen: dict[int, Track] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        chosen.update((track.position, track) for track in _named(word, tracks))
    if not chosen:
        raise InputError(f"--tracks: found {words!r}; it names no track")
    return list(chosen.values())


def _named(word: str, tracks: Sequence[Track]) -> Sequence[Track]:
    last = len(tracks) - 1
    if found := re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word):
        first = int(found[1])
        end = int(found[2] or first)
        if end < first:
            raise InputError(f"--tracks: found {word!r}; a range goes from the lower to the higher index")
        if end > last:
            raise InputError(f"--tracks: found {word!r}; the head has tracks 0 to {last}")
        return tracks[first : end + 1]
    matches = [track for track in tracks if track.identifier == word]
    if not matches:
        # of the rules of fnmatch, brackets are none here: descriptions have them
        pattern = re.compile(fnmatch.translate(word.lower().replace("[", "[[]")))
        matches = [
            track
            for track in tracks
            if pattern.match(track.identifier.lower()) or pattern.match(track.description.lower())
        ]
    if not matches:
        raise InputError(
            f"--tracks: found {word!r}, which is none of {len(tracks)} tracks; expected an index from 0 to {last}, "
            f"a range such as 0-{min(last, 3)}, an identifier, or a pattern such as *{word.strip('*')}*"
            f"{_nearest(word.replace('*', '').replace('?', ''), tracks)}"
        )
    return matches


def _nearest(word: str, tracks: Sequence[Track]) -> str:
    """`; did you mean X?` for the identifier or description most like it; or an example of what there is."""
    lower = {text.lower(): text for track in tracks for text in (track.description, track.identifier) if text}
    found = nearest(word.lower(), list(lower))
    if not found:
        part = [text for text in lower if word and word.lower() in text]
        example = lower[part[0]] if part else tracks[0].identifier
        return f"; there is {example!r}"
    close = found.removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {lower[close]!r}?"
