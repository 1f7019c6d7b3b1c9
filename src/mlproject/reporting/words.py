"""Numbers and names as a page has them."""

import re

import numpy as np

# characters that turn round what stands after them
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def count(number: int, what: str) -> str:
    """How many of what: `1 seed`, `3 seeds`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def number(value: float, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """The ends of an interval, or a dash."""
    return "-" if np.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def estimate(value: float, low: float, high: float) -> str:
    """A number in a sentence, with its interval where that is known."""
    return f"{number(value)}" + ("" if np.isnan(low) else f" (95% interval {interval(low, high)})")


def signed(value: float, digits: int = 3) -> str:
    """A difference."""
    return "-" if np.isnan(value) else f"{value:+.{digits}f}"


def difference(value: float, low: float, high: float) -> str:
    """A difference in a sentence, with its interval where that is known."""
    return signed(value) + ("" if np.isnan(low) else f" (95% interval {interval(low, high)})")


def p_value(value: float) -> str:
    """Of a test."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def stands(low: float, high: float) -> bool:
    """Whether an interval leaves 0 out."""
    return bool(low > 0 or high < 0)


def unturned(text: str) -> str:
    """The text without marks of direction, with which a name could turn round what is said after it."""
    return _TURNING.sub("", text)
