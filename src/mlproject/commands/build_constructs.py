"""Make constructs, with folds, from payloads and their activity, and the locus that they take the place of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlproject.data import demo_constructs, placement
from mlproject.data.construct_windows import plan_folds
from mlproject.data.constructs import FILE
from mlproject.data.genome import name_some
from mlproject.data.placement import SUMMARY, Inputs, SplitBy, WithoutSequence, build
from mlproject.errors import InputError

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

_MOST_NAMES = 3  # names that are printed of a list
_MUCH = 0.5  # share of 31-mers that another fold has too, above which a split says little


@dataclass(frozen=True)
class Options:
    """Make constructs from payloads and a locus; with no options, from the demo's."""

    output: str = "work/constructs"
    """Folder of the constructs, made whole or not at all."""
    table: str = ""
    """Table with MenDel.Name, groups or group, activity, foldchange; the rows of a payload are averaged."""
    payloads: str = ""
    """FASTA of the payloads, plain or gzip; a ~ of a name may be _ in it."""
    sites: str = ""
    """BED of named sites on the payloads. Empty: none."""
    reference: str = ""
    """FASTA of the genome around the locus: plain, gzip or bgzip."""
    locus: str = ""
    """What a payload takes the place of: chrom:start-end, 0-based; start > end is the reverse strand."""
    length: int = 28_880
    """Length of a construct in bp, up to 1,048,576: flanks fill it up, a longer payload is trimmed at both ends."""
    value_column: str = "activity"
    """The column of the table that a model is to predict."""
    group_column: str = ""
    """The column of related payloads. Empty: groups, or else group."""
    split_by: SplitBy = "group"
    """What stays in one fold: a group, a cluster of payloads with similar sequences, or just each construct."""
    similarity: float = 0.3
    """Least mean Jaccard similarity of 31-mers between the payloads of a cluster, for split_by=similarity."""
    fold_ratios: tuple[str, ...] = demo_constructs.FOLD_RATIOS
    """Parts of the constructs for train, valid and test, as far as whole clusters allow."""
    num_folds: int = 0
    """Folds of one size for cross-validation, named 0, 1, ..., instead of fold_ratios; 3 or more. 0: none."""
    deletions: tuple[str, ...] = ()
    """Payloads of the table that are the locus with nothing in its place."""
    without_sequence: WithoutSequence = "refuse"
    """What becomes of other payloads without a sequence: the build is refused, or they are dropped and named."""
    find_sites: bool = True
    """Look for the sequences of the annotated sites in payloads on which the BED has none."""
    seed: int = 0
    """Draws which clusters go to which fold."""
    work_dir: str = "work"
    """Folder for the index of the reference, its decompressed copy, and the demo."""


def check(options: Options) -> None:
    """Refuse options and inputs of which no constructs can be made, before there is a run."""
    _inputs(options)


def run(options: Options, run: "Run") -> int:
    """Build the constructs, or find that they are already there, and print what they hold."""
    inputs = _inputs(options)
    there = inputs.final.exists()
    counted = build(inputs)
    print(f"{inputs.final}: is already there, nothing to do." if there else f"{inputs.final}: done.")
    print(summary(counted))
    try:
        plan_folds(inputs.constructs)
    except InputError as error:
        print(f"finetune will refuse these constructs: {error}")
    numbers: dict[str, float] = {"constructs": counted["constructs"]}
    for fold, held in counted["folds"].items():
        numbers |= {f"constructs/{fold}": held["constructs"], f"shared_kmers/{fold}": held["shared_mean"]}
    run.summarize(numbers)
    run.use_dataset(
        name="constructs",
        digest=counted["sha256"][:16],
        source=str(inputs.final),
        context="build_constructs",
    )
    for name in (FILE, SUMMARY):
        run.keep(inputs.final / name, "constructs")
    return 0


