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
    """Place in the head, from 0: what the model knows it by."""
    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    """What people and files know it by: that of its table where the table has one, or else the position."""
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
    columns = (targets["identifier"], targets["description"], strand_order(targets))
    indices = _indices(targets["index"].tolist())
    return [
        Track(row, index, str(identifier), str(description), int(partner))
        for row, (index, identifier, description, partner) in enumerate(zip(indices, *columns, strict=True))
    ]


def of_rows(rows: Sequence[Mapping[str, str]]) -> list[Track]:
    """The tracks of a model's rows of `targets.txt`, words by column; `strand_pair` is the index of another row."""
    words = [row.get("index", str(at)) for at, row in enumerate(rows)]
    positions = {word: at for at, word in enumerate(words)}
    are_numbers = all(re.fullmatch("[0-9]{1,18}", word) for word in words)
    return [
        Track(
            at,
            index,
            row.get("identifier", str(at)),
            row.get("description", ""),
            positions.get(row.get("strand_pair", ""), at),
        )
        for at, (index, row) in enumerate(
            zip(_indices([int(word) if are_numbers else -1 for word in words]), rows, strict=True)
        )
    ]


def _indices(found: Sequence[int]) -> Sequence[int]:
    """The indices of a table; positions where two rows have the same one, or one is below 0."""
    return found if len(set(found)) == len(found) and min(found) >= 0 else range(len(found))


def unnamed(head: str, count: int) -> list[Track]:
    """The tracks of a head of which nothing is known but their number."""
    return [Track(at, at, f"{head}_{at}", "", at) for at in range(count)]


def index_text(tracks: Sequence[Track]) -> str:
    """The indices of tracks as `choose` reads them, in their order: `7,0-3`."""
    ranges: list[list[int]] = []
    for track in tracks:
        if ranges and track.index == ranges[-1][1] + 1:
            ranges[-1][1] = track.index
        else:
            ranges.append([track.index, track.index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def choose(words: str, tracks: Sequence[Track]) -> list[Track]:
    """The tracks that an option names, each once, in the order in which they are named.

    Args:
      words: one identifier or description; or a comma list of indices, ranges of them `3-7` (both ends included),
        identifiers, and patterns, with `*` and `?`, of whole identifiers or descriptions, whatever the case; nothing
        means all.
      tracks: those of the head.

    Raises:
      InputError: a word that names none, with what is nearest to it.
    """
    if not words.strip():
        return list(tracks)
    whole = words.strip().lower()
    if "," in whole and (named := [track for track in tracks if whole in _names(track)]):
        return named
    chosen: dict[int, Track] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        chosen.update((track.position, track) for track in _named(word, tracks))
    if not chosen:
        raise InputError(f"--tracks: found {words!r}; it names no track")
    return list(chosen.values())


def _names(track: Track) -> tuple[str, str]:
    return track.identifier.lower(), track.description.lower()


def _named(word: str, tracks: Sequence[Track]) -> Sequence[Track]:
    if found := re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", word):
        return _between(word, int(found[1]), int(found[2] or found[1]), tracks)
    matches = [track for track in tracks if track.identifier == word]
    if not matches:
        # of the rules of fnmatch, brackets are none here: descriptions have them
        pattern = re.compile(fnmatch.translate(word.lower().replace("[", "[[]")))
        matches = [track for track in tracks if any(map(pattern.match, _names(track)))]
    if not matches:
        low, high = ends(tracks)
        raise InputError(
            f"--tracks: found {word!r}, which is none of {len(tracks)} tracks; expected an index from {low} to {high}, "
            f"a range such as {low}-{min(high, low + 3)}, an identifier, or a pattern such as *{word.strip('*')}*"
            f"{_nearest(word.replace('*', '').replace('?', ''), tracks)}"
        )
    return matches


def _between(word: str, first: int, last: int, tracks: Sequence[Track]) -> list[Track]:
    """The tracks whose indices are in a range with both ends, in their order."""
    low, high = ends(tracks)
    if last < first:
        raise InputError(f"--tracks: found {word!r}; a range goes from the lower to the higher index")
    matches = [track for track in tracks if first <= track.index <= last]
    if first < low or last > high or not matches:
        gaps = "" if high - low + 1 == len(tracks) else ", with gaps"
        raise InputError(f"--tracks: found {word!r}; the head has the indices {low} to {high}{gaps}")
    return sorted(matches, key=lambda track: track.index)


def ends(tracks: Sequence[Track]) -> tuple[int, int]:
    """The lowest and the highest index."""
    indices = [track.index for track in tracks]
    return min(indices), max(indices)


def _nearest(word: str, tracks: Sequence[Track]) -> str:
    """`; did you mean X?` for the identifier or description most like it; or an example of what there is.

    It is written as it can be typed, with `?` for each comma.
    """
    lower = {text.lower(): text for track in tracks for text in (track.description, track.identifier) if text}
    found = nearest(word.lower(), list(lower))
    if found:
        text = lower[found.removeprefix("; did you mean ").removesuffix("?")]
    else:
        part = [text for text in lower if word and word.lower() in text]
        text = lower[part[0]] if part else tracks[0].identifier
    typed = repr(text.replace(",", "?")) + (" (? for each comma)" if "," in text else "")
    return f"; did you mean {typed}?" if found else f"; there is {typed}"
