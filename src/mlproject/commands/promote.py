"""Make an alias lead to another version of a registered model, if that is shown to be better."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from mlproject.comparing import Data, compare
from mlproject.errors import InputError
from mlproject.promotion import CHALLENGER, CHAMPION, who

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare a version with the one that an alias leads to, as `compare` does, and make the alias lead to it."""

    name: str = "enformer"
    """Registered model."""
    version: str = CHALLENGER
    """Number or alias of the version."""
    alias: str = CHAMPION
    """Alias that leads to it from now on."""
    force: bool = False
    """Promote it although it is not shown to be better, or cannot be compared."""
    data: str = ""
    """Dataset folder on which both predict anew. Empty: by what their runs have found of the same data."""
    split: Literal["train", "valid", "test"] = "valid"
    """Windows of `data`."""
    head: str = ""
    """Head of tracks, and organism of `data`. Empty: the first that both have."""
    batch_size: int = 4
    """Windows of `data` at once."""
    experiment: str = "promote"
    """MLflow experiment."""


def check(options: Options) -> None:
    """Refuses what is not there.

    Raises:
        InputError: one line that names the option and what there is.
    """
    from mlproject.tracking import registered, registry  # takes seconds to import

    registry.check_alias(options.alias)
    registered.find_version(options.name, options.version)


def run(options: Options, run: "Run") -> int:
    """Compares, and promotes what is better."""
    from mlproject.tracking import registered

    row = registered.find_version(options.name, options.version)
    leads_to = registered.list_aliases(options.name).get(options.alias)
    if leads_to == row["version"]:
        print(f"{options.alias} leads to version {row['version']} of {options.name} already")
        return 0
    if leads_to is not None:
        _compare(options, run, row["version"], leads_to)
        # both may have been moved while they were compared
        if registered.list_aliases(options.name).get(options.alias) != leads_to:
            raise InputError(
                f"--alias: {options.alias} led to version {leads_to} and leads elsewhere now; try again"
            )
    registered.promote(options.name, row["version"], options.alias, who())
    run.tag({"promoted": f"models:/{options.name}/{row['version']}", "alias": options.alias})
    left = (
        "it led nowhere before"
        if leads_to is None
        else f"it led to version {leads_to} before: `roll_back` undoes this"
    )
    print(f"{options.alias} leads to version {row['version']} of {options.name}; {left}")
    return 0


def _compare(options: Options, run: "Run", challenger: int, champion: int) -> None:
    """Keeps the comparison.

    Raises:
        InputError: the challenger is not shown to be better, or they cannot be compared; unless it is forced.
    """
    data = Data(options.data, options.split, options.batch_size) if options.data else None
    try:
        found = compare(options.name, str(challenger), str(champion), data, options.head)
    except InputError as error:
        if not options.force:
            raise InputError(f"{error}; --force true promotes it all the same") from None
        print(f"not compared: {error}")
        return
    found.keep(run)
    print(found.words())
    if not found.low > 0 and not options.force:
        raise InputError(
            f"--version {options.version}: is not shown to be better than {options.alias}: the interval is not "
            "above 0; --force true promotes it all the same"
        )
