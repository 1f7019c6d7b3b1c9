"""Predict the activity of constructs, and the signal of a track at their annotated sites."""

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from enformer_core.activity import ActivityModel
from enformer_core.enformer import BIN_SIZE_BP
from mlproject import __version__, compilation, inference, reporting, stopping, weights
from mlproject.data import head_tracks
from mlproject.data.construct_windows import ConstructWindows
from mlproject.data.demo_constructs import open_constructs
from mlproject.data.files import check_new, explained, write_whole
from mlproject.errors import InputError, OutOfMemory, Stopped, one_line
from mlproject.evaluation import compare_predictors, construct_table
from mlproject.inference import Model, WindowPredictor, site_maxima
from mlproject.resuming import fingerprint, only_one
from mlproject.tensorhub import TensorHubModel

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Predict constructs: activity for each offset, and a track's maximum at each annotated site."""

    data: str = "demo"
    """Constructs: the folder that build_constructs made, or a table like the one in it; demo: made-up ones."""
    weights: str = "newest"
    """Model: newest (the last fine-tuned one of the store), or as in finetune; tensorhub and SavedModels too."""
    weights_dir: str = ""
    """Where the published or TF-Hub weights are, in place of ENFORMERBASELINE or ENFORMERTENSORHUB."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of a random model; other weights have their own."""
    head: str = "mouse"
    """Track head."""
    track: int = 10
    """Track whose signal is read at the annotated sites: its index in the table of the head, or else its position."""
    window: int = 0
    """Sequence of a window in bp, a multiple of 128. 0: the fine-tuned model's own, else 25,600."""
    samples: float = 8
    """Windows of each construct, at offsets drawn without replacement; below 1: the share of all offsets."""
    stride: int = 1
    """Distance between offsets that may be drawn, in bp."""
    seed: int = 42
    """Of the offsets."""
    batch_size: int = 4
    """Windows of a prediction."""
    output: str = "work/predictions.tsv"
    """Table to write: a row for each construct and offset."""
    work_dir: Path = Path("work")
    """Folder for the demo, fetched weights and unfinished predictions."""
    experiment: str = "predict_constructs"
    """MLflow experiment."""


_WINDOW = 25_600
# What the numbers depend on by more than their words, or not at all.
_NOT_OF_THE_NUMBERS = (
    *("data", "weights", "weights_dir", "download", "preset", "window", "track"),
    *("output", "work_dir", "experiment"),
)
_COLUMNS = ["index", "name", "group", "fold", "offset", "activity", "predicted", "peaksum", "peak"]


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    if options.batch_size < 1:
        raise InputError(f"--batch_size: found {options.batch_size}; it must be 1 or more")
    if options.track < 0:
        raise InputError(f"--track: found {options.track}; it cannot be negative")
    if options.window % BIN_SIZE_BP or options.window < 0:
        raise InputError(f"--window: found {options.window}; it must be a multiple of {BIN_SIZE_BP} bp")
    weights.check(options.weights, options.weights_dir, options.download)
    if not Path(options.output).name or any(map(os.path.isdir, _outputs(options))):
        raise InputError(f"--output: found {options.output!r}; expected the name of a file to write")
    _windows(options, options.window or BIN_SIZE_BP)  # without one, the model may have its own
    with explained(f"--output {options.output}: cannot be written", (OSError,)):
        check_new(Path(options.output))


def _outputs(options: Options) -> tuple[Path, Path]:
    """The table of windows, and that of their means beside it."""
    path = Path(options.output)
    return path, path.with_name(f"{path.stem}_means{path.suffix}")


