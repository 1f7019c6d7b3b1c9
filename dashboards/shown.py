"""How things are shown on every page."""

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from mlproject.errors import InputError


def explained(show: Callable[..., None]) -> Callable[..., None]:
    """What draws a page or a part of it, with one line in its place where a user can mend what is wrong."""

    @functools.wraps(show)
    def shown(*arguments: Any) -> None:
        try:
            show(*arguments)
        except InputError as error:
            st.error("This cannot be shown:")
            st.text(str(error))

    return shown


def table(frame: pd.DataFrame, digits: str = "%.4f") -> None:
    """A table that can be sorted, searched and saved; numbers have so many digits."""
    numbers = [name for name in frame if frame[name].dtype.kind == "f"]
    st.dataframe(
        frame,
        hide_index=True,
        column_config={name: st.column_config.NumberColumn(format=digits) for name in numbers},
    )


def facts(rows: list[tuple[str, str]]) -> None:
    """Words beside what they are of."""
    st.dataframe(
        pd.DataFrame(rows, columns=["what", "words"]),
        hide_index=True,
        column_config={"what": st.column_config.TextColumn(width="small")},
    )
