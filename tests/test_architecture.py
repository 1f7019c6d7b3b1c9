"""The import rules of the two packages, read from the import statements."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))

OURS = ("mlproject", "enformer_core")
CORE = {"numpy", "sonnet", "tensorflow", "enformer_core"}
# who may import what, besides nobody: a file, or a folder ending in /
ONLY = {
    "mlflow": ("mlproject/tracking/", "mlproject/serving/"),
    "uvicorn": ("mlproject/serving/server.py",),
    "optuna": ("mlproject/search/", "mlproject/commands/search_head.py", "mlproject/reporting/searches.py"),
    "pyfaidx": ("mlproject/data/", "mlproject/serving/sequence_model.py"),
    "pyBigWig": ("mlproject/data/",),
    "pybigtools": ("mlproject/data/",),
    "matplotlib": ("mlproject/reporting/",),
    "seaborn": ("mlproject/reporting/",),
    "plotly": ("mlproject/reporting/",),
    "jinja2": ("mlproject/reporting/",),
    "streamlit": (),  # of dashboards alone
    "requests": ("mlproject/download.py",),
    "h5py": ("mlproject/data/published_h5.py",),
    "safetensors": ("mlproject/state_dict.py",),
    "sklearn": ("mlproject/baselines.py",),
    "rapidfuzz": ("mlproject/design.py",),
    "dask": ("mlproject/cluster.py",),
    "distributed": ("mlproject/cluster.py",),
    "keras": (),
}
# commands that call others: the best head of a search is trained as those two train, on their options
CALLS = {"mlproject/commands/search_head.py": ("train_head", "finetune")}
# rooms that never see a Run: they return values or call the plain function they were handed
NO_RUN = (
    *("data/", "training.py", "evaluation.py", "inference.py", "reporting/"),
    *("design.py", "constraints.py", "automaton.py", "motifs.py"),
    *("joint_training.py", "joint_evaluation.py", "joint_grid.py", "joint_trunk.py"),
)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name; `from a import b` is a.b."""
    package = path.relative_to(SOURCE).with_suffix("").parts[:-1] if path.is_relative_to(SOURCE) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def within(file: str, places: tuple[str, ...]) -> bool:
    return any(file == place or (place.endswith("/") and file.startswith(place)) for place in places)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("enformer_core/")])
def test_the_models_import_numpy_tensorflow_and_sonnet_only(file):
    tops = {name.partition(".")[0] for name in imports(SOURCE / file)}
    assert tops <= CORE | sys.stdlib_module_names


@pytest.mark.parametrize("file", FILES)
def test_a_library_stays_in_its_room(file):
    for name in imports(SOURCE / file):
        top = name.partition(".")[0]
        assert top not in ONLY or within(file, ONLY[top]), f"{file} imports {name}: only {ONLY[top]} may"


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("mlproject/")])
def test_no_room_imports_a_command(file):
    """Nor do commands import each other, but those of CALLS."""
    for name in imports(SOURCE / file):
        if is_in(name, "mlproject.commands") and name != "mlproject.commands":
            assert name.split(".")[2] in CALLS.get(file, ()), f"{file} imports {name}"
        if name == "mlproject.commands":  # the door reads the folder's listing
            assert file == "mlproject/__main__.py"


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if within(file.removeprefix("mlproject/"), NO_RUN) and "enformer" not in file],
)
def test_work_does_not_know_that_it_is_tracked(file):
    assert not [name for name in imports(SOURCE / file) if is_in(name, "mlproject.tracking")]


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("mlproject/tracking/")])
def test_tracking_does_not_know_the_work(file):
    allowed = ("mlproject.tracking", "mlproject.errors", "mlproject.options", "mlproject.stopping")
    ours = [
        name for name in imports(SOURCE / file) if is_in(name, "mlproject") or is_in(name, "enformer_core")
    ]
    assert all(any(is_in(name, one) for one in allowed) for name in ours), ours


@pytest.mark.parametrize("file", ["tracking/served_model.py", "serving/sequence_model.py"])
def test_what_is_served_imports_nothing_of_ours(file):
    assert not [name for name in imports(SOURCE / "mlproject" / file) if name.startswith(OURS)]


@pytest.mark.parametrize("path", sorted((ROOT / "dashboards").rglob("*.py")), ids=str)
def test_dashboards_import_tracking_and_reporting_only(path):
    ours = [name for name in imports(path) if name.startswith(OURS)]
    allowed = ("mlproject.tracking", "mlproject.reporting", "mlproject.errors")
    assert all(any(is_in(name, one) for one in allowed) for name in ours), ours


@pytest.mark.parametrize("path", sorted((ROOT / "dashboards").rglob("*.py")), ids=str)
def test_dashboards_compute_and_unpickle_nothing(path):
    """Numbers and figures are those of reporting, so that a page and a report say the same."""
    tops = {name.partition(".")[0] for name in imports(path)}
    others = {"streamlit", "pandas", "mlproject", "chosen", "remembered", "shown", "views"}
    assert tops <= others | sys.stdlib_module_names - {"pickle", "shelve", "statistics", "math"}


def test_no_folder_of_the_name_of_the_project_file():
    """MLflow compares names in lower case and takes the first, so a folder `mlproject` hides the file."""
    assert [path.name for path in ROOT.iterdir() if path.name.lower() == "mlproject"] == ["MLproject"]


def test_the_reader_of_imports_sees_every_form(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("import a.b as c\ndef f():\n    from d import e, f\n")
    assert set(imports(path)) == {"a.b", "d.e", "d.f"}
