import json
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlproject.tracking import runs


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


def grid():
    """A parent with two children of two variants."""
    with runs.start_run("ablation", Options()) as run:
        for variant in ("vanilla", "rope"):
            key = {"grid": "abc", "variant": variant, "seed": "42"}
            with run.child(variant, key=key, params={"variant": variant, "seed": 42}) as child:
                child.summarize({"pearson/mean": 0.5})
    return run


def test_the_view_is_in_the_experiment_and_its_key_in_the_address(folder):
    run = grid()
    run.client.log_param(run.id, "variant", "vanilla,rope")  # an option of the command may have the same name
    command, address = run.share_comparison("abc", colors={"rope": "#56B4E9"}).splitlines()
    assert command == f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"
    assert address == (
        f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=comparison-abc"
    )
    client = MlflowClient()
    view = json.loads(client.get_experiment(run.experiment_id).tags["mlflow.sharedViewState.comparison-abc"])
    found = client.search_runs([run.experiment_id], view["searchFilter"])
    assert {one.data.params["variant"]: one.data.tags.get("mlflow.runColor") for one in found} == {
        "vanilla": None,
        "rope": "#56B4E9",
    }
    charts = view["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["BAR", "PARALLEL", *["BAR"] * 4, *["LINE"] * 2]
    assert charts[0]["metricKey"] == "pearson/mean"
    assert charts[1]["selectedParams"] == ["encoding", "positions", "values"]
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts} == sections


def test_a_view_that_cannot_be_written_is_a_warning(folder, monkeypatch, capsys):
    run = grid()

    def refuse(*_):
        raise MlflowException("tag too long")

    monkeypatch.setattr(run.client, "set_experiment_tag", refuse)
    assert run.share_comparison("abc").endswith("compareRunsMode=CHART")
    assert capsys.readouterr().err == "warning: no ready comparison in the UI: tag too long\n"


def test_a_search_has_a_row_for_each_trial(folder):
    with runs.start_run("search_head", Options()) as run:
        run.take_over({"grid": "abc"})
        for number, loss in enumerate((0.4, None, 0.2)):
            with run.child(f"trial {number}", key={"grid": "abc", "trial": str(number)}, params={}) as child:
                child.tag({"state": "complete" if loss else "pruned"})
                child.summarize({"objective": loss} if loss else {})
    run.share_comparison(
        "abc",
        group="",
        metrics=("objective",),
        params=("num_heads",),
        series=("validation/loss",),
        tags=("state",),
        columns=("key_size",),
        colors={"trial 2": "#56B4E9"},
        ascending=True,
    )
    client = MlflowClient()
    view = json.loads(client.get_experiment(run.experiment_id).tags["mlflow.sharedViewState.comparison-abc"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    found = client.search_runs([run.experiment_id], view["searchFilter"], order_by=[order])
    assert [one.info.run_name for one in found] == ["trial 2", "trial 0", "trial 1"]  # and not their parent
    assert view["groupBy"] is None
    assert [one.data.tags.get("mlflow.runColor") for one in found] == ["#56B4E9", None, None]
    params = ["params.`num_heads`", "params.`key_size`"]
    assert view["selectedColumns"] == ["tags.`state`", "metrics.`objective`", *params]
    charts = view["compareRunCharts"]
    assert charts[1]["selectedParams"] == ["num_heads"]
    assert [chart["type"] for chart in charts] == ["BAR", "PARALLEL", "LINE"]
    assert [section["name"] for section in view["compareRunSections"]] == ["Overview", "Training"]
    assert {chart["metricSectionId"] for chart in charts} == {
        part["uuid"] for part in view["compareRunSections"]
    }
