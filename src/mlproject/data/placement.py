"""Payloads put in the place of a locus: constructs of one length, their folds, and the folder that keeps them.

constructs.tsv  a row per construct, see `constructs`
summary.json    what was counted on the way, and the options and inputs it was made from
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mlproject.data.constructs import FILE, Construct, Site, as_table
from mlproject.data.files import explained, new_folder
from mlproject.data.genome import Genome, name_some
from mlproject.data.payloads import (
    Payload,
    plain,
    read_activities,
    read_flanks,
    read_locus,
    read_sequences,
    read_sites,
    search_sites,
)
from mlproject.data.records import SUBSETS
from mlproject.data.similarity import assign_folds, clusters, leaks
from mlproject.errors import InputError
from mlproject.options import nearest

SUMMARY = "summary.json"
LONGEST = 2**20  # bp; the longest input of a published model is 393,216
FEWEST_FOLDS = 3  # of cross-validation: one to hold out, one to validate on, the rest to train on

SplitBy = Literal["group", "similarity", "construct"]
WithoutSequence = Literal["refuse", "drop"]


class Placed(NamedTuple):
    """A payload between its flanks: `[start, end)` of `sequence` is what is there of it."""

    sequence: str
    start: int
    end: int
    sites: tuple[Site, ...]
    outside: tuple[
        Site, ...
    ]  # those of the payload's sites that are not wholly in it, as they are on the payload
    trimmed_bp: int  # of the payload
    off_chromosome_bp: int  # of the flanks


class Inputs(NamedTuple):
    """What `check` found good: all that `build` needs."""

    final: Path
    constructs: list[Construct]
    payloads: list[str]  # of each construct, as far as it is in it
    summary: dict[str, Any]  # of `summary.json`, without the folds


def place(payload: str, sites: Sequence[Site], flanks: tuple[str, str], length: int) -> Placed:
    """The payload in the middle of `length` letters, between the flanks next to it; sites are shifted along.

    A shorter payload has the lesser half of the room on its left; a longer one is trimmed alike at both ends, the
    lesser half at its left. What a flank has not ('.') is N. A site that is not wholly inside is outside.
    """
    room = length - len(payload)
    left = int(room / 2)  # towards zero
    before, after = flanks
    sequence = (
        before[len(before) - max(left, 0) :]
        + payload[max(-left, 0) : length - left]
        + after[: max(room - left, 0)]
    )
    inside = [start + left >= 0 and end + left <= length for _, start, end in sites]
    return Placed(
        sequence.replace(".", "N"),
        max(left, 0),
        min(left + len(payload), length),
        tuple(
            Site(name, start + left, end + left)
            for (name, start, end), kept in zip(sites, inside, strict=True)
            if kept
        ),
        tuple(site for site, kept in zip(sites, inside, strict=True) if not kept),
        max(-room, 0),
        sequence.count("."),
    )


def check(
    output: str | os.PathLike,
    table: str | os.PathLike,
    payloads: str | os.PathLike,
    sites: str | os.PathLike | None,
    reference: str | os.PathLike,
    locus: str,
    *,
    length: int,
    value_column: str = "activity",
    group_column: str = "",
    split_by: SplitBy = "group",
    similarity: float = 0.3,
    fold_ratios: Sequence[str] = ("train=8", "valid=1", "test=1"),
    num_folds: int = 0,
    deletions: Sequence[str] = (),
    without_sequence: WithoutSequence = "refuse",
    find_sites: bool = True,
    seed: int = 0,
    work_dir: str | os.PathLike = "work",
) -> Inputs:
    """Read everything, put the payloads in place and give them folds.

    Nothing is written but the index and copy of the reference in `work_dir`.

    Args:
      output: folder of the constructs.
      table: see `payloads.read_activities`; so `value_column` and `group_column`.
      payloads: FASTA of the payloads.
      sites: BED of sites on payloads, or None.
      reference: FASTA in which the locus is.
      locus: what a payload takes the place of, `chrom:start-end`; start > end is the reverse strand.
      length: of a construct in bp, at most `LONGEST`.
      split_by: what is kept in one fold: groups, clusters of similar payloads, or only each construct itself.
      similarity: of a cluster, mean Jaccard similarity of 31-mers.
      fold_ratios: words such as train=8, with the names of `SUBSETS`.
      num_folds: `FEWEST_FOLDS` or more: as many folds of one size, named 0, 1, ..., instead.
      deletions: payloads that are the locus with nothing in its place.
      without_sequence: of payloads that are neither in the FASTA nor in `deletions`.
      find_sites: search the annotated sites in payloads on which the BED has none.
      seed: of the folds.
      work_dir: for the index of the reference.

    Raises:
      InputError: something in the inputs is wrong, or other constructs are in the way.
    """
    final = Path(output)
    if not final.name:
        raise InputError(f"output is {str(output)!r}, expected the folder of the constructs.")
    if not 1 <= length <= LONGEST:
        raise InputError(f"length is {length}, expected 1 to {LONGEST} bp, which is more than models take.")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more.")
    if not 0 < similarity <= 1:
        raise InputError(f"similarity is {similarity:g}, expected above 0 and at most 1.")
    if num_folds and num_folds < FEWEST_FOLDS:
        raise InputError(
            f"num_folds is {num_folds}, expected {FEWEST_FOLDS} or more (one to hold out, one to validate on, the rest "
            "to train on), or 0 for fold_ratios."
        )
    ratios = _ratios(fold_ratios)
    activities = read_activities(table, value_column, group_column)
    sequences, letters_made_n = read_sequences(payloads)
    deleted = _deletions(deletions, activities.payloads, sequences, table, payloads)
    measured = {key: one for key, one in activities.payloads.items() if not math.isnan(one.activity)}
    absent = [one.name for key, one in measured.items() if key not in sequences and key not in deleted]
    if absent and without_sequence == "refuse":
        raise InputError(
            f"table {table}: {name_some(absent)}: no sequence in {payloads}; add it, name it in deletions, "
            "or set without_sequence to drop."
        )
    built = {key: one for key, one in measured.items() if key in sequences or key in deleted}
    if not built:
        raise InputError(f"table {table}: no payload has both a value of {value_column} and a sequence.")
    given = read_sites(sites, sequences) if sites else {}
    unannotated = [key for key in built if key in sequences and key not in given]
    found = search_sites(sequences, given, unannotated) if find_sites else {}
    genome = Genome(reference, work_dir)
    room = length - min(len(sequences.get(key, "")) for key in built)  # that the shortest payload leaves
    flanks = read_flanks(genome, read_locus(locus, genome), max(room + 1, 0) // 2)
    genome.close()
    placed = {
        key: place(sequences.get(key, ""), given.get(key, found.get(key, ())), flanks, length)
        for key in built
    }
    of = _clusters(built, sequences, split_by, similarity)
    if num_folds > (most := len(set(of))):
        raise InputError(
            f"num_folds is {num_folds}, and the {len(built)} constructs are in {most} clusters (split_by {split_by}), "
            "which stay whole; ask for fewer folds, or split finer."
        )
    if num_folds:
        ratios = {str(fold): 1.0 for fold in range(num_folds)}
    constructs = [
        Construct(
            index, one.name, one.group, cluster, fold, one.activity, placed[key].sites, placed[key].sequence
        )
        for index, ((key, one), cluster, fold) in enumerate(
            zip(built.items(), of, assign_folds(of, ratios, seed), strict=True)
        )
    ]
    summary = {
        "constructs": len(constructs),
        "length": length,
        "rows": {"read": activities.rows, "without_value": activities.without_value},
        "payloads": {
            "in_table": len(activities.payloads),
            "without_value": [one.name for key, one in activities.payloads.items() if key not in measured],
            "without_sequence": absent,
            "deletions": [one.name for key, one in built.items() if key in deleted],
            "not_in_table": len(sequences.keys() - activities.payloads.keys()),
            "letters_made_n": letters_made_n,
        },
        "placed": _counted(list(placed.values())),
        "sites": {
            "given": sum(len(given.get(key, ())) for key in built),
            "found": sum(map(len, found.values())),
            "outside": [f"{built[key].name} {site}" for key, one in placed.items() for site in one.outside],
        },
        "options": {
            "locus": locus, "length": length, "value_column": value_column, "group_column": group_column,
            "split_by": split_by, "similarity": similarity, "fold_ratios": list(fold_ratios),
            "num_folds": num_folds, "deletions": sorted(deleted), "without_sequence": without_sequence,
            "find_sites": find_sites, "seed": seed,
        },
        "inputs": {  # sha256
            "table": _sha256(Path(table).read_bytes()),
            "payloads": _sha256(Path(payloads).read_bytes()),
            "sites": _sha256(Path(sites).read_bytes()) if sites else None,
            "reference": _sha256(" ".join(flanks).encode()),  # of what it is used for, the flanks
        },
        "sha256": _sha256(as_table(constructs).encode()),
    }  # fmt: skip
    with explained(f"output {output}: cannot be read"):
        if final.exists():
            _existing(final, summary)
    parts = [one.sequence[one.start : one.end] for one in placed.values()]
    return Inputs(final, constructs, parts, summary)


def build(inputs: Inputs) -> dict[str, Any]:
    """Write the folder, whole or not at all, or find that it is already there; the contents of `summary.json`.

    Raises:
      InputError: the output cannot be written, or other constructs are in the way.
    """
    final = inputs.final
    summary = inputs.summary | {"folds": _folds(inputs.constructs, inputs.payloads)}
    with explained(f"output {final}: cannot be written"), new_folder(final) as partial:
        if partial is None:
            _existing(final, summary)
        else:
            (partial / FILE).write_text(as_table(inputs.constructs), encoding="utf-8", newline="\n")
            (partial / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _ratios(words: Sequence[str]) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for word in words:
        name, _, ratio = word.partition("=")
        try:
            value = float(ratio)
        except ValueError:
            value = math.nan
        if name not in SUBSETS or name in ratios or not 0 <= value < math.inf:
            raise InputError(
                f"fold_ratios has {word!r}, expected each of {', '.join(SUBSETS)} at most once, "
                "such as train=8,valid=1,test=1."
            )
        ratios[name] = value
    if not any(ratios.values()):
        raise InputError("fold_ratios has no fold above 0, expected such as train=8,valid=1,test=1.")
    return ratios


def _deletions(
    names: Sequence[str],
    payloads: Mapping[str, Payload],
    sequences: Mapping[str, str],
    table: str | os.PathLike,
    fasta: str | os.PathLike,
) -> set[str]:
    for name in names:
        if plain(name) not in payloads:
            hint = nearest(name, [one.name for one in payloads.values()])
            raise InputError(f"deletions names {name}, which is not in table {table}{hint or '.'}")
        if plain(name) in sequences:
            raise InputError(
                f"deletions names {name}, which has a sequence in {fasta}; leave one of them out."
            )
    return {plain(name) for name in names}


def _counted(placed: Sequence[Placed]) -> dict[str, int]:
    flanks = [one.sequence[: one.start] + one.sequence[one.end :] for one in placed]
    return {
        "trimmed": sum(one.trimmed_bp > 0 for one in placed),
        "same_sequence": len(placed) - len({one.sequence for one in placed}),
        "flank_bp": sum(map(len, flanks)),
        "flank_n_bp": sum(letters.count("N") for letters in flanks),
        "off_chromosome_bp": sum(one.off_chromosome_bp for one in placed),
    }


def _clusters(
    built: Mapping[str, Payload], sequences: Mapping[str, str], split_by: SplitBy, similarity: float
) -> list[str]:
    """What is kept in one fold, for each construct; a cluster of similar ones has the name of its first."""
    if split_by == "group":
        return [one.group for one in built.values()]
    names = [one.name for one in built.values()]
    if split_by == "construct":
        return names
    found = clusters([sequences.get(key, "") for key in built], similarity)
    return [names[found.index(cluster)] for cluster in found]


def _folds(constructs: Sequence[Construct], parts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each fold holds, and how much of its payloads another fold knows."""
    of = [construct.fold for construct in constructs]
    shared = leaks(parts, of)
    folds = {}
    for fold in sorted(set(of), key=lambda fold: SUBSETS.index(fold) if fold in SUBSETS else int(fold)):
        rows = [row for row, own in enumerate(of) if own == fold]
        values = np.array([constructs[row].activity for row in rows])
        known = shared[rows][~np.isnan(shared[rows])]
        folds[fold] = {
            "constructs": len(rows),
            "clusters": len(Counter(constructs[row].cluster for row in rows)),
            "activity_mean": float(values.mean()),
            "activity_sd": float(values.std()),
            "shared_most": float(known.max()) if len(known) else 0.0,
            "shared_mean": float(known.mean()) if len(known) else 0.0,
        }
    return folds


def _existing(final: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a folder that is not what `summary` says."""
    try:
        there = json.loads((final / SUMMARY).read_text(encoding="utf-8"))
        made_with = {**there["options"], **there["inputs"]}
        sha256 = _sha256((final / FILE).read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{final}: exists and was not made by build_constructs; choose another output or remove it."
        ) from None
    wanted = summary["options"] | summary["inputs"]
    wrong = [name for name, value in wanted.items() if made_with.get(name) != value]
    if wrong:
        raise InputError(
            f"{final}: exists and was built with another {wrong[0]}; choose another output or remove it."
        )
    if sha256 != summary["sha256"]:
        raise InputError(
            f"{final}: its {FILE} is not what these options and inputs give; choose another output or remove it."
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
