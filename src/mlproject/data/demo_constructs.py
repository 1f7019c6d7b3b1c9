"""Made-up payloads whose activity depends on which sites they hold, and on the order and spacing of these.

There are three kinds of sites, A, B and C: stretches dense in two motifs each of the demo genome, so that a trunk
trained on the demo's tracks knows them. A group is six payloads on one backbone with the same sites; backbones and
sites of different groups share motifs, and hardly a stretch of 31 bp.

    activity = A 0.20 + B 0.15 + C 0.40, for the kinds that are there,
               + 0.45 if an A is before a B, 1 to 2.5 kb from start to start, + noise

Which kinds are there explains 64% of the variance in a linear regression; the rest is order and spacing. Files are
written (table, FASTA, BED) and go through `placement.build` like anyone's.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlproject.data import constructs, demo, payloads, placement, similarity
from mlproject.data.constructs import Construct, Site, read_constructs
from mlproject.data.files import explained, new_folder

LOCUS = "chr2:200000-206000"  # of the demo's human genome
LENGTH = 28_880
FOLD_RATIOS = ("train=2", "valid=1", "test=1")

GROUPS = 12
CLONES = 3  # rows of the table for each payload
BACKBONE_BP = (3_600, 8_000)
SITE_BP = (300, 500)
SITE_SPACING = 24  # bp from the start of one motif to the next in a site
KINDS = {"A": (0, 1), "B": (2, 3), "C": (4, 5)}  # of the grammar's motifs

WEIGHTS = {"A": 0.20, "B": 0.15, "C": 0.40}
BONUS = 0.45
REACH = (1_000, 2_500)  # from the start of A to that of B, where the bonus is given
SHORT, LONG = (600, 900), 2_800  # reach of pairs without a bonus; the long one is this or more
NOISE = 0.04  # standard deviation of a clone
MISSING = 0.04  # of the rows

# What the payloads of a group hold: the order of A and B, whether they are in reach, whether there is a C. Where
# there is more than one word, one is drawn.
_DESIGNS = (
    (("AB",), ("in",), False),
    (("BA",), ("in",), False),
    (("AB",), ("in",), True),
    (("AB",), ("out",), True),
    (("AB", "BA"), ("in", "out"), True),
    (("A", "B"), ("in",), False),
)

# The rooms that the demo goes through: when one changes, it is made again.
_MAKERS = (demo, payloads, placement, similarity, constructs)


class _Group(NamedTuple):
    """The backbone and the sites that a group's payloads are made of, as base codes."""

    name: str
    backbone: np.ndarray
    sites: dict[str, np.ndarray]


def open_constructs(data: str, work_dir: str | os.PathLike) -> list[Construct]:
    """The constructs that the option `data` names: `demo`, made where needed, or a path.

    Raises:
      InputError: as `read_constructs`.
    """
    return read_constructs(demo_constructs(work_dir) if data == "demo" else data)


