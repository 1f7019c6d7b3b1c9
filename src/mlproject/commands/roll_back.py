"""Make an alias of a registered model lead where it led before."""

import dataclasses
from typing import TYPE_CHECKING

from mlproject.promotion import CHAMPION, who

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Undo the last promotion to an alias; the history of the registered model keeps both."""

    name: str = "enformer"
    """Registered model."""
    alias: str = CHAMPION
    """Alias that leads to the version before from now on."""
    experiment: str = "roll_back"
    """MLflow experiment."""


def check(options: Options) -> None:
    """Refuses what is not there.

    Raises:
        InputError: no such model or alias.
    """
    from mlproject.tracking import registered  # takes seconds to import

    registered.find_version(options.name, options.alias)


def run(options: Options, run: "Run") -> int:
    """Rolls back."""
    from mlproject.tracking import registered

    now, before = registered.roll_back(options.name, options.alias, who())
    run.tag({"rolled_back": f"models:/{options.name}/{now}", "alias": options.alias})
    print(f"{options.alias} leads to version {before} of {options.name} again; it led to version {now}")
    return 0
