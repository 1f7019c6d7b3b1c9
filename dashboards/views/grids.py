"""Grids: what was learnt from one, how surely, and how its trainings go."""

import chosen
import pandas as pd
import remembered
import shown
import streamlit as st
from remembered import Choice

from mlproject import reporting
from mlproject.tracking.grids import GridRun

VIEWS = ("Leaderboard", "Effects", "Categories", "Curves", "Time", "How to repeat")


def show() -> None:
    """The page, below its title."""
    listed = remembered.list_grids()
    if listed.empty:
        st.info(
            "This store has no grid yet: `mlflow run . -e ablation` makes one, on demo data without options."
        )
        return
    run_id = chosen.one("Grid", "grid", chosen.run_names(listed))
    grid = remembered.find_grid(run_id)
    organism = grid.organisms[0]
    if len(grid.organisms) > 1:
        organism = chosen.one("Organism", "organism", {name: chosen.plain(name) for name in grid.organisms})
    _progress(run_id)
    runs = remembered.imported_runs(run_id) if grid.imported else grid.children
    variants = list(dict.fromkeys(runs["variant"]))
    seeds = [str(seed) for seed in dict.fromkeys(runs["seed"])]
    left, right = st.columns(2)
    with left:
        variants = chosen.some("Variants", "variants", variants)
    with right:
        seeds = chosen.some("Seeds", "seeds", seeds)
    ended = grid.children.loc[grid.children["status"] == "FINISHED", "run_id"]
    choice = Choice(run_id, organism, tuple(variants), tuple(map(int, seeds)), tuple(ended))
    view = chosen.view("grids_view", VIEWS)
    if view == "Curves":
        _curves(grid, choice)
    elif view == "Time":
        _time(grid, choice)
    elif view == "How to repeat":
        shown.facts(remembered.facts(run_id, len(ended)))
    else:
        _learnt(choice, view)


@st.fragment(run_every=remembered.SECONDS)
@shown.explained
def _progress(run_id: str) -> None:
    """How far a grid is that is under way; the page is drawn again when a training has ended."""
    grid = remembered.find_grid(run_id)
    if grid.imported:
        return
    status = grid.children["status"]
    ended, failed = int((status == "FINISHED").sum()), int((status == "FAILED").sum())
    if grid.status == "RUNNING":
        st.progress(
            min(1.0, ended / max(1, grid.wanted)),
            f"{ended} of {grid.wanted} trainings have ended; this page follows them",
        )
    if failed:
        st.warning(f"{failed} of {grid.wanted} trainings failed; the MLflow UI says why.")
    seen = (run_id, grid.status, ended)
    before = st.session_state.get("seen")
    st.session_state["seen"] = seen
    if before is not None and before[0] == run_id and before != seen:
        st.rerun()


def _learnt(choice: Choice, view: str) -> None:
    grid = remembered.grid(choice)
    if grid.scores.empty:
        st.info("None of these trainings has ended yet.")
        return
    children = _of(remembered.find_grid(choice.run_id).children, choice)
    ended = children[children["run_id"].isin(choice.ended)]
    known = set(zip(grid.scores["variant"], grid.scores["seed"], strict=True))
    if lacking := set(zip(ended["variant"], ended["seed"], strict=True)) - known:
        names = ", ".join(chosen.plain(f"{variant} {seed}", 40) for variant, seed in sorted(lacking))
        st.warning("Left out, as they have no table of tracks:")
        st.text(names)
    if view == "Leaderboard":
        for sentence in reporting.summary(grid):
            st.text(reporting.unturned(sentence))
        _draw(reporting.leaderboard_plot(grid), "Mean Pearson r of each run and variant")
        shown.table(grid.means)
    elif view == "Effects":
        found = grid.effects
        if isinstance(found, str):
            st.text(f"Effects of modifications are not known: {found}.")
            return
        _draw(reporting.effects_plot(found), "Effects of modifications with 95% intervals")
        shown.table(found.table)
        st.caption(reporting.effects_text(found))
        if not grid.category_effects.empty:
            st.subheader("By category")
            shown.table(grid.category_effects)
    else:
        figure = reporting.category_plot(grid)
        if figure is None:
            st.info("Categories are not known.")
            return
        _draw(figure, "Mean Pearson r of variants by category")


def _curves(grid: GridRun, choice: Choice) -> None:
    curves = _of(remembered.read_training(grid, choice.organism), choice)
    figure = reporting.curves_plot(curves)
    if figure is None:
        st.info("No curve is known.")
    else:
        _draw(figure, "Training curves")


def _time(grid: GridRun, choice: Choice) -> None:
    figure = reporting.seconds_plot(_of(remembered.training_seconds(grid), choice))
    if figure is None:
        st.info("Times are not known.")
    else:
        _draw(figure, "Where the time of each run went")


def _of(frame: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    return frame[frame["variant"].isin(choice.variants) & frame["seed"].isin(choice.seeds)]


def _draw(figure: object, alt: str) -> None:
    st.plotly_chart(figure, config=reporting.PLOTLY, alt=alt)
