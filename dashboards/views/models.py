"""Models: registered versions, where each comes from, and which one an alias leads to."""

import hmac
import os

import chosen
import pandas as pd
import remembered
import shown
import streamlit as st

from mlproject import reporting

TOKEN = "DASHBOARD_WRITE_TOKEN"


def show() -> None:
    """The page, below its title."""
    models = remembered.list_models()
    if not models:
        st.info("No model is registered in this store yet.")
        return
    name = chosen.one("Model", "model", {name: chosen.plain(name) for name in models})
    versions = remembered.list_versions(name)
    if versions.empty:
        st.info("This model has no version.")
        return
    metrics = [column for column in versions if column.startswith("metrics.")]
    table = versions.assign(aliases=[", ".join(found) for found in versions["aliases"]])
    shown.table(
        table[["version", "aliases", "run", "created", "status", *metrics]].rename(
            columns={column: column.removeprefix("metrics.") for column in metrics}
        )
    )
    options = {
        str(row.version): f"version {row.version}" + (f" ({', '.join(row.aliases)})" if row.aliases else "")
        for row in versions.itertuples(index=False)
    }
    version = chosen.one("Version", "version", options)
    _lineage(versions[versions["version"] == int(version)].iloc[0])
    st.subheader("Aliases")
    events = remembered.alias_history(name)
    if not events.empty:
        st.dataframe(events, hide_index=True)
    _promotion(name, int(version))


def _lineage(row: pd.Series) -> None:
    st.subheader("Where it comes from")
    rows = [("run", f"{row['run']} {row['run_id']}".strip()), ("source", row["source"])]
    rows += [("dataset", f"{name}, digest {digest}") for name, digest in remembered.datasets(row["run_id"])]
    rows += [(f"tag {key}", value) for key, value in sorted(row["tags"].items())]
    shown.facts(rows)
    if row["description"]:
        with st.expander("Description"):
            st.text(reporting.unturned(row["description"]))


def _promotion(name: str, version: int) -> None:
    token = os.environ.get(TOKEN, "")
    if not token:
        st.caption(
            f"Aliases can be changed here when the server is started with {TOKEN}; now this page only reads."
        )
        return
    if done := st.session_state.pop("promoted", ""):
        st.success(done)
    with st.form("promotion", clear_on_submit=True):
        st.text(f"Make an alias lead to version {version}")
        alias = st.text_input("Alias", "champion", max_chars=255)
        by = st.text_input("Your name, for the history", max_chars=60)
        given = st.text_input("Write token", type="password")
        if not st.form_submit_button("Promote"):
            return
    if not hmac.compare_digest(given.encode(), token.encode()):
        st.error("This is not the write token; nothing was changed.")
    elif not by.strip():
        st.error("The history needs a name; nothing was changed.")
    else:
        before = remembered.promote(name, version, alias, chosen.plain(by, 60))
        left = "it led nowhere before" if before is None else f"it led to version {before} before"
        st.session_state["promoted"] = f"The alias leads to version {version} now; {left}."
        st.rerun()
