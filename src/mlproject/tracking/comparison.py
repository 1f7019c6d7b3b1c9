"""A link that opens MLflow's UI on a ready comparison of the runs of one grid.

The UI keeps a shared view as JSON in the experiment tag `mlflow.sharedViewState.NAME`, and shows it when an
address ends with `viewStateShareKey=NAME`. That is not documented (this is the form of MLflow 3.17), so a view
that cannot be written is a warning, and without it the link still opens the experiment.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.exceptions import MlflowException

from mlproject.tracking import store
from mlproject.tracking.runs import Run

_MOST_RUNS = 100  # that one chart of the UI draws


def share_comparison(
    run: Run,
    grid: str,
    *,
    metrics: Sequence[str],
    params: Sequence[str] = (),
    columns: Sequence[str] = (),
    series: Mapping[str, str] | None = None,
) -> str:
    """Shares a view of all runs tagged with `grid` in the experiment of `run`, and returns how to open it.

    Args:
        run: any run of the experiment.
        grid: value of the tag `grid`.
        metrics: final numbers, most important first: the first is drawn as bars and orders the runs; all of
            them end the parallel coordinates and are columns.
        params: parameters that begin the parallel coordinates, and are columns.
        columns: further parameters to show as columns, before the others.
        series: metrics by step to draw as curves, with their titles.

    Returns:
        The address; for a local store, first the command that starts the UI on it.
    """
    name = f"{grid}-comparison"
    view = _view(grid, list(metrics), list(params), list(columns), dict(series or {}))
    address = f"{store.ui_address(run.client)}/#/experiments/{run.experiment_id}/runs"
    query = "?workflowType=machine_learning&compareRunsMode=CHART"
    try:
        run.client.set_experiment_tag(run.experiment_id, f"mlflow.sharedViewState.{name}", json.dumps(view))
        query += f"&viewStateShareKey={name}"
    except MlflowException as error:
        print(f"warning: no ready comparison in the UI: {error}", file=sys.stderr)
    command = store.ui_command(run.client)
    return f"{command}\n{address}{query}" if command else address + query


def _view(
    grid: str, metrics: list[str], params: list[str], columns: list[str], series: dict[str, str]
) -> dict[str, Any]:
    sections = [
        {"uuid": f"section-{index}", "name": title, "display": True, "isReordered": True, "deleted": False}
        for index, title in enumerate(("Results", "Training"))
    ]
    results = [
        _chart("BAR", "section-0", metrics[0], metricKey=metrics[0], runsCountToCompare=_MOST_RUNS),
        _chart(
            "PARALLEL",
            "section-0",
            "Switches and results",
            selectedParams=params,
            selectedMetrics=metrics,
            showAllRuns=False,
        ),
    ]
    results += [
        _chart("BAR", "section-0", metric, metricKey=metric, runsCountToCompare=_MOST_RUNS)
        for metric in metrics[1:]
    ]
    curves = [
        _chart("LINE", "section-1", title, metricKey=key, selectedMetricKeys=[key], **_LINE)
        for key, title in series.items()
    ]
    return {
        "searchFilter": f"tags.grid = '{grid}'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            *(f"params.`{name}`" for name in [*columns, *params]),
            *(f"metrics.`{name}`" for name in metrics),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": sections,
        "compareRunCharts": results + curves,
        "isAccordionReordered": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
    }


_LINE = {
    "runsCountToCompare": _MOST_RUNS,
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "lineSmoothness": 0,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "selectedXAxisMetricKey": "",
    "ignoreOutliers": False,
    "range": {},
}


def _chart(kind: str, section: str, title: str, **settings: Any) -> dict[str, Any]:
    return {
        "uuid": f"{section}-{kind}-{settings.get('metricKey', 'parallel')}",
        "type": kind,
        "metricSectionId": section,
        "displayName": title,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }
