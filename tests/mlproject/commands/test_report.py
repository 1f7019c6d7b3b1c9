"""`report` on a store of small runs and on CSV files, as a user calls it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from mlproject import __main__ as door
from mlproject.commands import ablation
from mlproject.tracking import grids, reading, runs

VARIANTS = ("vanilla", "rope")
HEADER = "seed,experiment,train_loss_human,pearson_human_mean\n"


def make_grid(gain=0.3, ends=True, organisms=("human",)):
    """A grid of two variants and two seeds whose numbers are made up."""
    random = np.random.default_rng(0)
    with runs.start_run(
        "ablation", ablation.Options(variants=VARIANTS, seeds=(1, 2), organisms=organisms)
    ) as run:
        for variant in VARIANTS if ends else ():
            for seed in (1, 2):
                key = {"grid": run.id, "variant": variant, "seed": str(seed)}
                with run.child(variant, key=key, params={"variant": variant, "seed": seed}) as child:
                    child.use_dataset(
                        name="demo/human", digest="0123456789abcdef", source="x", context="training"
                    )
                    for step in range(1, 4):
                        child.log(step, {"loss": 1 / step, "validation/pearson": step / 10})
                    for organism in organisms:
                        r = 0.2 + gain * (variant == "rope") + random.normal(0, 0.01, 4)
                        table = {
                            "index": range(4),
                            "identifier": ["same"] * 4,
                            "category": list("AABB"),
                            "pearson_r": r,
                        }
                        child.keep_table(f"tracks_{organism}", pd.DataFrame(table))
                    child.summarize({"seconds/train": 3.0, "seconds/evaluate": 1.0, "seconds/total": 5.0})
        if not ends:
            run.fail("stopped")
    return run


def test_the_newest_grid_is_reported_and_keeps_the_page(folder, capsys):
    make_grid(gain=-0.3)
    run = make_grid()
    assert door.main(["report"]) == 0
    page = Path("work/report/report.html").read_text("utf-8")
    printed = capsys.readouterr().out
    assert "Of 2 variants over 2 seeds, rope has the highest mean Pearson r, 0.4" in printed
    assert f"kept with runs:/{run.id}" in printed
    for words in (
        run.id,
        "demo/human, digest 0123456789abcdef",
        "--variants vanilla,rope",
        "--seeds 1,2",
        "vanilla (n = 4)",
    ):
        assert words in page
    kept = MlflowClient().download_artifacts(run.id, "report.html", str(folder))
    assert Path(kept).read_text("utf-8") == page
    table = reading.read_runs()
    (own,) = table[table["tags.command"] == "report"].to_dict("records")
    assert own["status"] == "FINISHED" and own["tags.reported"] == run.id
    kept = runs.find_run(own["run_id"])
    assert kept.table("leaderboard")["variant"].tolist() == ["rope", "vanilla"]
    assert kept.table("effects")["effect"].tolist() == ["rope"]
    assert kept.table("category_effects")["category"].tolist() == ["A", "B"]


def test_a_grid_is_chosen_by_its_run_and_a_head_by_its_organism(folder, capsys):
    first = make_grid(gain=-0.3, organisms=("human", "mouse"))
    make_grid()
    assert door.main(["report", "--run", first.id, "--organism", "mouse"]) == 0
    assert "vanilla has the highest" in capsys.readouterr().out
    assert "mouse</h1>" in Path("work/report/report.html").read_text("utf-8")
    assert door.main(["report", "--run", first.id, "--organism", "rat"]) == 2
    assert "--organism: found 'rat'; ablation" in capsys.readouterr().err


def test_published_files_are_reported(folder, capsys):
    (folder / "results").mkdir()
    rows = "".join(
        f"{seed},{name},1,0.{seed}{number}\n" for number, name in enumerate(VARIANTS) for seed in (1, 2)
    )
    (folder / "results" / "experiment_results_human_all_seeds.csv").write_text(HEADER + rows)
    assert door.main(["report", "--csv", "results", "--output", "out"]) == 0
    assert "rope has the highest mean Pearson r, 0.160" in capsys.readouterr().out
    assert "CSV files in results" in Path("out/report.html").read_text("utf-8")
    (listed,) = grids.list_grids()["run_id"]
    found = grids.find_grid(listed)
    assert (found.name, found.organisms, found.imported) == ("results: human", ["human"], True)
    scores = grids.read_scores(found, "human")
    assert scores["score"].tolist() == [0.10, 0.20, 0.11, 0.21] and set(scores["track"]) == {"mean"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [],
            "--experiment: this store has no finished study; `mlflow run . -e ablation` makes one, as do finetune",
        ),
        (["--run", "abc"], "--run: found 'abc', which is no run of this store"),
        (["--run", "abc", "--csv", "x"], "--run: found 'abc' beside --csv x; leave one of them out"),
        (["--csv", "nowhere"], "csv nowhere: has no experiment_results_ORGANISM_all_seeds.csv"),
        (["--experiment", "other"], "--experiment: no experiment 'other' in the store"),
        (["--experiment", "ablation"], "--experiment: experiment 'ablation' has no finished study"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, words, said):
    make_grid(ends=False)
    assert door.main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not Path("work/report").exists()
    assert not reading.experiment_exists("other")
