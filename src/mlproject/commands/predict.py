"""Predict the signal of any tracks over regions of a genome, as bigWig, bedGraph and arrays."""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from enformer_core.dna import ONE_HOT
from enformer_core.enformer import BIN_SIZE_BP, Enformer, preset
from mlproject import __version__, compilation, inference, reporting, stopping, weights
from mlproject.data import head_tracks, predictions, signal_files
from mlproject.data.demo import demo_inputs
from mlproject.data.files import check_new, check_room, explained, new_folder
from mlproject.data.genome import Genome, Interval, name_some
from mlproject.data.head_tracks import Track
from mlproject.data.predictions import FragmentFolder, Stretch
from mlproject.data.regions import (
    Fragment,
    Letters,
    Region,
    Span,
    fragments_of,
    read_codes,
    read_letters,
    read_regions,
    resized,
)
from mlproject.data.signal_files import FORMATS
from mlproject.data.targets import as_rows, read_targets
from mlproject.errors import InputError, OutOfMemory, Stopped, one_line
from mlproject.inference import Model, SignalPredictor
from mlproject.options import nearest
from mlproject.resuming import fingerprint, only_one
from mlproject.signal_tables import predicted_table, table_name
from mlproject.tensorhub import TensorHubModel

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Predict the signal of tracks over regions: fragments of them are predicted, averaged and written."""

    regions: str = ""
    """Where: a BED file, or a comma list of chrom:start-end (0-based, half-open). Empty: every record of the FASTA."""
    fasta: str = "demo"
    """The sequence: FASTA, plain or compressed; demo: the made-up human genome of the demo dataset."""
    weights: str = "newest"
    """Model: newest (the last one of the store that was trained on tracks), or as in finetune; TF-Hub's too."""
    weights_dir: str = ""
    """Where the published or TF-Hub weights are, in place of ENFORMERBASELINE or ENFORMERTENSORHUB."""
    download: bool = False
    """Whether published weights that are not there may be fetched from their bucket."""
    preset: Literal["full", "quarter", "tiny"] = "tiny"
    """Size of a random model; other weights have their own."""
    head: str = ""
    """Track head: one of the model's, or the folder or runs:/ID of another. Empty: the trained one, else the first."""
    targets: str = ""
    """Table of the head's tracks, a targets.txt, for identifiers and strands; empty: what the model knows of them."""
    tracks: str = ""
    """Comma list: indices, ranges 3-7, identifiers, or patterns (*, ?) of those and of descriptions. Empty: all."""
    length: int = 0
    """Sequence that the model reads for a fragment, in bp, a multiple of 128. 0: the model's own."""
    strands: Literal["forward", "both"] = "forward"
    """both: the mean of the prediction and of that of the reverse complement, read back."""
    shifts: int = 0
    """N: the mean over N + 1 windows, 1 bp apart; an even N is centred. 0: one window."""
    variance: bool = False
    """Whether to write the variance over windows, strands and overlapping fragments too."""
    batch_size: int = 1
    """Fragments of a call of the model."""
    formats: tuple[str, ...] = ("npz", "bigwig")
    """What to write beside the table and the picture: any of npz, bigwig, bedgraph."""
    output: str = "work/predicted"
    """Folder to write, whole or not at all."""
    work_dir: Path = Path("work")
    """Folder for the demo, fetched weights and unfinished predictions."""
    experiment: str = "predict"
    """MLflow experiment."""


_RANDOM_LENGTH = 16_384  # bp, of a random model
_MANIFEST = "prediction.json"
_MANY_TRACKS = 300
_MOST_PANELS = 8
_MOST_ROWS = 50_000  # of the table that the run keeps
_ROW_BYTES = 200  # of a row of regions.tsv, at most


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    for name in ("length", "shifts"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name}: found {getattr(options, name)}; it cannot be negative")
    if options.batch_size < 1:
        raise InputError(f"--batch_size: found {options.batch_size}; it must be 1 or more")
    if options.length % BIN_SIZE_BP:
        near = max(1, round(options.length / BIN_SIZE_BP)) * BIN_SIZE_BP
        raise InputError(
            f"--length: found {options.length}; it must be a multiple of {BIN_SIZE_BP} bp, such as {near}"
        )
    for name in options.formats:
        if name not in FORMATS:
            raise InputError(
                f"--formats: found {name!r}{nearest(name, FORMATS)}; it can be {', '.join(FORMATS)}"
            )
    weights.check(options.weights, options.weights_dir, options.download)
    output = Path(options.output)
    if not output.name:
        raise InputError(f"--output: found {options.output!r}; expected the name of a folder to write")
    if os.path.lexists(output) and not os.path.isfile(output / _MANIFEST):
        raise InputError(f"--output {output}: is there and is no prediction; name a folder that is not there")
    if not os.path.lexists(output):
        with explained(f"--output {output}: cannot be written", (OSError,)):
            check_new(output)
    if options.targets:
        head_tracks.choose(options.tracks, head_tracks.of_targets(read_targets(options.targets)))
    with contextlib.closing(_genome(options)) as genome:
        read_regions(options.regions, genome.lengths)


