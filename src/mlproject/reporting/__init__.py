"""Tables, figures and text from numbers that others have computed: the only user of matplotlib and seaborn.

style.py        colours and looks that all figures share
tracks.py       tracks: how well each is predicted
grids.py        a grid of trainings, variant by variant
activities.py   constructs: measured against predicted
joint.py        joint trainings on tracks and MPRA
generated.py    sequences written for targets: what is said of them
signals.py      signal along the genome
searches.py     a search: its trials as a table, and as a page to look into
search_figures.py  pictures of a search
"""

from mlproject.reporting.activities import activity_figure, comparison_text, write_activity_figure
from mlproject.reporting.generated import (
    composition_figure,
    generated_figure,
    generated_text,
    write_composition_figure,
    write_generated_figure,
)
from mlproject.reporting.grids import (
    Tracks,
    category_figure,
    grid_tables,
    overall_figure,
    results_text,
    scatter_figure,
    variant_colors,
    write_grid,
)
from mlproject.reporting.joint import NUMBERS as JOINT_NUMBERS
from mlproject.reporting.joint import (
    cell_types_text,
    differences_text,
    joint_figure,
    joint_text,
    numbers_line,
    prediction_figure,
    write_joint_figure,
    write_prediction_figure,
)
from mlproject.reporting.searches import search_summary, search_text, trial_colors, write_search_figures
from mlproject.reporting.signals import SignalPanel, signal_figure, write_signal_figure
from mlproject.reporting.tracks import category_summary, numbers_text, track_results, track_table

__all__ = [
    "JOINT_NUMBERS",
    "SignalPanel",
    "Tracks",
    "activity_figure",
    "category_figure",
    "category_summary",
    "cell_types_text",
    "comparison_text",
    "composition_figure",
    "differences_text",
    "generated_figure",
    "generated_text",
    "grid_tables",
    "joint_figure",
    "joint_text",
    "numbers_line",
    "numbers_text",
    "overall_figure",
    "prediction_figure",
    "results_text",
    "scatter_figure",
    "search_summary",
    "search_text",
    "signal_figure",
    "track_results",
    "track_table",
    "trial_colors",
    "variant_colors",
    "write_activity_figure",
    "write_composition_figure",
    "write_generated_figure",
    "write_grid",
    "write_joint_figure",
    "write_prediction_figure",
    "write_search_figures",
    "write_signal_figure",
]
