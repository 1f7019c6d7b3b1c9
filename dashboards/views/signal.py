"""Signal: predicted against measured along the genome."""

import chosen
import remembered
import streamlit as st

from mlproject import reporting

MOST_TRACKS = 8  # rows of a picture


def show() -> None:
    """The page, below its title."""
    runs = remembered.list_signalled()
    if runs.empty:
        st.info(
            "No run of this store keeps signal yet: trainings of `ablation` and `train_head`, and `predict`, do."
        )
        return
    run_id = chosen.one("Run", "run", chosen.run_names(runs))
    organisms = remembered.signal_organisms(run_id)
    if not organisms:
        st.info("This run keeps no signal.")
        return
    organism = organisms[0]
    if len(organisms) > 1:
        organism = chosen.one("Organism", "signal_organism", {name: chosen.plain(name) for name in organisms})
    index = remembered.signal_index(run_id, organism)
    places = {
        f"{row.chrom}:{row.start}": f"{chosen.plain(row.chrom)}:{row.start:,}-{row.end:,}"
        for row in index.drop_duplicates(["chrom", "start"]).itertuples()
    }
    place = chosen.one("Region (0-based, half-open)", "region", places)
    here = index[(index["chrom"] + ":" + index["start"].astype(str)) == place]
    words = st.text_input(
        "Search",
        key="signal_words",
        bind="query-params",
        placeholder="identifier or description; all words must be there",
    )
    found = reporting.matching_tracks(here.assign(category=""), words or "", [])
    labels = {
        str(place): f"{chosen.plain(identifier, 30)} {chosen.plain(description, 60)}"
        for place, identifier, description in found[["index", "identifier", "description"]].itertuples(
            index=False
        )
    }
    if not labels:
        st.info("No track has all these words.")
        return
    tracks = chosen.several(
        f"Tracks ({len(labels):,} found, at most {MOST_TRACKS} are drawn)",
        "signal_tracks",
        labels,
        list(labels)[:2],
        MOST_TRACKS,
    )
    if not tracks:
        return
    chrom, start = here["chrom"].iloc[0], int(here["start"].iloc[0])
    panels = remembered.signal_panels(run_id, organism, tuple(map(int, tracks)), chrom, start)
    st.plotly_chart(
        reporting.signal_plot(panels),
        config={**reporting.PLOTLY, "scrollZoom": True, "toImageButtonOptions": {"format": "svg"}},
        alt="Predicted and measured signal",
    )
    st.download_button(
        "Download as PDF",
        lambda: reporting.signal_pdf(panels, places[place]),
        file_name="signal.pdf",
        mime="application/pdf",
    )