def run(options: Options, run: "Run") -> int:
    """Predicts the fragments that are missing, then joins and writes them."""
    began = time.perf_counter()
    word = options.weights
    if word == "newest":
        word = weights.newest(("ablation", "train_head"), "model that was trained on tracks")
    model: Model = weights.load(
        word,
        weights_dir=options.weights_dir,
        download=options.download,
        work_dir=options.work_dir,
        random=lambda: _untrained(options),
    )
    with contextlib.closing(_genome(options)) as genome:
        work = _work(options, genome, model, word)
        saved = FragmentFolder(options.work_dir / "predict" / work.numbers)
        if _is_done(options, work):
            _forget(saved)
            print(f"{options.output}: holds this prediction already; nothing to do")
            return 0
        _say(options, work)
        with only_one(_lock(saved)):
            with explained(f"work_dir {options.work_dir}: cannot be written", (OSError,)):
                wanted = saved.missing(len(work.fragments))
            _check_room(options, work, len(wanted))
            _predict(options, genome, work, saved, wanted)
            predicted = time.perf_counter()
            _check_room(options, work, 0)
            _write(options, run, genome, work, saved)
            saved.remove()
    run.use_dataset(
        name=Path(options.fasta).name,
        digest=work.letters.digest,
        source=options.fasta,
        context="prediction",
    )
    run.tag({"output": str(Path(options.output).resolve()), "prediction": work.result})
    run.summarize(
        {
            "fragments": len(work.fragments),
            "bins": work.bins,
            "tracks": len(work.tracks),
            "seconds/predict": predicted - began,
            "seconds/total": time.perf_counter() - began,
        }
    )
    print(
        f"{options.output}: {len(work.regions):,} regions, {len(work.fragments):,} fragments, {work.bins:,} bins of "
        f"{BIN_SIZE_BP} bp x {len(work.tracks):,} tracks of head {work.head}, by {word}"
    )
    return 0


# --- what goes in -------------------------------------------------------------------------------------------------


class _Work(NamedTuple):
    """What is to be predicted, and by what."""

    word: str
    head: str
    tracks: list[Track]
    predict: SignalPredictor
    regions: list[Region]
    spans: list[Span]
    fragments: list[Fragment]
    stretches: list[Stretch]
    letters: Letters
    model: str
    """Digest of the model."""
    numbers: str
    """A hash of all that the numbers of the fragments depend on: an unfinished prediction is found again by it."""
    result: str
    """A hash of that and of all names and regions: a finished prediction is known by it."""

    @property
    def bins(self) -> int:
        return self.stretches[-1].offset + self.stretches[-1].bins


def _genome(options: Options) -> Genome:
    path = _demo_human(options) / "genome.fa" if options.fasta == "demo" else options.fasta
    return Genome(path, options.work_dir)


def _demo_human(options: Options) -> Path:
    return demo_inputs(options.work_dir) / "human"


def _untrained(options: Options) -> Enformer:
    """A random model: of the demo with the demo's tracks, else with the published heads."""
    length = options.length or _RANDOM_LENGTH
    if options.fasta != "demo":
        return weights.untrained(options.preset, length, seed=0)
    rows = as_rows(read_targets(_demo_human(options) / "targets.txt"))
    config = preset(options.preset, heads={"human": len(rows)}, sequence_length=length, target_length=None)
    model = Enformer(config)
    model.tracks["human"] = rows
    return model


def _work(options: Options, genome: Genome, model: Model, word: str) -> _Work:
    model, head = weights.with_head(model, options.head, options.work_dir)
    tracks = _tracks(options, model, head)
    both = options.strands == "both"
    shape = inference.geometry(model, options.length, both)
    predict = SignalPredictor(
        model,
        head,
        [track.position for track in tracks],
        [track.partner for track in tracks],
        shape,
        shifts=options.shifts,
        both_strands=both,
        variance=options.variance,
        batch_size=options.batch_size,
    )
    regions = read_regions(options.regions, genome.lengths)
    spans = [resized(region, shape.span) for region in regions]
    fragments = fragments_of(spans, shape.span)
    letters = read_letters(genome, [_read_for(span, predict) for span in spans])
    digest = inference.digest(model)
    numbers = fingerprint(
        {
            "model": digest,
            "head": head,
            "tracks": [(track.position, track.partner if both else None) for track in tracks],
            "shape": shape,
            **{name: getattr(options, name) for name in ("strands", "shifts", "variance")},
            "fragments": fragments,
            "letters": letters.digest,
            "version": __version__,
        }
    )
    result = fingerprint({"numbers": numbers, "regions": regions, "tracks": tracks})
    stretches = predictions.stretches_of(fragments, shape.bins, genome.lengths)
    places = (regions, spans, fragments, stretches, letters)
    return _Work(word, head, tracks, predict, *places, digest, numbers, result)


