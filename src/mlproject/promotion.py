"""Aliases of a registered model that are of use here, and who makes them lead elsewhere."""

import getpass

CHAMPION, CHALLENGER = "champion", "challenger"


def who() -> str:
    """Who gives this command, for the history of a registered model."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return "unknown"