def run(options: Options, run: "Run") -> int:
    """Predicts what is missing, then writes tables and figures."""
    began = time.perf_counter()
    word = options.weights
    if word == "newest":
        word = weights.newest(("finetune",), "fine-tuned model")
    model = weights.load(
        word,
        weights_dir=options.weights_dir,
        download=options.download,
        work_dir=options.work_dir,
        random=lambda: weights.untrained(options.preset, options.window or _WINDOW, options.seed),
        sequence_length=options.window or _WINDOW,
        target_length=None,
    )
    windows = _windows(options, _window(options, model))
    track = _track(options, model)
    predict = WindowPredictor(model, options.head, track, options.batch_size)
    work = _work(options, windows, model, track)
    folder = options.work_dir / "predict_constructs"
    with only_one(folder / f"{work}.lock"):
        unfinished = folder / f"{work}.jsonl"
        found = _predict(options, windows, predict, unfinished)
        table = _table(windows, found)
        means = construct_table(table, ["predicted", "peaksum"])
        with explained(f"--output {options.output}: cannot be written", (OSError,)):
            for path, frame in zip(_outputs(options), (table[_COLUMNS], means), strict=True):
                write_whole(path, frame.to_csv(sep="\t", index=False, float_format="%.6g"))
        _keep(options, run, windows, table, means)
        unfinished.unlink()
    print(f"{options.output}: {len(table)} windows of {len(windows.constructs)} constructs, by {word}")
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 0


# --- what goes in -------------------------------------------------------------------------------------------------


def _windows(options: Options, window: int) -> ConstructWindows:
    constructs = open_constructs(options.data, options.work_dir)
    return ConstructWindows(
        constructs, window, samples=options.samples, stride=options.stride, seed=options.seed
    )


def _window(options: Options, model: Model) -> int:
    """The length of a window, which a fine-tuned model has its own of."""
    if not isinstance(model, ActivityModel):
        return options.window or _WINDOW
    own = model.config.sequence_length
    if options.window not in (0, own):
        raise InputError(f"--window: found {options.window}; this fine-tuned model takes {own} bp")
    return own


def _track(options: Options, model: Model) -> int:
    """The position in the head of the track of this index."""
    rows = None if isinstance(model, TensorHubModel) else model.tracks.get(options.head)
    if not rows:
        return options.track
    tracks = head_tracks.of_rows(rows)
    found = [track.position for track in tracks if track.index == options.track]
    if not found:
        low, high = head_tracks.ends(tracks)
        raise InputError(
            f"--track: found {options.track}; head {options.head} has the indices {low} to {high}"
        )
    return found[0]


def _work(options: Options, windows: ConstructWindows, model: Model, track: int) -> str:
    """A hash of all that the numbers depend on: an unfinished prediction is found again by it."""
    chosen = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _NOT_OF_THE_NUMBERS
    }
    chosen["constructs"] = windows.digest
    chosen["window"], chosen["track"] = windows.window, track
    chosen["model"] = inference.digest(model)
    chosen["version"] = __version__
    return fingerprint(chosen)


# --- predicting ---------------------------------------------------------------------------------------------------