def _read_for(span: Span, predict: SignalPredictor) -> Interval:
    """What the model reads of the genome for a region."""
    start = span.start - predict.before
    return Interval(span.chrom, start, span.end - predict.shape.span - predict.before + predict.length)


def _tracks(options: Options, model: Model, head: str) -> list[Track]:
    """Which tracks of the head are chosen."""
    known = head_tracks.of_head(
        head,
        inference.count_tracks(model, head),
        read_targets(options.targets) if options.targets else None,
        None if isinstance(model, TensorHubModel) else model.tracks.get(head),
    )
    if options.strands == "both" and not any(track.description for track in known):
        print(
            f"What the {len(known)} tracks of head {head} are is not known: on the other strand each is taken for "
            "itself. A targets.txt with strand_pair (--targets) says which of them are exchanged.",
            flush=True,
        )
    return head_tracks.choose(options.tracks, known)


def _say(options: Options, work: _Work) -> None:
    """What is known before the first prediction: letters, and the cost of many tracks."""
    if line := work.letters.summary():
        print(line, flush=True)
    empty = [
        str(region)
        for region in work.regions
        if work.letters.unknown_in(Interval(*region[1:]), region.end)[0] == region.end - region.start
    ]
    if empty:
        print(f"regions of N alone, whose prediction says nothing of them: {name_some(empty)}", flush=True)
    if len(work.tracks) > _MANY_TRACKS:
        print(
            signal_files.cost(work.bins, len(work.tracks), 1 + options.variance, options.formats), flush=True
        )


def _check_room(options: Options, work: _Work, missing: int) -> None:
    """Refuses what the disks have no room for: fragments that are missing, arrays that are joined, and files."""
    tracks, arrays = len(work.tracks), 1 + options.variance
    files = signal_files.size(("npz", *options.formats), work.bins, tracks, arrays)
    table = len(work.regions) * tracks * _ROW_BYTES
    fragments = FragmentFolder.size(missing, work.predict.shape.bins, tracks, arrays)
    check_room(
        [("--output", Path(options.output), files + table), ("work_dir", options.work_dir, fragments)],
        "free some, choose a folder on another disk, or fewer tracks, regions or formats",
    )


def _lock(saved: FragmentFolder) -> Path:
    return saved.path.with_suffix(".lock")


def _forget(saved: FragmentFolder) -> None:
    """Removes fragments that a process left which was killed when all had been written."""
    if saved.path.exists():
        with contextlib.suppress(InputError, OSError), only_one(_lock(saved)):
            saved.remove()


def _manifest(options: Options, work: _Work) -> dict[str, Any]:
    shape = work.predict.shape
    regions = "".join("\t".join(map(str, region)) + "\n" for region in work.regions)
    return {
        "prediction": work.result,
        "formats": sorted(options.formats),
        "weights": work.word,
        "model_sha256": work.model,
        "fasta": options.fasta,
        "sequence_sha256": work.letters.digest,
        "regions": len(work.regions),
        "regions_sha256": hashlib.sha256(regions.encode()).hexdigest(),
        "head": work.head,
        "tracks": len(work.tracks),
        "track_indices": head_tracks.index_text(work.tracks),
        "bin_size": BIN_SIZE_BP,
        "length": shape.length,
        "predicted": shape.span,
        "strands": options.strands,
        "shifts": options.shifts,
        "variance": options.variance,
        "version": __version__,
    }


def _is_done(options: Options, work: _Work) -> bool:
    """Whether the output is there.

    Raises:
        InputError: it is another prediction, or this one in other formats.
    """
    output = Path(options.output)
    if not os.path.lexists(output):
        return False
    try:
        manifest = json.loads((output / _MANIFEST).read_text(encoding="utf-8"))
        numbers, formats = manifest["prediction"], manifest["formats"]
    except (OSError, ValueError, KeyError, TypeError):
        numbers, formats = None, []
    if numbers != work.result:
        raise InputError(f"--output {output}: holds another prediction; remove it, or name another folder")
    if lacking := [name for name in options.formats if name not in formats]:
        raise InputError(
            f"--output {output}: holds this prediction without {', '.join(lacking)}; to predict again and write that, "
            f"give --formats {','.join(lacking)} and another folder, such as --output {output}_{lacking[0]}"
        )
    return True


# --- predicting ---------------------------------------------------------------------------------------------------


