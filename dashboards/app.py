"""The dashboard: what is in a tracking store, to look at. Start it with

    streamlit run dashboards/app.py

MLFLOW_TRACKING_URI says which store; else it is `mlflow.db` of the folder one stands in, as for the commands. Nothing
is written but aliases of models, and that only with the token of DASHBOARD_WRITE_TOKEN.

    app.py          which pages there are, and what they share
    remembered.py   what is read of the store, and for how long it is kept in memory
    shown.py        how things are shown
    chosen.py       what is chosen on a page and stands in its address
    views/          the pages
"""

from importlib import import_module

import streamlit as st

# Of the address of a page only what stands after `?` differs: under a path of its own, Streamlit asks for things that
# are not there before it finds the server.
PAGES = ("Grids", "Tracks", "Signal", "Search", "Models")


def main() -> None:
    """One page."""
    st.set_page_config("Which Enformer?", "🧬", layout="wide")
    page = st.segmented_control(
        "Page",
        PAGES,
        default=PAGES[0],
        required=True,
        key="page",
        bind="query-params",
        label_visibility="collapsed",
    )
    st.title(page)
    # what takes seconds to import comes after something is to be seen
    import remembered
    import shown

    @shown.explained
    def below() -> None:
        import_module(f"views.{page.lower()}").show()
        st.divider()
        st.text(f"Read from {remembered.where()}")

    below()


main()
