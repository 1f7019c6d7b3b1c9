"""Time and memory of a forward pass and a training step against sequence length, channels and number of tracks.

    python benchmarks/scaling.py      # about fifteen minutes; writes docs/scaling.md and docs/images/scaling.png

An exponent k says that twice the size takes 2^k times as much: the slope between the last two sizes, where fixed costs
count least. Memory is counted above that of the smallest case of its kind (weights and TensorFlow itself for lengths,
TensorFlow and a model of few channels or tracks for the others).
"""

import json
import math
import sys
from typing import Any

import forward
import training_step
from measuring import ROOT, case_of, in_child

# Layers have no part in what tracks cost.
TRACKS = {"preset": "full", "length": 24_576, "config": {"num_transformer_layers": 1}}
# What varies, its values (the first is what memory is counted above), and the rest of the case.
SERIES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "sequence length (bp)": ((1_280, 24_576, 49_152, 98_304, 196_608), {"preset": "full"}),
    "channels": ((96, 384, 768, 1_536), {"preset": "full", "length": 24_576}),
    "tracks": ((2, 5_313, 10_626, 21_252), TRACKS),
}
KINDS = {"forward": forward, "training step": training_step}
# What the arithmetic allows, of time and memory: attention is quadratic in length, layers and their weights are in
# channels. Memory of what is linear hides at first in what another part of the step has taken at its peak.
LIMITS = {"sequence length (bp)": (1.3, 1.3), "channels": (2.1, 2.1), "tracks": (1.1, 1.3)}


def case(kind: str, name: str, value: int, rest: dict[str, Any]) -> dict[str, Any]:
    """One measurement, as the scripts of forward pass and training step take it."""
    varied: dict[str, Any] = {
        "sequence length (bp)": {"length": value},
        "channels": {"config": {"channels": value, "divisible_by": min(128, value // 2)}},
        "tracks": {"heads": {"human": value}},
    }[name]
    return {"kind": kind, "times": 1, **rest, **varied}


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of log(values) against log(sizes) between the last two."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# Scaling",
        "",
        "Time and peak memory of one forward pass and one training step (batch 1, Adam, float32, two cores), as",
        "`python benchmarks/scaling.py` wrote them. Absolute numbers are of one machine; the exponents are what",
        "counts: twice the size takes 2^k times as much. They are taken between the last two sizes, memory above that",
        "of the first size of each series (weights and TensorFlow itself).",
        "",
        "![time and memory against length, channels and tracks](images/scaling.png)",
        "",
        "Size `full` and a human head of 5,313 tracks, channels and tracks at 24,576 bp, tracks with one layer instead",
        "of 11. Steps of more than 64 Mi bp x channels compute activations again in the backward pass (`recompute`).",
        "What is linear in memory can show an exponent a little above 1 where, at the smaller size, it still fitted",
        "into what another part of the step had taken at its peak.",
        "",
        "| what grows | size | forward (s) | step (s) | forward (GB) | step (GB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        for i, size in enumerate(row["sizes"]):
            cells = [row[kind][quantity][i] for quantity in ("seconds", "peak_gb") for kind in KINDS]
            lines.append(
                f"| {row['name']} | {size:,} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |"
            )
        cells = [row[kind][f"{q}_exponent"] for q in ("seconds", "peak_gb") for kind in KINDS]
        lines.append(
            f"| {row['name']} | exponent | " + " | ".join(f"**{cell:.2f}**" for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]]) -> None:
    """Two rows of panels, time and memory, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(rows), figsize=(4 * len(rows), 7), layout="constrained", squeeze=False)
    for column, row in zip(axes.T, rows, strict=True):
        for axis, quantity, label in zip(
            column, ("seconds", "peak_gb"), ("time (s)", "peak memory (GB)"), strict=True
        ):
            for kind, marker in zip(KINDS, "os", strict=True):
                power = row[kind][f"{quantity}_exponent"]
                axis.plot(
                    row["sizes"][1:], row[kind][quantity][1:], marker=marker, label=f"{kind}, k = {power:.2f}"
                )
            axis.set(xscale="log", yscale="log", xlabel=row["name"], ylabel=label)
            axis.set_xticks(row["sizes"][1:], [f"{size:,}" for size in row["sizes"][1:]])
            axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axis.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axis.grid(alpha=0.3, which="both")
            axis.legend()
    figure.savefig(ROOT / "docs" / "images" / "scaling.png", dpi=110)
    plt.close(figure)


def main() -> int:
    chosen = case_of(__doc__)
    if chosen is not None:
        print(json.dumps(KINDS[chosen["kind"]].measure(chosen)))
        return 0
    rows, met = [], True
    for name, (sizes, rest) in SERIES.items():
        row: dict[str, Any] = {"name": name, "sizes": list(sizes)}
        for kind in KINDS:
            found = [in_child(__file__, case(kind, name, size, rest)) for size in sizes]
            if None in found:
                return 1
            seconds, memory = ([one[quantity] for one in found if one] for quantity in ("seconds", "peak_gb"))
            above = [value - memory[0] for value in memory[1:]]
            powers = exponent(row["sizes"], seconds), exponent(row["sizes"][1:], above)
            row[kind] = {"seconds": seconds, "seconds_exponent": powers[0]}
            row[kind] |= {"peak_gb": memory, "peak_gb_exponent": powers[1]}
            for quantity, power, limit in zip(("time", "memory"), powers, LIMITS[name], strict=True):
                fine = power <= limit
                met &= fine
                print(
                    f"{name}, {kind}, {quantity}: exponent {power:.2f} (limit {limit}): "
                    f"{'met' if fine else 'NOT met'}",
                    flush=True,
                )
        rows.append(row)
        (ROOT / "docs" / "scaling.md").write_text(table(rows), encoding="utf-8")  # what is measured is kept
        plot(rows)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
