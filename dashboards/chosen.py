"""What is chosen on a page, and stands in its address: whoever opens that sees the same.

Words of a store are shown as they are: Streamlit takes Markdown in most of its labels, but neither in the options of a
select box nor in `st.text` and `st.dataframe`.
"""

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from mlproject.reporting import unturned

_MOST = 80  # characters of a name in a list
_BETWEEN = re.compile(r"[\x00-\x1f\x7f\s]+")


def plain(words: object, most: int = _MOST) -> str:
    """One line of text, cut where it is long, that turns nothing round."""
    line = _BETWEEN.sub(" ", unturned(str(words))).strip()
    return line if len(line) <= most else f"{line[: most - 1]}…"


def one(label: str, key: str, options: Mapping[str, str], default: int = 0) -> str:
    """One of the options, chosen by name; what stands in the address is its key, as a name may be there twice.

    Args:
        label: of the select box.
        key: of the widget, and in the address.
        options: keys, which do not change while names may, and names; one or more.
        default: place of the option where the address has none.
    """
    asked = st.query_params.get(key)
    if key not in st.session_state or st.session_state[key] not in options:
        st.session_state[key] = asked if asked in options else list(options)[min(default, len(options) - 1)]
        if asked and asked not in options:
            st.warning("The address names something that is not there (any more); this is shown instead.")
    found = st.selectbox(
        label, list(options), key=key, format_func=lambda option: options[option], persist_state="session"
    )
    st.query_params[key] = found
    return found


def several(label: str, key: str, options: Mapping[str, str], default: Sequence[str], most: int) -> list[str]:
    """Some of the options, chosen by name, whose keys stand in the address; at most so many."""
    asked = [option for option in st.query_params.get_all(key) if option in options]
    before = [option for option in st.session_state.get(key, []) if option in options]
    st.session_state[key] = (before if key in st.session_state else asked)[:most] or list(default)[:most]
    found = st.multiselect(
        label,
        list(options),
        key=key,
        format_func=lambda option: options[option],
        max_selections=most,
        persist_state="session",
    )
    st.query_params[key] = found
    return found


def some(label: str, key: str, options: Sequence[str]) -> list[str]:
    """Some of the options; all where none is chosen."""
    found = st.multiselect(
        label, options, key=key, bind="query-params", placeholder="all", persist_state="session"
    )
    return found or list(options)


def run_names(runs: pd.DataFrame) -> dict[str, str]:
    """What runs are called in a list, by their ID: the name alone may be there many times.

    Args:
        runs: rows of `read_runs`.
    """
    return {
        row.run_id: f"{plain(row.name)}, {row.start_time:%Y-%m-%d %H:%M}, {row.run_id[:6]}"
        + ("" if row.status == "FINISHED" else f" ({row.status.lower()})")
        for row in runs.itertuples(index=False)
    }


def view(key: str, options: Sequence[str]) -> str:
    """The part of a page that is shown: what the others show is not read."""
    return st.segmented_control(
        "View",
        options,
        default=options[0],
        required=True,
        key=key,
        bind="query-params",
        label_visibility="collapsed",
    )
