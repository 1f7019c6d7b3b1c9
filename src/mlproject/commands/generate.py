"""Write sequences with a wanted activity, judged by a model that the one who wrote them never saw."""

import dataclasses
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import tensorflow as tf
from scipy import stats
from tqdm import tqdm

from enformer_core import dna
from mlproject import design, generators, reporting, stopping
from mlproject.baselines import kmer_shares
from mlproject.constraints import Plan, parse_constraints
from mlproject.data.demo_mpra import expected_activity
from mlproject.data.files import check_new, explained, read_lines, write_whole
from mlproject.errors import InputError, OutOfMemory, Stopped, one_line
from mlproject.evaluation import correlation
from mlproject.generators import Functions, Generators
from mlproject.motifs import parse_forbidden

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Write sequences with a wanted activity; each is judged by a second model, which the first never saw."""

    model: str = "newest"
    """Models: newest (the last run of joint in the store), runs:/ID, or a folder with what joint keeps as models."""
    target_activity: tuple[float, ...] = ()
    """Wanted activities, in the units of the labels; none: five, low to high among those of cell_type, or of all."""
    cell_type: str = ""
    """Cell type in which the activity is wanted; none: the first with labels."""
    num_sequences: int = 100
    """Sequences in all, spread evenly over the targets."""
    method: Literal["sample", "evolve"] = "sample"
    """sample: written letter by letter; evolve: changed step by step as long as the prediction gets nearer."""
    temperature: float | None = None
    """0 is greedy. sample: of the letters drawn; evolve: in units of activity. none: 0.5 for sample, 0 for evolve."""
    length: int = 0
    """Letters of a sequence. 0: of a template in fixed, else the median of the training sequences."""
    fixed: str = ""
    """Letters that are given: POSITION:LETTERS,... from 0, or a template of the whole length with N elsewhere."""
    forbid: tuple[str, ...] = ()
    """Motifs on neither strand: restriction enzymes by name, or letters of IUPAC."""
    gc_min: float = 0.0
    """Least share of G and C."""
    gc_max: float = 1.0
    """Most share of G and C."""
    max_homopolymer: int = 0
    """Longest run of one letter; 0: any."""
    guidance: float = 1.0
    """sample: how far letters are moved away from those without a target; 0: as the model says, in half the time."""
    unmask: int = 1
    """sample: letters revealed in a round; more is faster, and they do not see each other."""
    candidates: int = 8
    """sample: how many are written for each one kept, the one that the generator predicts nearest to its target."""
    start: str = ""
    """evolve: file of sequences to begin with (FASTA, or one on each line); none: random ones."""
    rounds: int = 100
    """evolve: rounds of changes."""
    proposals: int = 20
    """evolve: changed copies of each sequence in a round."""
    mutations: int = 3
    """evolve: most letters changed in a copy, where it does not take a stretch of another sequence or shift one."""
    batch_size: int = 100
    """Sequences that a model sees at once."""
    seed: int = 42
    """Of all that is drawn."""
    output: str = "work/generated"
    """Folder to write to."""
    work_dir: Path = Path("work")
    """Folder for what is fetched."""
    experiment: str = "generate"
    """MLflow experiment."""


_OF_METHOD = {
    "sample": ("guidance", "unmask", "candidates"),
    "evolve": ("start", "rounds", "proposals", "mutations"),
}
_NUM_TARGETS = 5
_MOST_GROUPS = 6  # targets of which the composition is drawn one by one
_WINDOWS = 20  # of positions, in the picture of composition
_FILES = ("generated.fa", "generated.tsv", "random.tsv", "activity.png", "composition.png")


def check(options: Options) -> None:
    """Refuses what cannot run, before a run exists.

    Raises:
        InputError: one line that names the option or the file, what was found and what to do.
    """
    least = {"num_sequences": max(1, len(options.target_activity)), "length": 0, "seed": 0, "batch_size": 1}
    least |= {"unmask": 1, "candidates": 1, "rounds": 0, "proposals": 1, "mutations": 1, "temperature": 0}
    for name, lowest in least.items():
        value = getattr(options, name)
        if value is not None and value < lowest:
            why = ", one for each target" if name == "num_sequences" and lowest > 1 else ""
            raise InputError(f"--{name}: found {value:g}; it must be {lowest} or more{why}")
    for method, names in _OF_METHOD.items():
        for name in names:
            if method != options.method and getattr(options, name) != getattr(Options, name):
                raise InputError(f"--{name}: is for --method {method}; found --method {options.method}")
    if length := _given_length(options):
        _plan(options, length)
    else:  # the rest waits for the length
        parse_constraints(1, "", (), options.gc_min, options.gc_max, options.max_homopolymer)
        parse_forbidden(options.forbid)
    if options.start:
        design.read_start(options.start, length) if length else read_lines(options.start, "start")
    if not generators.is_address(options.model):
        try:
            generators.check_folder(options.model)
        except InputError as error:
            raise InputError(f"--model {options.model}: {error}") from None
    folder = Path(options.output)
    if not folder.name or (os.path.exists(folder) and not folder.is_dir()):
        raise InputError(f"--output: found {options.output!r}; expected the name of a folder to write to")
    with explained(f"--output {options.output}: cannot be written", (OSError,)):
        check_new(folder / _FILES[0])


def run(options: Options, run: "Run") -> int:
    """Reads the models, writes sequences, judges them, and keeps files, tables and pictures."""
    tf.config.experimental.enable_op_determinism()
    began = time.perf_counter()
    word = generators.newest() if options.model == "newest" else options.model
    models = generators.read(word, options.work_dir)
    cell_type, cell = models.cell(options.cell_type)
    length = _given_length(options) or models.usual_length
    if length > models.most_letters:
        raise InputError(f"--length: found {length}; these models take {models.most_letters} at most")
    if options.method == "sample" and not models.writes:
        raise InputError(
            "--method sample: masked letters were no part of this training, so its model cannot write; choose evolve"
        )
    plan = _plan(options, length)
    targets = _targets(options, models, cell_type)
    if cell_type not in models.labelled:
        print(
            f"{cell_type}: no activity of this cell type was trained on; it is known from tracks and other cell types "
            f"alone ({', '.join(models.labelled)} have labels)"
        )
    # a stream of its own: those of `design` have two numbers
    random = plan.random(len(targets), models.composition, np.random.default_rng([options.seed, 0, 1]))
    generator, judge = (
        Functions(one.model, cell, options.batch_size) for one in (models.generator, models.judge)
    )
    try:
        codes, start = _written(options, run, generator, plan, targets, random)
        tables = [
            _table(name, found, targets, models, cell_type, generator, judge)
            for name, found in (("generated", codes), ("random", random))
        ]
    except tf.errors.ResourceExhaustedError as error:
        raise OutOfMemory(
            f"out of memory with --batch_size {options.batch_size} ({one_line(error)}); choose a smaller one"
        ) from None
    if start is not None:
        tables[0] = tables[0].assign(start=start)
    run.tag({"model": word})
    _keep(options, run, models, cell_type, *tables)
    run.summarize({"seconds/total": time.perf_counter() - began})
    return 0


# --- what goes in -------------------------------------------------------------------------------------------------


def _given_length(options: Options) -> int:
    """The length that options name; 0 where they leave it to the training sequences."""
    template = "" if ":" in options.fixed else options.fixed.strip()
    return options.length or len(template)


def _plan(options: Options, length: int) -> Plan:
    constraints = parse_constraints(
        length, options.fixed, options.forbid, options.gc_min, options.gc_max, options.max_homopolymer
    )
    return constraints.plan()


def _targets(options: Options, models: Generators, cell_type: str) -> np.ndarray:
    """The target of each sequence, `[n]`: those of one target together."""
    has_labels = cell_type in models.labelled
    low, high = models.activity_by_cell_type[cell_type] if has_labels else models.activity
    wanted = options.target_activity or np.linspace(low, high, _NUM_TARGETS).tolist()
    if options.num_sequences < len(wanted):
        raise InputError(
            f"--num_sequences: found {options.num_sequences}; it must be {len(wanted)} or more, one for each target"
        )
    if beyond := [target for target in wanted if not low <= target <= high]:
        said = ", ".join(f"{target:g}" for target in beyond)
        whose = cell_type if has_labels else "other cell types"
        print(
            f"target_activity {said}: 90% of the training labels of {whose} are from {low:.3g} to {high:.3g}; what "
            "the models say beyond is a guess"
        )
    share, rest = divmod(options.num_sequences, len(wanted))
    return np.repeat(wanted, [share + (place < rest) for place in range(len(wanted))])


# --- writing ------------------------------------------------------------------------------------------------------


def _written(
    options: Options,
    run: "Run",
    generator: Functions,
    plan: Plan,
    targets: np.ndarray,
    random: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The sequences `[n, L]` uint8, and of each the number of the given one that it began with."""
    temperature = options.temperature
    if temperature is None:
        temperature = 0.5 if options.method == "sample" else 0.0
    how = {"temperature": temperature, "seed": options.seed, "batch_size": options.batch_size}
    rounds = options.rounds if options.method == "evolve" else int((plan.known >= 4).sum())
    unit = "round" if options.method == "evolve" else "letter"
    bar = tqdm(total=rounds, desc=options.method, unit=unit, disable=None, leave=False)
    with stopping.deferred() as should_stop, bar:

        def progress(done: int, total: int = rounds) -> None:
            bar.update(done - bar.n)
            if should_stop():
                raise Stopped(f"after {done} of {total} {unit}s; nothing was written")

        if options.method == "sample":
            more = {"step": options.unmask, "guidance": options.guidance, "progress": progress}
            count = options.candidates if temperature else 1  # greedy ones would all be the same
            wanted = np.repeat(targets, count)
            codes = design.sample(generator.logits, plan, wanted, **how, **more)  # type: ignore[arg-type]
            return _nearest_to_target(codes, targets, generator), None
        first, number = random, None
        if options.start:
            given = design.read_start(options.start, plan.length)
            number = np.concatenate([np.arange(count) for count in np.unique(targets, return_counts=True)[1]])
            number %= len(given)
            first, number = given[number], number + 1
            if len(set(number)) < len(given):
                print(f"start {options.start}: the first {len(set(number))} of {len(given)} are begun with")
        evolved = design.evolve(
            generator.predict,
            plan,
            targets,
            first,
            rounds=options.rounds,
            proposals=options.proposals,
            mutations=options.mutations,
            progress=progress,
            **how,  # type: ignore[arg-type]
        )
    for done, distance in enumerate(evolved.history):
        run.log(done, {"evolve/distance": float(distance)})
    return evolved.codes, number


