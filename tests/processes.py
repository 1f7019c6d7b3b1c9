"""Commands in processes of their own, as a user runs them, and what they left in the store."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]


def launch(folder, *command):
    """Starts `python -m COMMAND` in a folder, with the default store there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment, text=True, **pipes)


def finish(process):
    """Waits for the end: exit code and output, and no traceback among the errors."""
    output, errors = process.communicate(timeout=600)
    assert "Traceback" not in errors, errors
    return process.returncode, output


class Store:
    """What the commands of an experiment left in the store of a folder; children are those of the last parent."""

    def __init__(self, folder, experiment):
        self.client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        found = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.children = {
            run.info.run_name: run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == self.parents[-1].info.run_id
        }

    def artifacts(self, run):
        return {item.path for item in self.client.list_artifacts(run.info.run_id)}

    def fetch(self, run, path):
        return Path(self.client.download_artifacts(run.info.run_id, path))

    def series(self, run, key):
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]


def words_of(*parts):
    """Command line words of options given as dictionaries, the last one counts."""
    return [word for pair in {k: v for part in parts for k, v in part.items()}.items() for word in pair]


_SEVERAL = """
import json, sys
from mlproject import __main__ as door
if __name__ == "__main__":  # a command's own processes import this file
    for words in json.loads(sys.argv[1]):
        print("exit code", door.main(words), flush=True)
"""


class Studies(NamedTuple):
    """Commands after each other in one process; by experiment, what each has printed and its exit code."""

    folder: Path
    outputs: dict[str, list[str]]
    codes: dict[str, list[str]]

    def store(self, experiment):
        return Store(self.folder, experiment)


def run_studies(folder, command, options):
    """Runs a command once for each (experiment, options), in the folder."""
    (folder / "several.py").write_text(_SEVERAL)
    words = [[command, *words_of(given, {"--experiment": experiment})] for experiment, given in options]
    code, output = finish(launch(folder, "several", json.dumps(words)))
    assert code == 0
    outputs, codes = defaultdict(list), defaultdict(list)
    parts = re.findall(r"(.*?)exit code (\d)\n", output, re.DOTALL)
    for (experiment, _), part in zip(options, parts, strict=True):
        outputs[experiment].append(part[0])
        codes[experiment].append(part[1])
    return Studies(folder, outputs, codes)
