"""Weights of the PyTorch port give the port's predictions: files that PyTorch has written, read without it.

A small model of the port with random weights and moved BatchNorm averages predicts two sequences in the port's own
environment. Its gamma position features are normalised there as DeepMind's code does it, each over positions; the port
normalises over the features of each position. The difference without that change is printed for information.

    python benchmarks/pytorch_port_weights.py
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytorch_port
from measuring import ROOT, case_of, in_child, verdict

SIZES = {"dim": 384, "depth": 2, "heads": 8, "output_heads": {"human": 6, "mouse": 4}, "target_length": 112}
LENGTH = 16_384
LIMIT = 1e-4  # of the largest value


def write(folder: Path) -> dict[str, float]:
    """In the port's environment: a model in four kinds of files, and what it predicts."""
    import numpy as np
    import torch
    from enformer_pytorch import Enformer, modeling_enformer
    from safetensors.torch import save_model

    torch.manual_seed(0)
    model = Enformer.from_hparams(**SIZES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "to_out" in name:  # ones and zeros, which would hide what is exchanged
                parameter.add_(0.1 * torch.randn_like(parameter))
        letters = torch.randint(0, 4, (4, LENGTH))
        sequence = torch.nn.functional.one_hot(letters, 4).float()
        for _ in range(3):
            model(sequence[2:])  # in training mode, which moves the averages
        model.eval()
        predicted = {"as_it_is": model(sequence[:2], return_embeddings=True)}
        modeling_enformer.get_positional_features_gamma = gamma_over_positions
        predicted["over_positions"] = model(sequence[:2], return_embeddings=True)
    arrays = {"sequence": sequence[:2].numpy(), "tf_gammas": modeling_enformer.TF_GAMMAS.numpy()}
    for kind, (heads, embedding) in predicted.items():
        arrays |= {
            f"{kind}/{name}": value.numpy() for name, value in {**heads, "embedding": embedding}.items()
        }
    np.savez(folder / "predicted.npz", **arrays)
    state = model.state_dict()
    torch.save(state, folder / "float32.pt")
    torch.save(
        {"state_dict": {f"module.{name}": value.half() for name, value in state.items()}}, folder / "half.pt"
    )
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_model(model, str(folder / "model.safetensors"))  # of the two names of a variable it keeps one
    return {"variables": len(state)}


def gamma_over_positions(positions: Any, features: int, seq_len: int, dtype: Any = None) -> Any:
    """The port's gamma position features, each divided by its maximum over positions: `[2L-1, features]`."""
    import torch
    from enformer_pytorch.modeling_enformer import gamma_pdf

    stddev = seq_len / (2 * features)
    mean = torch.linspace(seq_len / features, seq_len, features)[None]
    density = gamma_pdf(positions.to(dtype).abs()[..., None], (mean / stddev) ** 2, mean / stddev**2) + 1e-8
    return density / density.amax(0, keepdim=True)


def compare(folder: Path) -> bool:
    """Whether what is read from the files predicts what the port did; prints the differences."""
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np

    from enformer_core.attention import relative_basis
    from enformer_core.published import from_port
    from mlproject.state_dict import read_state_dict

    with np.load(folder / "predicted.npz") as file:
        predicted = dict(file)
    met = True
    for name in ("float32.pt", "model.safetensors"):
        path = folder / name
        model = from_port(read_state_dict(path), path, LENGTH, SIZES["target_length"])
        sequence = predicted["sequence"]
        found = {"embedding": model.trunk(sequence, is_training=False), **model(sequence, is_training=False)}
        for kind in ("over_positions", "as_it_is"):
            differences = {
                what: float(np.abs(value - predicted[f"{kind}/{what}"]).max() / np.abs(value).max())
                for what, value in found.items()
            }
            print(
                f"{name}, gamma features {kind}:",
                {what: f"{value:.1e}" for what, value in differences.items()},
            )
            if kind == "over_positions":
                met &= verdict(f"{name}: difference / limit", max(differences.values()) / LIMIT, 1.0)
    whole, half = (read_state_dict(folder / name) for name in ("float32.pt", "half.pt"))
    rounded = all(
        np.array_equal(half[f"module.{name}"], array.astype(np.float16)) for name, array in whole.items()
    )
    print(f"half.pt holds the same, rounded: {rounded}")
    try:
        read_state_dict(folder / "legacy.pt")
        refused = False
    except ValueError as error:
        refused = "before 1.6" in str(error)
        print(f"legacy.pt is refused: {error}")
    count = predicted["tf_gammas"].shape[-1]
    ours = relative_basis(1536, 6 * count)[:, 2 * count : 3 * count]
    print(
        f"the port's stored gamma features of 1,536 bins, from ours: {np.abs(ours - predicted['tf_gammas']).max():.1e}"
    )
    return met and rounded and refused


if __name__ == "__main__":
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps(write(Path(case["folder"]))))
        sys.exit(0)
    with tempfile.TemporaryDirectory() as folder:
        written = in_child(__file__, {"folder": folder}, pytorch_port.python())
        sys.exit(0 if written is not None and compare(Path(folder)) else 1)