def _nearest_to_target(codes: np.ndarray, targets: np.ndarray, generator: Functions) -> np.ndarray:
    """Of the candidates of each target, the one that the generator predicts nearest to it; of equals the first."""
    count = len(codes) // len(targets)
    if count == 1:
        return codes
    distance = np.abs(generator.predict(codes) - np.repeat(targets, count)).reshape(-1, count)
    return codes[np.arange(len(targets)) * count + distance.argmin(axis=1)]


def _table(
    name: str,
    codes: np.ndarray,
    targets: np.ndarray,
    models: Generators,
    cell_type: str,
    generator: Functions,
    judge: Functions,
) -> pd.DataFrame:
    """A row for each sequence: what both models say of it, and what it is like."""
    sequences = dna.letters(codes)
    neighbour, distance = design.nearest(sequences, models.sequences)
    digits = len(str(len(codes)))
    names = [f"{name}_{number:0{digits}d}" for number in range(1, len(codes) + 1)]
    first: dict[str, str] = {}
    originals = [first.setdefault(sequence, own) for sequence, own in zip(sequences, names, strict=True)]
    table = pd.DataFrame({"name": names, "target": targets, "predicted": generator.predict(codes)})
    table["judged"] = judge.predict(codes)
    if models.grammar is not None and cell_type in models.grammar.cell_types:
        table["expected"] = expected_activity(sequences, cell_type, models.grammar)
    return table.assign(
        gc=np.isin(codes, (1, 2)).mean(axis=1),
        length=codes.shape[1],
        nearest=[models.names[place] for place in neighbour],
        edit_distance=distance,
        cell_type=cell_type,
        duplicate_of=["" if one == own else one for one, own in zip(originals, names, strict=True)],
        sequence=sequences,
    )


