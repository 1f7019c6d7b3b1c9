"""The PyTorch port of Enformer (`enformer-pytorch`, `torch==2.13.0`): forward pass and training step, for comparison.

It is no dependency of the project: the first call installs it into an environment of its own, below the user's cache
folder (1.5 GB).

    python benchmarks/pytorch_port.py      # installs it, and says where
"""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from measuring import case_of, fastest, one_hot, peak_gb

REQUIREMENTS = ("torch==2.13.0", "enformer-pytorch>=0.8.12,<0.9")


def python() -> str:
    """The interpreter of the port's environment, which is made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mlproject" / "enformer-pytorch"
    done = folder / "installed"
    found = folder / "bin" / "python"
    if not done.exists():
        print(f"installing {', '.join(REQUIREMENTS)} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([found, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        done.touch()
    return str(found)


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of `forward` (both heads) or of a training `step` (human head, Poisson loss, Adam), and peak memory."""
    import torch
    from enformer_pytorch import Enformer

    bins = case["length"] // 128
    model = Enformer.from_hparams(
        dim=1536,
        depth=11,
        heads=8,
        output_heads={"human": 5313, "mouse": 1643} if case["kind"] == "forward" else {"human": 5313},
        target_length=min(896, bins),
        use_tf_gamma=False,
    )
    sequence = torch.from_numpy(one_hot(case["length"]))

    def forward() -> None:
        with torch.no_grad():
            model(sequence)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(sequence, head="human", target=target)
        loss.backward()
        optimizer.step()

    if case["kind"] == "forward":
        model.eval()
        run = forward
    else:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        target = torch.rand(1, min(896, bins), 5313)
        run = step
    run()
    return {"seconds": fastest(run, case["times"]), "peak_gb": peak_gb()}


if __name__ == "__main__":
    chosen = case_of(__doc__)
    if chosen is None:
        print(python())
    else:
        import json

        print(json.dumps(measure(chosen)))
    sys.exit(0)
