"""Payloads and what was measured of them: a table of activities, their sequences, sites annotated on them.

A payload is known by its name with every `~` as `_`, since some programs that write FASTA replace it: `plain`.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlproject.data.constructs import Site, measurement
from mlproject.data.files import read_lines, read_rows
from mlproject.data.genome import Genome, Interval, name_some, read_bed
from mlproject.errors import InputError

NAME = "MenDel.Name"
GROUPS = ("groups", "group")
VALUES = ("foldchange", "activity")
ABSENT = ("", "na", "nan", "none")
SHORTEST_SEARCHED = 20  # bp: shorter sites are found anywhere by chance

_LOCUS = re.compile(r"(.+):([0-9,]{1,18})-([0-9,]{1,18})")
_NOT_A_BASE = re.compile("[^ACGTNRYSWKMBDHV]")
_NOT_ACGT = re.compile("[^ACGT]")
_OTHER_STRAND = str.maketrans("ACGT", "TGCA")


class Payload(NamedTuple):
    """A payload of the table: its name there, and the mean over its rows that have a value, NaN without any."""

    name: str
    group: str
    activity: float


class Activities(NamedTuple):
    """What the table says."""

    payloads: dict[str, Payload]  # by plain name, in the order of the table
    rows: int
    without_value: int  # of the rows


class Locus(NamedTuple):
    """What a payload takes the place of; with `reverse` the construct reads 5' to 3' on the reverse strand."""

    interval: Interval
    reverse: bool


def plain(name: str) -> str:
    """What a payload is known by."""
    return name.replace("~", "_")


def reverse_complement(letters: str) -> str:
    """The other strand of upper-case letters, read 5' to 3'."""
    return letters.translate(_OTHER_STRAND)[::-1]


def read_activities(path: str | os.PathLike, value_column: str, group_column: str = "") -> Activities:
    """The payloads of a table, the rows of each averaged; rows without a value are left out and counted.

    A row is without a value if `value_column`, `foldchange` or `activity`, as far as there are such columns, is
    empty, NA, NaN or none.

    Args:
      path: table with a column `MenDel.Name`.
      value_column: what is averaged.
      group_column: the column of groups; empty for `groups` or else `group`.

    Raises:
      InputError: a column is missing, a value is not a number or beyond float32, a name or group is empty, a payload
        is in two groups, or two names differ in `~` and `_` only; names the line.
    """
    rows = read_rows(path, "table", [NAME, value_column, *filter(None, [group_column])])
    header = rows[0][1]
    group_column = group_column or next((name for name in GROUPS if name in header), "")
    if not group_column:
        raise InputError(
            f"table {path}: has no column {' or '.join(GROUPS)}; it has {', '.join(header)}; "
            "name one of them with group_column."
        )
    numeric = dict.fromkeys([value_column, *(name for name in VALUES if name in header)])
    first: dict[str, tuple[int, str, str]] = {}  # line, name and group of each payload
    values: dict[str, list[float]] = {}
    without_value = 0
    for line, words in rows:
        where = f"table {path}, line {line}"
        name, group = words[NAME], words[group_column]
        for column, word in ((NAME, name), (group_column, group)):
            if not word:
                raise InputError(f"{where}: {column} is empty.")
        at, first_name, first_group = first.setdefault(plain(name), (line, name, group))
        if first_name != name:
            raise InputError(
                f"{where}: {name} differs from {first_name} of line {at} in ~ and _ only; write one of them."
            )
        if first_group != group:
            raise InputError(
                f"{where}: {group_column} of {name} is {group!r}, on line {at} it is {first_group!r}; "
                "expected one group for each payload."
            )
        own = values.setdefault(plain(name), [])
        absent = [column for column in numeric if words[column].lower() in ABSENT]
        measured = {
            column: measurement(words[column], where, column) for column in numeric if column not in absent
        }
        if absent:
            without_value += 1
        else:
            own.append(measured[value_column])
    payloads = {
        key: Payload(name, group, math.fsum(values[key]) / len(values[key]) if values[key] else math.nan)
        for key, (_, name, group) in first.items()
    }
    return Activities(payloads, len(rows), without_value)


def read_sequences(path: str | os.PathLike) -> tuple[dict[str, str], int]:
    """The sequences of a FASTA file by plain name, upper case; and how many letters became N.

    A name ends at the first blank. The letters of IUPAC for more than one base become N.

    Raises:
      InputError: not FASTA, a name twice, a record without sequence, or another letter; names the record.
    """
    pieces: dict[str, list[str]] = {}
    lines_of: dict[str, int] = {}
    record, position, ambiguous = "", 0, 0
    for line, text in read_lines(path, "payloads"):
        text = text.strip()
        where = f"payloads {path}, line {line}"
        if text.startswith(">"):
            record, position = next(iter(text[1:].split()), ""), 0
            if not record:
                raise InputError(f"{where}: a record without a name.")
            at = lines_of.setdefault(plain(record), line)
            if at != line:
                raise InputError(f"{where}: record {record} is there on line {at} already (~ counts as _).")
            pieces[plain(record)] = []
            continue
        if not record:
            raise InputError(
                f"{where}: is not FASTA: found {text[:20]!r}, expected a line that starts with '>'."
            )
        letters = text.upper()
        other = _NOT_A_BASE.search(letters)
        if other:
            raise InputError(
                f"{where}: record {record} has {text[other.start()]!r} at position {position + other.start()} "
                "(0-based), expected A, C, G, T, N or another letter of IUPAC for bases."
            )
        known, found = _NOT_ACGT.sub("N", letters), letters.count("N")
        ambiguous += known.count("N") - found
        position += len(letters)
        pieces[plain(record)].append(known)
    if not pieces:
        raise InputError(f"payloads {path}: holds no sequence (no line starts with '>').")
    for name, own in pieces.items():
        if not own:
            raise InputError(f"payloads {path}, line {lines_of[name]}: record {name} has no sequence.")
    return {name: "".join(own) for name, own in pieces.items()}, ambiguous


def read_sites(path: str | os.PathLike, sequences: Mapping[str, str]) -> dict[str, tuple[Site, ...]]:
    """The sites of a BED file by the plain name of their payload, ascending.

    Raises:
      InputError: a site has no name, is on no payload of `sequences` or leaves it; names the line.
    """
    lengths = {name: len(letters) for name, letters in sequences.items()}
    sites: dict[str, set[Site]] = {}
    for interval, name in read_bed(path, lengths, named=True, rename=plain):
        if ";" in name:
            raise InputError(
                f"bed {path}: the name {name!r} has a semicolon, which separates sites; leave it out."
            )
        sites.setdefault(interval.chrom, set()).add(Site(name, interval.start, interval.end))
    return {payload: _ascending(own) for payload, own in sites.items()}


def search_sites(
    sequences: Mapping[str, str], sites: Mapping[str, tuple[Site, ...]], payloads: Iterable[str]
) -> dict[str, tuple[Site, ...]]:
    """Where the sequences of annotated sites occur exactly, on either strand, in `payloads`, ascending.

    Sites of less than 20 bp or with N are not searched.

    Args:
      sequences: of all payloads, by plain name.
      sites: annotated sites by plain name.
      payloads: plain names of those to search.
    """
    patterns: set[tuple[str, str]] = set()
    for payload, own in sites.items():
        for name, start, end in own:
            letters = sequences[payload][start:end]
            if len(letters) >= SHORTEST_SEARCHED and "N" not in letters:
                patterns |= {(name, letters), (name, reverse_complement(letters))}
    found: dict[str, tuple[Site, ...]] = {}
    for payload in payloads:
        own_sites: set[Site] = set()
        for name, letters in patterns:
            start = sequences[payload].find(letters)
            while start >= 0:
                own_sites.add(Site(name, start, start + len(letters)))
                start = sequences[payload].find(letters, start + 1)
        if own_sites:
            found[payload] = _ascending(own_sites)
    return found


def read_locus(word: str, genome: Genome) -> Locus:
    """The locus `chrom:start-end`, 0-based and half-open; start > end is the reverse strand of end to start.

    Raises:
      InputError: not of that form, or not inside a chromosome of the genome.
    """
    match = _LOCUS.fullmatch(word.strip())
    digits = [part.replace(",", "") for part in match.groups()[1:]] if match else [""]
    if not match or not all(digits):
        raise InputError(f"locus is {word!r}, expected chrom:start-end, such as chr3:34732778-34772706.")
    chrom, (start, end) = match[1], sorted(map(int, digits))
    if chrom not in genome.lengths:
        raise InputError(
            f"locus {word}: reference {genome.path} has no chromosome {chrom}; it has {name_some(genome.lengths)}."
        )
    if end > genome.lengths[chrom]:
        raise InputError(
            f"locus {word}: is not inside {chrom} of reference {genome.path}, "
            f"which is {genome.lengths[chrom]} bp long."
        )
    return Locus(Interval(chrom, start, end), reverse=int(digits[0]) > int(digits[1]))


def read_flanks(genome: Genome, locus: Locus, length: int) -> tuple[str, str]:
    """`length` letters before and after the locus on its strand: A, C, G, T, N, and `.` off the chromosome."""
    chrom, start, end = locus.interval
    size = genome.lengths[chrom]

    def letters(first: int, last: int) -> str:
        inside = Interval(chrom, max(first, 0), min(last, size))
        known = _NOT_ACGT.sub("N", genome.letters(inside)) if inside.start < inside.end else ""
        return "." * (inside.start - first) + known + "." * (last - inside.end)

    before, after = letters(start - length, start), letters(end, end + length)
    return (reverse_complement(after), reverse_complement(before)) if locus.reverse else (before, after)


def _ascending(sites: Iterable[Site]) -> tuple[Site, ...]:
    return tuple(sorted(sites, key=lambda site: (site.start, site.end, site.name)))
