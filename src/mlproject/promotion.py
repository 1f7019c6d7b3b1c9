"""Which version of a registered model is the better one, and which an alias leads to."""

import getpass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mlproject import reporting
from mlproject.errors import InputError

CHAMPION, CHALLENGER = "champion", "challenger"


class Compared(NamedTuple):
    """What one version has over another, track by track on the same data."""

    challenger: int
    champion: int
    head: str
    data: str
    """Name and digest of what both were evaluated on."""
    difference: reporting.Difference
    """Pearson r of the challenger minus that of the champion; its interval is of tracks and says nothing of seeds."""
    table: pd.DataFrame
    """index, identifier, description, category, r_x (champion), r_y (challenger), difference."""

    def words(self) -> str:
        """The comparison in a sentence."""
        found = self.difference
        return (
            f"version {self.challenger} minus version {self.champion}: Pearson r {found.value:+.4f} "
            f"({found.low:+.4f} to {found.high:+.4f}), a mean over {found.tracks:,} tracks of {self.head} on "
            f"{self.data}, paired by track; the interval says nothing of other seeds"
        )


def compare(name: str, challenger: str, champion: str) -> Compared:
    """Compares two versions of a registered model on the tracks that both were evaluated on.

    Args:
        name: of the registered model.
        challenger: number or alias.
        champion: likewise.

    Raises:
        InputError: there is no such version, it is of no run with a table of tracks, or both were evaluated on other
            data or other splits.
    """
    from mlproject.tracking import reading, registered, studies  # takes seconds to import

    first, second = (registered.find_version(name, words) for words in (champion, challenger))
    if first["version"] == second["version"]:
        raise InputError(
            f"registered model {name!r}: {challenger} and {champion} are both version {first['version']}"
        )
    heads, data = [], []
    for row in (first, second):
        if not row["run_id"]:
            raise InputError(
                f"registered model {name!r}: version {row['version']} was made by no run; nothing is known of it"
            )
        heads.append(reading.list_tables(row["run_id"], "tracks_"))
        data.append(_evaluated_on(row["run_id"]))
    both = [head for head in heads[0] if head in heads[1]]
    if not both:
        raise InputError(
            f"registered model {name!r}: versions {first['version']} and {second['version']} have no table of tracks "
            f"in common; they have {', '.join(heads[0]) or 'none'} and {', '.join(heads[1]) or 'none'}"
        )
    if data[0] != data[1]:
        raise InputError(
            f"registered model {name!r}: version {first['version']} was evaluated on {data[0]}, version "
            f"{second['version']} on {data[1]}; only the same data can be compared"
        )
    tables = [studies.kept_table(row["run_id"], f"tracks_{both[0]}") for row in (first, second)]
    pairs = reporting.paired_tracks(*tables)
    scores = pairs.assign(seed=0, track=np.arange(len(pairs)))
    difference = reporting.paired_difference(scores, "r_y", "r_x")
    return Compared(second["version"], first["version"], both[0], data[0], difference, pairs)


def who() -> str:
    """Who gives this command, for the history of a registered model."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return "unknown"


def _evaluated_on(run_id: str) -> str:
    from mlproject.tracking import reading, studies

    row = reading.read_run(run_id)
    parent: dict[str, Any] = reading.read_run(row["parent"]) if row.get("parent") else row
    split = row.get("params.eval_split") or parent.get("params.eval_split") or "test"
    names = [f"{one.name}, digest {one.digest}" for one in studies.datasets_of(run_id)]
    return f"the {split} split of {'; '.join(names) or 'unknown data'}"
