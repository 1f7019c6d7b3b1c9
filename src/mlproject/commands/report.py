"""Say what was learnt from a study, how surely, and show it: one page that needs no network, and a model card."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mlproject import reporting, telling
from mlproject.data.files import check_new, explained, write_whole
from mlproject.data.results import read_results
from mlproject.errors import InputError

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Report a study of any kind: who is best with intervals, figures to look into, how to repeat it, a model card."""

    run: str = ""
    """ID of the run of ablation, finetune, train_head, search_head or joint. Empty: the last finished one."""
    csv: str = ""
    """Folder of CSV files as the published ablation wrote them, in place of a run."""
    organism: str = ""
    """Of ablation: which head. Empty: the first."""
    output: str = "work/report"
    """Folder to write report.html and model_card.md to; the study's run keeps them too."""
    experiment: str = ""
    """MLflow experiment with the study; the report's run lands there too. Empty: the last of any, and `report`."""


_FILE, _CARD = "report.html", "model_card.md"


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    if options.csv and options.run:
        raise InputError(f"--run: found {options.run!r} beside --csv {options.csv}; leave one of them out")
    if options.csv:
        read_results(options.csv, options.organism)
    if options.experiment:
        from mlproject.tracking.reading import experiment_exists

        if not experiment_exists(options.experiment):  # a run would make one of that name
            raise InputError(f"--experiment: no experiment {options.experiment!r} in the store")
    with explained(f"--output {options.output}: cannot be written", (OSError,)):
        for name in (_FILE, _CARD):
            check_new(Path(options.output) / name)


def run(options: Options, run: "Run") -> int:
    """Writes page and card to `output`, and keeps them with this run and with that of the study."""
    source, row = "", {}
    if options.csv:
        grid = _of_csv(options)
        told = reporting.grid_told(grid, pd.DataFrame(columns=["run_id", "variant", "seed"]))
        _keep_grid(run, grid)
    else:
        row = telling.choose_study(options.run, options.experiment)
        source, told = str(row["run_id"]), telling.tell(row, options.organism)
    texts = {_FILE: reporting.page(told.report)}
    if told.best:
        texts[_CARD] = reporting.model_card(telling.card(row, told))
    for name, text in texts.items():
        path = Path(options.output) / name
        with explained(f"--output {options.output}: cannot be written", (OSError,)):
            write_whole(path, text)
        run.keep(path)
        if source:
            _keep_with(source, path)
    for name, table in told.tables.items():
        run.keep_table(name, table)
    if source:
        run.tag({"reported": source})
    print("\n".join(told.report.sentences))
    written = " and ".join(str(Path(options.output) / name) for name in texts)
    print(f"{written}{f', kept with runs:/{source}' if source else ''}")
    return 0


def _keep_grid(run: "Run", grid: reporting.Grid) -> None:
    """What was read from files is then in the store as a grid, for those who look there."""
    from mlproject.tracking import grids

    run.keep_table(grids.SCORES, grid.scores)
    run.keep_table(grids.CATEGORIES, grid.categories)
    run.tag({grids.IMPORTED: "true", grids.ORGANISM: grid.organism, grids.TITLE: grid.title})


def _keep_with(run_id: str, path: Path) -> None:
    from mlproject.tracking.runs import find_run

    find_run(run_id).keep(path)


def _of_csv(options: Options) -> reporting.Grid:
    found = read_results(options.csv, options.organism)
    categories = (
        found.categories if found.categories is not None else found.runs[["variant"]].drop_duplicates()
    )
    facts = [
        ("source", f"CSV files in {Path(options.csv).name}"),
        ("seeds", ", ".join(map(str, dict.fromkeys(found.runs["seed"])))),
        telling.WRITTEN_BY,
    ]
    return reporting.Grid(
        f"{Path(options.csv).name}: {found.organism}",
        found.organism,
        found.runs.assign(track="mean"),
        categories,
        pd.DataFrame(columns=["variant", "seed", "series", "step", "value"]),
        pd.DataFrame(columns=["variant", "seed"]),
        facts,
    )