# --- what comes out -----------------------------------------------------------------------------------------------


def _keep(
    options: Options,
    run: "Run",
    models: Generators,
    cell_type: str,
    generated: pd.DataFrame,
    random: pd.DataFrame,
) -> None:
    judges = {
        "judged": "judged by the other model",
        "predicted": "predicted by the generator",
        "expected": "expected by the grammar",
    }
    judges = {name: said for name, said in judges.items() if name in generated}
    agreement = pd.concat(
        [
            _agreement(generated, "generated", judges),
            _agreement(random, "random", judges),
        ],
        ignore_index=True,
    )
    title = f"Sequences for {cell_type}, by {options.method}"
    folder = Path(options.output)
    with (
        stopping.deferred(),
        explained(f"--output {options.output}: cannot be written", (OSError,)),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "generated.fa", _fasta(generated))
        for frame, name in ((generated, "generated"), (random, "random")):
            write_whole(folder / f"{name}.tsv", frame.to_csv(sep="\t", index=False, float_format="%.6g"))
        with tempfile.TemporaryDirectory(prefix=".pictures-", dir=folder) as temporary:
            path = Path(temporary, "activity.png")
            reporting.write_generated_figure(generated, random, judges, title, path)
            groups, positions = _compositions(generated, random, models)
            reporting.write_composition_figure(groups, positions, title, path.with_name("composition.png"))
            for picture in Path(temporary).iterdir():
                os.replace(picture, folder / picture.name)
        for name in ("generated.fa", "activity.png", "composition.png"):
            run.keep(folder / name)
        run.keep_table("generated", generated)
        run.keep_table("random", random)
        run.keep_table("agreement", agreement)
        digest = hashlib.sha256("\n".join(models.sequences).encode()).hexdigest()
        run.use_dataset(name="training sequences", digest=digest, source=options.model, context="generation")
        numbers = _numbers(generated, random, agreement)
        run.summarize({name: value for name, value in numbers.items() if np.isfinite(value)})
    _say(options, models, cell_type, generated, agreement, numbers)


