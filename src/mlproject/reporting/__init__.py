"""Tables, figures and text from numbers that others have computed: the only user of matplotlib and seaborn.

style.py        colours and looks that all figures share
tracks.py       tracks: how well each is predicted
track_plots.py  tracks of two runs, to look into
grids.py        a grid of trainings, variant by variant
activities.py   constructs: measured against predicted
joint.py        joint trainings on tracks and MPRA
generated.py    sequences written for targets: what is said of them
signals.py      signal along the genome
signal_plots.py  the same to pan and zoom
effects.py      what a grid says of its modifications, and how surely
differences.py  what one predictor has over another, paired
grid_report.py  what is said of a grid, and its figures
construct_report.py  what is said of fine-tuning on constructs
head_report.py  what is said of heads of tracks
search_report.py  what is said of a search
joint_report.py  what is said of joint trainings
cards.py        model cards
plots.py        interactive figures that several kinds of study share
words.py        numbers as a page has them
pages.py        a page that needs no network
searches.py     a search: its trials as a table, its figures to look into, and a study made of a table
search_figures.py  pictures of a search
"""

from mlproject.reporting.activities import (
    activity_figure,
    comparison_text,
    with_interval,
    write_activity_figure,
)
from mlproject.reporting.cards import Evaluation, ModelCard, Told, card_text, model_card
from mlproject.reporting.construct_report import ConstructStudy, construct_report
from mlproject.reporting.differences import Difference, paired_difference
from mlproject.reporting.generated import (
    composition_figure,
    generated_figure,
    generated_text,
    write_composition_figure,
    write_generated_figure,
)
from mlproject.reporting.grid_report import (
    Grid,
    category_plot,
    curves_plot,
    effects_plot,
    effects_text,
    grid_report,
    grid_told,
    leaderboard_plot,
    seconds_plot,
    summary,
    tables,
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
from mlproject.reporting.head_report import HeadStudy, head_report
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
from mlproject.reporting.joint_report import JointStudyTold, best_training, joint_report
from mlproject.reporting.pages import PLOTLY, Report, Section, page
from mlproject.reporting.search_report import SearchStudy, search_report
from mlproject.reporting.searches import (
    search_plots,
    search_summary,
    search_text,
    search_words,
    study_of,
    trial_colors,
    write_search_figures,
)
from mlproject.reporting.signal_plots import signal_plot
from mlproject.reporting.signals import SignalPanel, signal_figure, signal_pdf, write_signal_figure
from mlproject.reporting.track_plots import (
    matching_tracks,
    paired_tracks,
    track_distribution_plot,
    track_scatter_plot,
)
from mlproject.reporting.tracks import category_summary, numbers_text, track_results, track_table
from mlproject.reporting.words import unturned

__all__ = [
    "JOINT_NUMBERS",
    "PLOTLY",
    "ConstructStudy",
    "Difference",
    "Evaluation",
    "Grid",
    "HeadStudy",
    "JointStudyTold",
    "ModelCard",
    "Report",
    "SearchStudy",
    "Section",
    "SignalPanel",
    "Told",
    "Tracks",
    "activity_figure",
    "best_training",
    "card_text",
    "category_figure",
    "category_plot",
    "category_summary",
    "cell_types_text",
    "comparison_text",
    "composition_figure",
    "construct_report",
    "curves_plot",
    "differences_text",
    "effects_plot",
    "effects_text",
    "generated_figure",
    "generated_text",
    "grid_report",
    "grid_tables",
    "grid_told",
    "head_report",
    "joint_figure",
    "joint_report",
    "joint_text",
    "leaderboard_plot",
    "matching_tracks",
    "model_card",
    "numbers_line",
    "numbers_text",
    "overall_figure",
    "page",
    "paired_difference",
    "paired_tracks",
    "prediction_figure",
    "results_text",
    "scatter_figure",
    "search_plots",
    "search_report",
    "search_summary",
    "search_text",
    "search_words",
    "seconds_plot",
    "signal_figure",
    "signal_pdf",
    "signal_plot",
    "study_of",
    "summary",
    "tables",
    "track_distribution_plot",
    "track_results",
    "track_scatter_plot",
    "track_table",
    "trial_colors",
    "unturned",
    "variant_colors",
    "with_interval",
    "write_activity_figure",
    "write_composition_figure",
    "write_generated_figure",
    "write_grid",
    "write_joint_figure",
    "write_prediction_figure",
    "write_search_figures",
    "write_signal_figure",
]