def _predict(
    options: Options, windows: ConstructWindows, predict: WindowPredictor, unfinished: Path
) -> dict[int, dict[str, Any]]:
    """The predictions of every construct by its index; each is written to `unfinished` as soon as it is there."""
    found = _read_unfinished(unfinished)
    wanted = [position for position, c in enumerate(windows.constructs) if c.index not in found]
    if found:
        print(f"{len(found)} constructs were predicted before; {len(wanted)} to go", flush=True)
    try:
        with (
            unfinished.open("a", encoding="utf-8") as file,
            stopping.deferred() as should_stop,
        ):
            for position in tqdm(wanted, desc="predict", unit="construct", disable=None, leave=False):
                construct = windows.constructs[position]
                rows = np.flatnonzero(windows.construct == position)
                predicted: list[float] = []
                maxima = []
                for start in range(0, len(rows), options.batch_size):
                    batch = rows[start : start + options.batch_size]
                    with compilation.compiling(position == wanted[0] and not start):
                        answer = predict(windows.sequences(batch))
                    predicted += answer.activity.tolist()
                    maxima += [
                        site_maxima(signal, construct.sites, int(offset))
                        for signal, offset in zip(answer.signal, windows.offset[batch], strict=True)
                    ]
                found[construct.index] = {"predicted": predicted, "maxima": maxima}
                file.write(json.dumps({"index": construct.index, **found[construct.index]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
                if should_stop():
                    done = f"{len(found)} of {len(windows.constructs)} constructs"
                    raise Stopped(f"after {done}; the same command goes on from there")
    except tf.errors.ResourceExhaustedError as error:
        raise OutOfMemory(
            f"out of memory with --batch_size {options.batch_size} ({one_line(error)}); choose a smaller one"
        ) from None
    return found


def _read_unfinished(path: Path) -> dict[int, dict[str, Any]]:
    """What an earlier process has predicted; what follows a line that it was killed in is cut off."""
    if not path.exists():
        return {}
    found = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            maxima = [{int(site): value for site, value in window.items()} for window in entry["maxima"]]
            if not line.endswith("\n"):
                raise ValueError(line)
            found[entry["index"]] = {"predicted": entry["predicted"], "maxima": maxima}
        except (ValueError, KeyError, TypeError, AttributeError):
            write_whole(path, "".join(lines[:number]))
            break
    return found


# --- what comes out -----------------------------------------------------------------------------------------------


def _table(windows: ConstructWindows, found: dict[int, dict[str, Any]]) -> pd.DataFrame:
    """A row for each window; `peak` is `name=maximum;...` of the sites in it, `peaksum` their sum, `outside` how many
    sites of the construct are not in it."""
    predicted, peaksum, peak, outside = [], [], [], []
    for construct in windows.constructs:
        entry = found[construct.index]
        predicted += entry["predicted"]
        for maxima in entry["maxima"]:
            peaksum.append(sum(maxima.values()))
            outside.append(len(construct.sites) - len(maxima))
            peak.append(
                ";".join(f"{construct.sites[site].name}={value:.6g}" for site, value in maxima.items())
            )
    rows = np.arange(len(windows))
    return windows.table(rows).assign(predicted=predicted, peaksum=peaksum, peak=peak, outside=outside)


def _keep(
    options: Options, run: "Run", windows: ConstructWindows, table: pd.DataFrame, constructs: pd.DataFrame
) -> None:
    run.keep_table("predictions", table[_COLUMNS])
    run.keep_table("constructs", constructs)
    run.use_dataset(
        name=Path(options.data).name,
        digest=windows.digest,
        source=options.data,
        context="prediction",
    )
    columns = {
        "predicted": "predicted activity",
        "peaksum": f"sum of {options.head} {options.track} at sites",
    }
    columns = {name: label for name, label in columns.items() if constructs[name].notna().all()}
    with tempfile.TemporaryDirectory() as temporary:
        for column, label in columns.items():
            path = Path(temporary, f"{column}.png")
            run.keep(reporting.write_activity_figure(constructs, "all constructs", path, column, label))
    parts = {"all": constructs, **dict(list(constructs.groupby("fold")))}
    comparisons = [compare_predictors(part, list(columns)).assign(fold=fold) for fold, part in parts.items()]
    comparison = pd.concat(comparisons, ignore_index=True)
    run.keep_table("comparison", comparison)
    run.summarize(
        {
            f"{kind}/{row.predictor}": getattr(row, kind)
            for row in comparisons[0].itertuples()
            for kind in ("pearson", "spearman")
        }
    )
    if outside := int(table["outside"].sum()):
        print(f"annotated sites outside of a window, and not in its peaksum: {outside} in all windows")
    labels = [
        f"{columns[row.predictor]}, {row.constructs} of fold {row.fold}" for row in comparison.itertuples()
    ]
    print(reporting.comparison_text(comparison.assign(predictor=labels)))
    if "predicted" in columns:
        print(
            "Of folds that it was trained on, these say how well the model remembers, not how well it predicts."
        )