def _fasta(table: pd.DataFrame) -> str:
    return "".join(
        f">{row.name} target={row.target:.6g} predicted={row.predicted:.6g} judged={row.judged:.6g} "
        f"cell_type={row.cell_type}\n{row.sequence}\n"
        for row in table.itertuples(index=False)
    )


def _agreement(table: pd.DataFrame, sequences: str, judges: Mapping[str, str]) -> pd.DataFrame:
    """How what is said of sequences follows their targets; copies of one sequence are drawn together."""
    rows = []
    for column, said in judges.items():
        found = correlation(table["target"].to_numpy(), table[column].to_numpy(), table["sequence"].tolist())
        error = float((table[column] - table["target"]).abs().mean())
        what = f"{'random, ' if sequences == 'random' else ''}{said}"
        rows.append({"sequences": sequences, "by": column, "what": what, **found._asdict(), "error": error})
    return pd.DataFrame(rows)


def _compositions(
    generated: pd.DataFrame, random: pd.DataFrame, models: Generators
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Shares of letters: of groups of sequences, and in windows along the sequence."""
    groups: dict[str, Sequence[str]] = {"training": models.sequences, "random": random["sequence"].tolist()}
    if generated["target"].nunique() <= _MOST_GROUPS:
        for target, rows in generated.groupby("target"):
            groups[f"target {target:.3g}"] = rows["sequence"].tolist()
    else:
        groups["generated"] = generated["sequence"].tolist()
    length = int(generated["length"].iloc[0])
    shares = {name: _shares(generators.letter_codes(own, length))[0] for name, own in groups.items()}
    starts = np.unique(np.linspace(0, length, min(_WINDOWS, length), endpoint=False).astype(int))
    positions = {}
    for name, own in (("generated", generated["sequence"].tolist()), ("training", models.sequences)):
        found = _shares(generators.letter_codes(own, length), starts)
        ends = np.append(starts[1:], length)
        positions[name] = pd.DataFrame(found, columns=list("ACGT")).assign(position=(starts + ends) / 2)
    table = pd.DataFrame.from_dict(shares, orient="index", columns=list("ACGT"))
    return table.assign(n=[len(own) for own in groups.values()]), positions


def _shares(codes: np.ndarray, starts: Sequence[int] | np.ndarray = (0,)) -> np.ndarray:
    """Shares of A, C, G and T among those in each window that begins at one of `starts`: `[windows, 4]`."""
    counts = np.stack([(codes == base).sum(axis=0) for base in range(4)], axis=1)
    counts = np.add.reduceat(counts, starts)
    return counts / np.maximum(1, counts.sum(axis=1, keepdims=True))


def _numbers(generated: pd.DataFrame, random: pd.DataFrame, agreement: pd.DataFrame) -> dict[str, float]:
    """The final numbers of the run."""
    numbers: dict[str, float] = {}
    for row in agreement.itertuples():
        prefix = f"{row.by}/" if row.sequences == "generated" else f"random/{row.by}_"
        numbers |= {f"{prefix}{kind}": getattr(row, kind) for kind in ("spearman", "pearson", "error")}
    length = int(generated["length"].iloc[0])
    diverse = design.diversity(generators.letter_codes(generated["sequence"].tolist(), length))
    return numbers | {
        "diversity/hamming": diverse.hamming,
        "diversity/distinct": diverse.distinct,
        "diversity/kmers": _effective_kmers(generated),
        "random/diversity_kmers": _effective_kmers(random),
        "edit_distance/median": float(generated["edit_distance"].median()),
        "random/edit_distance_median": float(random["edit_distance"].median()),
        "gc/mean": float(generated["gc"].mean()),
    }


def _effective_kmers(table: pd.DataFrame) -> float:
    """How many of the 512 5-mers, on either strand, there are, each counted by its share (Hill number of order 1)."""
    shares = kmer_shares(table["sequence"]).mean(axis=0)
    # no sequence has five letters
    return float(np.exp(stats.entropy(shares))) if shares.any() else float("nan")


def _say(
    options: Options,
    models: Generators,
    cell_type: str,
    generated: pd.DataFrame,
    agreement: pd.DataFrame,
    numbers: Mapping[str, float],
) -> None:
    targets = generated["target"].unique()
    print(
        f"{options.output}: {len(generated)} sequences of {generated['length'].iloc[0]} letters by {options.method}, "
        f"for {len(targets)} target{'s' * (len(targets) > 1)} in {cell_type}"
    )
    print(reporting.generated_text(agreement))
    kmers = ""
    if np.isfinite(numbers["diversity/kmers"]):
        kmers = f"; effective number of 5-mers, of 512: {numbers['diversity/kmers']:.0f}"
        kmers += f" (random ones: {numbers['random/diversity_kmers']:.0f})"
    print(
        f"{numbers['diversity/distinct']:.0f} of {len(generated)} are different; two differ at "
        f"{numbers['diversity/hamming']:.0%} of positions{kmers}; the nearest training sequence is "
        f"{numbers['edit_distance/median']:g} edits away (median; of random ones "
        f"{numbers['random/edit_distance_median']:g}); GC {numbers['gc/mean']:.0%}"
    )
    judge = models.judge.held_out.get(cell_type, (np.nan,) * 3)
    both = [
        f"{name} {reporting.with_interval(*one.held_out[cell_type])}"
        for name, one in (("generator", models.generator), ("judge", models.judge))
        if cell_type in one.held_out
    ]
    print(f"Held-out Pearson r in {cell_type}: {', '.join(both) or 'not known'}")
    if not judge[1] > 0:
        print(
            f"warning: the judge is not known to follow activity in {cell_type}: what it says may be by chance"
        )
    print(
        f"Judged by a model of another seed ({models.judge.seed}; the generator's is {models.generator.seed}) that was "
        "trained on the same data: it can share the generator's errors, and is no experiment."
    )
