"""A link that opens MLflow's UI on a ready comparison of the runs of one grid.

The UI keeps a shared view as JSON in the experiment tag `mlflow.sharedViewState.NAME`, and shows it when an
address has `viewStateShareKey=NAME`. That is not documented (this is the form of MLflow 3.17), so a view that
cannot be written is a warning, and without it the link still opens the charts of the experiment.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from mlproject.tracking import store

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

_PARENT = "mlflow.parentRunId"
_MOST_RUNS = 100  # that one chart of the UI draws
_METRICS = ("pearson/mean", "pearson/DNASE", "pearson/CAGE", "pearson/CHIP", "pearson/ATAC")


def share_comparison(
    run: "Run",
    grid: str,
    *,
    group: str = "variant",
    colors: Mapping[str, str] | None = None,
    metrics: Sequence[str] = _METRICS,
    params: Sequence[str] = ("encoding", "positions", "values"),
    series: Sequence[str] = ("loss", "validation/pearson"),
    others: str = "By category",
    tags: Sequence[str] = (),
    columns: Sequence[str] = (),
    ascending: bool = False,
) -> str:
    """Shares a view of the child runs tagged with `grid` in the experiment of `run`; returns how to open it.

    It shows a bar for each run, those of one group together and in one colour, best group first; parallel
    coordinates of `params` against `metrics`; and curves.

    Args:
        run: any run of the experiment.
        grid: value of the tag `grid`.
        group: parameter that names what is compared; runs that have none are left out. Without one, "", every child
            run is a row of its own.
        colors: a colour (#RRGGBB) for each value of `group`; without one, for each run by its name.
        metrics: final numbers, most important first: it orders the groups and colours the parallel lines.
        params: parameters that begin the parallel coordinates, which leave out a run that has not all of them.
        series: metrics by step.
        others: title above the metrics but the first.
        tags: columns of the table before the others.
        columns: parameters that are columns of the table only, as those that not every run has.
        ascending: the lowest first metric is the best.

    Returns:
        The address; for a local store after a line with the command that starts the UI on it.
    """
    name = f"comparison-{grid}"
    address = f"{store.ui_address(run.client)}/#/experiments/{run.experiment_id}/runs"
    address += "?workflowType=machine_learning&compareRunsMode=CHART"
    try:
        if colors:
            _paint(run, grid, group, colors)
        view = _view(grid, group, list(metrics), list(params), list(series), others)
        view["orderByAsc"] = ascending
        view["selectedColumns"][:0] = [f"tags.`{tag}`" for tag in tags]
        view["selectedColumns"] += [f"params.`{name}`" for name in columns]
        if not group:
            _ungroup(view)
        run.client.set_experiment_tag(run.experiment_id, f"mlflow.sharedViewState.{name}", json.dumps(view))
        address += f"&viewStateShareKey={name}"
    except MlflowException as error:
        print(f"warning: no ready comparison in the UI: {error}", file=sys.stderr)
    command = store.ui_command(run.client)
    return f"{command}\n{address}" if command else address


def _paint(run: "Run", grid: str, group: str, colors: Mapping[str, str]) -> None:
    for found in run.client.search_runs([run.experiment_id], f"tags.grid = '{grid}'"):
        color = colors.get((found.data.params.get(group) if group else found.info.run_name) or "")
        if color and found.data.tags.get("mlflow.runColor") != color:
            run.client.set_tag(found.info.run_id, "mlflow.runColor", color)


def _view(
    grid: str, group: str, metrics: list[str], params: list[str], series: list[str], others: str
) -> dict[str, Any]:
    overview, rest, curves = "section-overview", "section-others", "section-curves"
    bars = {"runsCountToCompare": _MOST_RUNS}
    return {
        "searchFilter": f"tags.grid = '{grid}' AND tags.`{_PARENT}` != ''",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "attributes.`Dataset`",
            *(f"metrics.`{name}`" for name in metrics),
            *(f"params.`{name}`" for name in (group, "seed", *params)),
        ],
        "runsHiddenMode": "SHOW_ALL",
        # rows in groups, charts of single runs: charts of groups would have no parallel coordinates
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": group}]},
        "useGroupedValuesInCharts": False,
        "compareRunSections": [
            _section(overview, "Overview", columns=1, height=400),
            _section(rest, others, columns=2, height=400),
            _section(curves, "Training", columns=2, height=400),
        ],
        "compareRunCharts": [
            _chart("BAR", overview, metrics[0], metricKey=metrics[0], **bars),
            _chart(
                "PARALLEL",
                overview,
                "all",
                selectedParams=params,
                selectedMetrics=[*metrics[1:], metrics[0]],
                showAllRuns=False,
            ),
            *(_chart("BAR", rest, metric, metricKey=metric, **bars) for metric in metrics[1:]),
            *(
                _chart("LINE", curves, key, metricKey=key, selectedMetricKeys=[key], **_LINE)
                for key in series
            ),
        ],
        "isAccordionReordered": True,
        "viewMaximized": False,
        "runListHidden": False,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
    }


def _ungroup(view: dict[str, Any]) -> None:
    """Makes it a view of child runs each on its own, of which the first part shows all that is compared."""
    view["groupBy"] = None
    absent = ("attributes.`Dataset`", "params.``", "params.`seed`")
    view["selectedColumns"] = [column for column in view["selectedColumns"] if column not in absent]
    used = {chart["metricSectionId"] for chart in view["compareRunCharts"]}
    view["compareRunSections"] = [part for part in view["compareRunSections"] if part["uuid"] in used]


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


def _section(name: str, title: str, *, columns: int, height: int) -> dict[str, Any]:
    flags = {"display": True, "isReordered": True, "deleted": False}
    return {"uuid": name, "name": title, "columns": columns, "cardHeight": height, **flags}


def _chart(kind: str, section: str, key: str, **settings: Any) -> dict[str, Any]:
    flags = {"deleted": False, "isGenerated": False}
    return {"uuid": f"{section}-{kind}-{key}", "type": kind, "metricSectionId": section, **flags, **settings}