def demo_constructs(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The folder of the demo's constructs, split by group; made at the first call, in seconds."""
    raw = demo_construct_inputs(work_dir, seed)
    inputs = placement.check(
        raw.parent / "constructs",
        raw / "table.tsv",
        raw / "payloads.fa",
        raw / "sites.bed",
        demo_reference(work_dir, seed),
        LOCUS,
        length=LENGTH,
        fold_ratios=FOLD_RATIOS,
        work_dir=work_dir,
    )
    placement.build(inputs)
    return inputs.final


def demo_reference(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The FASTA in which `LOCUS` is."""
    return demo.demo_inputs(work_dir, seed) / "human" / "genome.fa"


def demo_construct_inputs(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The folder with `table.tsv`, `payloads.fa` and `sites.bed`; made at the first call."""
    sources = b"".join(
        Path(path).read_bytes() for path in [__file__, *(str(room.__file__) for room in _MAKERS)]
    )
    version = hashlib.sha256(sources + str(seed).encode()).hexdigest()
    raw = Path(work_dir) / f"demo-constructs-{version[:12]}" / "raw"
    with explained(f"work_dir {work_dir}: cannot be written"), new_folder(raw) as partial:
        if partial is not None:
            _write(partial, seed)
    return raw


def expected_activity(sites: list[Site]) -> float:
    """The activity of a payload with these sites, without noise."""
    starts = {kind: [site.start for site in sites if site.name == kind] for kind in KINDS}
    low, high = REACH
    bonus = any(low <= b - a <= high for a in starts["A"] for b in starts["B"])
    return sum(weight for kind, weight in WEIGHTS.items() if starts[kind]) + BONUS * bonus


def _write(folder: Path, seed: int) -> None:
    grammar = demo.grammar(seed)
    rng = np.random.default_rng([seed, 200])
    table = ["MenDel.Name\tgroups\tfoldchange\tactivity"]
    fasta, bed = [], []
    for number in range(1, GROUPS + 1):
        group = _group(f"G{number:02d}", grammar, rng)
        for design, (orders, reaches, with_c) in enumerate(_DESIGNS):
            sites = _arrange(group, str(rng.choice(orders)), rng.choice(reaches) == "in", with_c, rng)
            bases = group.backbone.copy()
            for site in sites:
                bases[site.start : site.end] = group.sites[site.name]
            name = f"{group.name}_{''.join(site.name for site in sites)}~{design + 1}"
            letters = np.frombuffer(b"ACGT", np.uint8)[bases].tobytes().decode()
            fasta.append(f">{name.replace('~', '_')}\n{letters}\n")
            bed += [f"{name}\t{site.start}\t{site.end}\t{site.name}\n" for site in sites]
            for _ in range(CLONES):
                activity = expected_activity(sites) + NOISE * rng.standard_normal()
                missing = rng.random() < MISSING
                words = ["NA", "NA"] if missing else [f"{1.2 * activity + 0.03:.3f}", f"{activity:.3f}"]
                table.append("\t".join([name, group.name, *words]))
    (folder / "table.tsv").write_text("\n".join(table) + "\n")
    (folder / "payloads.fa").write_text("".join(fasta))
    (folder / "sites.bed").write_text("".join(bed))


def _group(name: str, grammar: demo.Grammar, rng: np.random.Generator) -> _Group:
    backbone = _bases(int(rng.integers(*BACKBONE_BP)), demo.INACTIVE_GC, rng)
    sites = {}
    for kind, motifs in KINDS.items():
        bases = _bases(int(rng.integers(*SITE_BP)), demo.ACTIVE_GC, rng)
        for position in range(4, len(bases) - SITE_SPACING, SITE_SPACING):
            motif = grammar.motifs[motifs[int(rng.integers(len(motifs)))]]
            motif = motif if rng.random() < 0.5 else 3 - motif[::-1]
            at = position + int(rng.integers(SITE_SPACING - len(motif)))
            bases[at : at + len(motif)] = motif
        sites[kind] = bases
    return _Group(name, backbone, sites)


def _bases(length: int, gc: float, rng: np.random.Generator) -> np.ndarray:
    probability = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return rng.choice(4, length, p=probability).astype(np.uint8)


def _arrange(group: _Group, order: str, in_reach: bool, with_c: bool, rng: np.random.Generator) -> list[Site]:
    """Sites at random places of the group's backbone that do not overlap, ascending."""
    room = len(group.backbone) - max(SITE_BP)  # for the starts
    low, high = REACH if in_reach else SHORT if rng.random() < 0.5 else (LONG, room - 1)
    apart = int(rng.integers(low, high + 1))
    first = int(rng.integers(room - apart))
    starts = dict(zip(order, (first, first + apart), strict=False))
    sites = [Site(kind, start, start + len(group.sites[kind])) for kind, start in starts.items()]
    while with_c and len(sites) == len(starts):
        start = int(rng.integers(room))
        site = Site("C", start, start + len(group.sites["C"]))
        if all(site.end <= other.start or other.end <= site.start for other in sites):
            sites.append(site)
    return sorted(sites, key=lambda site: site.start)