def _predict(
    options: Options, genome: Genome, work: _Work, saved: FragmentFolder, wanted: Sequence[int]
) -> None:
    """Computes the fragments that are missing; each is on disk as soon as it is there."""
    total = len(work.fragments)
    before = total - len(wanted)
    if before:
        print(f"{before:,} fragments were predicted before; {len(wanted):,} to go", flush=True)
    try:
        with (
            stopping.deferred() as should_stop,
            tqdm(None, "predict", total, False, initial=before, unit="fragment", disable=None) as bar,
        ):
            for first in range(0, len(wanted), options.batch_size):
                batch = wanted[first : first + options.batch_size]
                with compilation.compiling(first == 0):
                    answer = work.predict(_sequences(genome, work, batch))
                for row, number in enumerate(batch):
                    mean = answer.mean[row]
                    if not np.isfinite(mean).all():
                        chrom, start = work.fragments[number]
                        raise InputError(
                            f"--weights {work.word}: predicts NaN or infinite values at {chrom}:{start}; take others"
                        )
                    spread = None if answer.spread is None else answer.spread[row]
                    with explained(f"work_dir {options.work_dir}: cannot be written", (OSError,)):
                        saved.save(number, predictions.Moments(mean, spread))
                bar.update(len(batch))
                if should_stop():
                    done = f"{before + first + len(batch)} of {total} fragments"
                    raise Stopped(f"after {done}; the same command goes on from there")
    except tf.errors.ResourceExhaustedError as error:
        raise OutOfMemory(
            f"out of memory with --length {work.predict.shape.length} --batch_size {options.batch_size} "
            f"({one_line(error)}); choose a smaller one"
        ) from None


def _sequences(genome: Genome, work: _Work, numbers: Sequence[int]) -> np.ndarray:
    """What is read for fragments: one-hot `[n, length + shifts, 4]`."""
    codes = []
    for chrom, place in (work.fragments[number] for number in numbers):
        start = place - work.predict.before
        codes.append(read_codes(genome, chrom, start, start + work.predict.length))
    return ONE_HOT[np.stack(codes)]


# --- what comes out -----------------------------------------------------------------------------------------------


def _write(options: Options, run: "Run", genome: Genome, work: _Work, saved: FragmentFolder) -> None:
    """Joins the fragments and writes all files; the folder appears whole."""
    output = Path(options.output)
    kinds = ["values"] + ["variance"] * options.variance
    with (
        explained(f"--output {output}: cannot be written", (OSError,)),
        new_folder(output) as folder,
    ):
        if folder is None:
            raise InputError(f"--output {output}: another process has written it meanwhile")
        paths = {kind: folder / f".{kind}.npy" for kind in kinds}
        arrays = {
            kind: predictions.open_values(path, work.bins, len(work.tracks)) for kind, path in paths.items()
        }
        predictions.join(
            work.fragments,
            saved.load,
            work.stretches,
            work.predict.shape.bins,
            work.predict.count,
            arrays["values"],
            arrays.get("variance"),
        )
        signal_files.write_formats(
            folder, options.formats, paths, work.stretches, work.tracks, genome.lengths
        )
        reads = [(_read_for(span, work.predict), genome.lengths[span.chrom]) for span in work.spans]
        unknown = [work.letters.unknown_in(*read) for read in reads]
        places = (work.regions, work.spans, unknown, work.stretches, work.tracks)
        path = folder / "regions.tsv"
        table = predictions.write_table(path, *places, arrays["values"], _MOST_ROWS)
        title = f"{work.regions[0]}, predicted by {work.word}"
        reporting.write_signal_figure(_panels(work, arrays), title, folder / "signal.png")
        with explained("the store's artifacts: cannot be written", (OSError,)):
            run.keep(folder / "signal.png")
            signals = predicted_table(work.spans, work.stretches, work.tracks, **arrays)
            run.keep_parquet(table_name(work.head), signals)
            if table is not None:
                run.keep_table("regions", table)
        for path in paths.values():
            path.unlink()
        manifest = json.dumps(_manifest(options, work), indent=2) + "\n"
        (folder / _MANIFEST).write_text(manifest, encoding="utf-8")
    if table is None:
        print(f"{output / 'regions.tsv'}: has too many rows for the run, which does not keep it")


def _panels(work: _Work, arrays: dict[str, np.ndarray]) -> list[reporting.SignalPanel]:
    """The first tracks over all that is predicted of the first region."""
    rows, start = predictions.rows_of(work.spans[0], work.stretches)
    panels = []
    for column, track in enumerate(work.tracks[:_MOST_PANELS]):
        sd = np.sqrt(arrays["variance"][rows, column]) if "variance" in arrays else None
        label = f"{track.index}: {track.identifier}  {track.description}".rstrip()
        panels.append(
            reporting.SignalPanel(
                label, work.spans[0].chrom, start, BIN_SIZE_BP, arrays["values"][rows, column], sd
            )
        )
    return panels
