"""Tables, figures and text from numbers that others have computed: the only user of matplotlib and seaborn.

style.py        colours and looks that all figures share
grids.py        a grid of trainings, variant by variant
activities.py   constructs: measured against predicted
"""

from mlproject.reporting.activities import activity_figure, comparison_text, write_activity_figure
from mlproject.reporting.grids import (
    Tracks,
    category_figure,
    category_summary,
    grid_tables,
    overall_figure,
    results_text,
    scatter_figure,
    track_table,
    variant_colors,
    write_grid,
)

__all__ = [
    "Tracks",
    "activity_figure",
    "category_figure",
    "category_summary",
    "comparison_text",
    "grid_tables",
    "overall_figure",
    "results_text",
    "scatter_figure",
    "track_table",
    "variant_colors",
    "write_activity_figure",
    "write_grid",
]
