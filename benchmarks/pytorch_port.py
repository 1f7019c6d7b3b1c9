"""The PyTorch port of Enformer (`enformer-pytorch`, `torch==2.13.0`): forward pass and training step, for comparison.

It is no dependency of the project: the first call installs it into an environment of its own, below the user's cache
folder (1.5 GB).

    python benchmarks/pytorch_port.py      # installs it, and says where
"""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
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
    """Seconds and peak memory of `forward` (both heads), of a training `step` (human head, Poisson loss, Adam), or of a
    `finetune` step (activity head, squared error, Adam, normalisations in inference mode)."""
    import torch
    from enformer_pytorch import Enformer

    bins = case["length"] // 128
    model = Enformer.from_hparams(
        dim=1536,
        depth=11,
        heads=8,
        output_heads={"human": 5313} if case["kind"] == "step" else {"human": 5313, "mouse": 1643},
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
    elif case["kind"] == "finetune":
        run = _finetune_step(model, sequence.repeat(case["batch"], 1, 1), bins)
    else:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        target = torch.rand(1, min(896, bins), 5313)
        run = step
    run()
    return {"seconds": fastest(run, case["times"]), "peak_gb": peak_gb()}


def _finetune_step(model: Any, sequence: Any, bins: int) -> Callable[[], None]:
    """A step on trunk and head: attention of 64 keys and 64 values, flattened, one dense unit, softplus."""
    import torch
    from torch import nn

    query, key, value = (nn.Linear(2 * 1536, 64, bias=False) for _ in range(3))
    dense = nn.Linear(bins * 64, 1)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    trunk = [parameter for name, parameter in model.named_parameters() if "_heads" not in name]
    head = [parameter for layer in (query, key, value, dense) for parameter in layer.parameters()]
    optimizer = torch.optim.Adam([*trunk, *head], lr=1e-5)
    target = torch.rand(len(sequence), 1)

    def step() -> None:
        optimizer.zero_grad()
        embedding = model(sequence, return_only_embeddings=True)
        attended = nn.functional.scaled_dot_product_attention(
            query(embedding), key(embedding), value(embedding)
        )
        predicted = nn.functional.softplus(dense(attended.flatten(1)))
        nn.functional.mse_loss(predicted, target).backward()
        nn.utils.clip_grad_norm_([*trunk, *head], 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    chosen = case_of(__doc__)
    if chosen is None:
        print(python())
    else:
        import json

        print(json.dumps(measure(chosen)))
    sys.exit(0)
