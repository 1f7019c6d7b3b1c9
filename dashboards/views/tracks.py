"""Tracks: how well each is predicted by two runs."""

import chosen
import pandas as pd
import remembered
import shown
import streamlit as st

from mlproject import reporting

VIEWS = ("Track by track", "Distribution", "List")


def show() -> None:
    """The page, below its title."""
    runs = remembered.list_tracked()
    if runs.empty:
        st.info("No run of this store has a table of tracks yet: `ablation` and `train_head` make them.")
        return
    options = chosen.run_names(runs)
    left, right = st.columns(2)
    with left:
        first = chosen.one("Run on the horizontal axis", "x", options)
    with right:
        second = chosen.one("Run on the vertical axis", "y", options, default=1)
    organism = _organism(runs, first, second)
    if organism is None:
        return
    pairs = remembered.pairs(first, second, organism)
    if pairs.empty:
        st.info("These two runs have no track in common.")
        return
    found = _search(pairs)
    labels = chosen.plain(options[first], 50), chosen.plain(options[second], 50)
    view = chosen.view("tracks_view", VIEWS)
    st.caption(f"{len(found):,} of {len(pairs):,} tracks")
    if found.empty:
        st.info("No track has all these words.")
    elif view == "Track by track":
        _scatter(found, labels)
    elif view == "Distribution":
        figure = reporting.track_distribution_plot(found, *labels)
        st.plotly_chart(figure, config=reporting.PLOTLY, alt="Pearson r by category in two runs")
        _summaries(found, labels)
    else:
        _list(found, labels)


def _organism(runs: pd.DataFrame, first: str, second: str) -> str | None:
    both = [name for name in remembered.organisms(first) if name in remembered.organisms(second)]
    if not both:
        st.info("These two runs have tables of different organisms, or none.")
        return None
    if len(both) == 1:
        return both[0]
    return chosen.one("Organism", "tracks_organism", {name: chosen.plain(name) for name in both})


def _search(pairs: pd.DataFrame) -> pd.DataFrame:
    left, right = st.columns(2)
    with left:
        words = st.text_input(
            "Search",
            key="tracks_words",
            bind="query-params",
            placeholder="identifier, description or category; all words must be there",
        )
    with right:
        categories = chosen.some("Categories", "categories", sorted(map(str, pairs["category"].unique())))
    return reporting.matching_tracks(pairs, words or "", categories)


def _scatter(found: pd.DataFrame, labels: tuple[str, str]) -> None:
    event = st.plotly_chart(
        reporting.track_scatter_plot(found, *labels),
        key="brush",
        on_select="rerun",
        selection_mode=("box", "lasso", "points"),
        config=reporting.PLOTLY,
        alt="Pearson r of each track in two runs",
    )
    rows = sorted({point["customdata"][0] for point in event.selection.points if "customdata" in point})
    rows = [row for row in rows if row < len(found)]
    if rows:
        st.subheader(f"{len(rows):,} tracks brushed")
        _list(found.iloc[rows], labels)
    else:
        st.caption("Draw a box or a lasso around points to list them; click twice to let them go.")


def _summaries(found: pd.DataFrame, labels: tuple[str, str]) -> None:
    for column, label in zip(("r_x", "r_y"), labels, strict=True):
        st.text(label)
        shown.table(reporting.category_summary(found.rename(columns={column: "pearson_r"})))


def _list(found: pd.DataFrame, labels: tuple[str, str]) -> None:
    st.text(f"r x: {labels[0]}")
    st.text(f"r y: {labels[1]}")
    shown.table(found.rename(columns={"r_x": "r x", "r_y": "r y"}))