def _inputs(options: Options) -> Inputs:
    """The checked inputs of the build; those of the demo are made at their first use."""
    if options.num_folds and options.fold_ratios != Options.fold_ratios:
        raise InputError("fold_ratios and num_folds are both given; give one of them.")
    if options.split_by != "similarity" and options.similarity != Options.similarity:
        raise InputError(
            f"similarity is given with split_by {options.split_by}; leave it out, or set split_by to similarity."
        )
    needed = {name: getattr(options, name) for name in ("table", "payloads", "reference", "locus")}
    absent = [name for name, word in needed.items() if not word]
    sites = options.sites
    if len(absent) == len(needed):
        raw = demo_constructs.demo_construct_inputs(options.work_dir)
        needed = {
            "table": str(raw / "table.tsv"),
            "payloads": str(raw / "payloads.fa"),
            "reference": str(demo_constructs.demo_reference(options.work_dir)),
            "locus": demo_constructs.LOCUS,
        }
        sites = sites or str(raw / "sites.bed")
    elif absent:
        given = next(name for name in needed if name not in absent)
        raise InputError(
            f"{given} is given and {' and '.join(absent)} not; "
            f"give {', '.join(needed)} together, or none of them for the demo."
        )
    return placement.check(
        options.output,
        needed["table"],
        needed["payloads"],
        sites or None,
        needed["reference"],
        needed["locus"],
        length=options.length,
        value_column=options.value_column,
        group_column=options.group_column,
        split_by=options.split_by,
        similarity=options.similarity,
        fold_ratios=options.fold_ratios,
        num_folds=options.num_folds,
        deletions=options.deletions,
        without_sequence=options.without_sequence,
        find_sites=options.find_sites,
        seed=options.seed,
        work_dir=options.work_dir,
    )


def summary(counted: dict[str, Any]) -> str:
    """What a folder of constructs holds, as lines of text, from its `summary.json`."""
    rows, payloads, placed, sites, options = (
        counted[name] for name in ("rows", "payloads", "placed", "sites", "options")
    )
    around = counted["constructs"] - placed["trimmed"]
    of_flanks = placed["flank_n_bp"] / max(placed["flank_bp"], 1)
    kept = sites["given"] + sites["found"] - len(sites["outside"])
    lines = [
        f"constructs       {counted['constructs']} of {counted['length']} bp, "
        f"from {rows['read'] - rows['without_value']} rows of {payloads['in_table']} payloads",
        f"left out         {rows['without_value']} rows without a value"
        + _named("payloads without any", payloads["without_value"])
        + _named("payloads without a sequence", payloads["without_sequence"]),
        f"placed           {around} between flanks, {placed['trimmed']} trimmed"
        + _named("deletions", payloads["deletions"]),
        f"flanks           {placed['flank_bp']} bp, {of_flanks:.0%} of them N "
        f"({placed['off_chromosome_bp']} bp are off the chromosome)",
        f"sites            {kept}, of {sites['given']} given and {sites['found']} found by their sequence",
    ]
    if sites["outside"]:
        lines.append(f"off constructs   sites {name_some(sites['outside'], _MOST_NAMES)}")
    if placed["same_sequence"]:
        lines.append(f"same sequence    {placed['same_sequence']} with the sequence of an earlier construct")
    if payloads["letters_made_n"]:
        lines.append(f"other letters    {payloads['letters_made_n']} letters of the payloads became N")
    by = options["split_by"] + (f" {options['similarity']:g}" if options["split_by"] == "similarity" else "")
    lines += [
        "",
        f"split by {by}; shared is how much of a payload's 31-mers one payload of another fold has too",
        f"{'fold':<8} {'constructs':>10} {'clusters':>8}   {'activity':>8} {'sd':>6}   shared: mean {'most':>5}",
    ]
    for fold, held in counted["folds"].items():
        lines.append(
            f"{fold:<8} {held['constructs']:>10} {held['clusters']:>8}   {held['activity_mean']:>8.3f} "
            f"{held['activity_sd']:>6.3f}   {held['shared_mean']:>12.0%} {held['shared_most']:>5.0%}"
        )
    if max(held["shared_mean"] for held in counted["folds"].values()) > _MUCH:
        hint = "a lower similarity" if options["split_by"] == "similarity" else "split_by=similarity"
        lines.append(
            "Most of a fold's payloads is in another fold too: a model may know them by their sequence; "
            f"{hint} keeps more of them together."
        )
    return "\n".join(lines)


def _named(what: str, names: list[str]) -> str:
    return f"; {what}: {name_some(names, _MOST_NAMES)}" if names else ""
