"""Compare two versions of a registered model on the same data."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from mlproject.comparing import Data, compare
from mlproject.promotion import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Say by how much a version of a registered model is better than another, with an interval, and change nothing."""

    name: str = "enformer"
    """Registered model."""
    version: str = CHALLENGER
    """Number or alias of the version."""
    alias: str = CHAMPION
    """Number or alias of the one that it is compared with."""
    data: str = ""
    """Dataset folder on which both predict anew. Empty: by what their runs have found of the same data."""
    split: Literal["train", "valid", "test"] = "valid"
    """Windows of `data`."""
    head: str = ""
    """Head of tracks, and organism of `data`. Empty: the first that both have."""
    batch_size: int = 4
    """Windows of `data` at once."""
    experiment: str = "compare"
    """MLflow experiment."""


def check(options: Options) -> None:
    """Refuses what is not there.

    Raises:
        InputError: one line that names the option and what there is.
    """
    from mlproject.tracking import registered  # takes seconds to import

    for words in (options.version, options.alias):
        registered.find_version(options.name, words)


def run(options: Options, run: "Run") -> int:
    """Compares, and keeps the table and the numbers."""
    data = Data(options.data, options.split, options.batch_size)
    found = compare(
        options.name, options.version, options.alias, data if options.data else None, options.head
    )
    found.keep(run)
    print(found.words())
    return 0
