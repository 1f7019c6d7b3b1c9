"""Search: a study of Optuna, as it goes."""

import chosen
import remembered
import shown
import streamlit as st

from mlproject import reporting

VIEWS = ("History", "Importance", "Parallel coordinates", "Slices", "Trials")
# what `reporting.search_plots` calls them
_FIGURES = {
    "History": "history",
    "Importance": "importance",
    "Parallel coordinates": "parallel_coordinates",
    "Slices": "slice",
}


def show() -> None:
    """The page, below its title."""
    listed = remembered.list_searches()
    if listed.empty:
        st.info(
            "No search is in this store yet: `mlflow run . -e search_head` makes one, on demo data without options."
        )
        return
    run_id = chosen.one("Search", "search", chosen.run_names(listed))
    _study(run_id, chosen.view("search_view", VIEWS))


@st.fragment(run_every=remembered.SECONDS)
@shown.explained
def _study(run_id: str, view: str) -> None:
    """The study as it stands; while it is under way, it is drawn again."""
    listed = remembered.list_searches()
    running = (listed.loc[listed["run_id"] == run_id, "status"] == "RUNNING").any()
    search = remembered.read_search(run_id, bool(running))
    st.text(reporting.unturned(" ".join(search.words)))
    if running:
        st.caption("Under way: this page follows it.")
    if view == "Trials":
        shown.table(search.trials, "%.4g")
        return
    figure = search.plots.get(_FIGURES[view])
    if figure is None:
        st.info(
            "There is nothing to draw yet: this takes trials that are complete and whose parameters vary."
        )
    else:
        st.plotly_chart(figure, config=reporting.PLOTLY, alt=f"{view} of the search")
