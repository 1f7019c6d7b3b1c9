"""One joint training step of the Perceiver at its published size, beside its arithmetic and Hugging Face's Perceiver.

    python benchmarks/perceiver_step.py

16 windows of tracks of 1,000 bp and 16 MPRA sequences of 150 letters; the sum of three losses: squared error of the
activity, cross-entropy of hidden coverage, and of masked letters, which takes a second pass over the MPRA sequences.
Adam, gradients cut at norm 1, float32.

The reference is `PerceiverModel` with a `PerceiverBasicDecoder` of `transformers` (which the environment of the PyTorch
port holds), between embeddings and output layers like ours, in one step of PyTorch on the same weights and batch; its
loss and its gradient norm must be ours. Each case runs in a process of its own.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pytorch_port
from measuring import case_of, fastest, in_child, matrix_rate, peak_gb, verdict

BATCH = 16
TIMES = 5
CELL_TYPES = 8
MASKED, CHANNELS = 5, (0, 1, 2, 3, 5)  # code of a masked letter; codes that have a channel
ARITHMETIC_LIMIT = 2  # of three forward passes' products
TOLERANCE = 1e-3  # of loss and gradient norm between the two


def example_batch(config: dict[str, Any], size: int) -> dict[str, Any]:
    """Random windows and MPRA sequences: half of the coverage and a fifth of the letters are to be predicted."""
    random = np.random.default_rng(0)
    tracks, mpra = (size, config["seq_len"]), (size, config["mpra_len"])
    letters, log_coverage = random.integers(0, 4, mpra), random.uniform(0, 10, tracks)
    return {
        "codes": random.integers(0, 4, tracks).astype(np.int32),
        "log_coverage": np.where(random.random(tracks) < 0.5, np.nan, log_coverage).astype(np.float32),
        "bins": (log_coverage * (config["num_bins"] / 10)).astype(np.int32),
        "cell": random.integers(0, CELL_TYPES, size).astype(np.int32),
        "letters": letters.astype(np.int32),
        "masked": np.where(random.random(mpra) < 0.2, MASKED, letters).astype(np.int32),
        "activity": random.standard_normal(size).astype(np.float32),
    }


def forward_gflop(config: dict[str, Any], size: int) -> float:
    """Multiplications and additions of the matrix products of the three passes, in 10^9.

    Projections, attention, their feed-forward blocks and output layers count. Embeddings do not, though some are looked
    up as products, nor the small block that makes one of an activity and a cell type, once for each sequence; the query
    of the latents counts for every example, as published, though it is the same for all.
    """
    m, d, n, wide = (config[name] for name in ("d_model", "d_latent", "num_latents", "widening_factor"))
    layers = config["num_blocks"] * config["num_self_attention_layers"]

    def products(read: int, queries: int, outputs: int) -> int:
        encoder = n * d * m + 2 * read * m * m + 2 * n * read * m + n * m * d + 2 * n * d * d * wide
        latents = layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * d * wide)
        decoder = 2 * queries * m * m + 2 * n * d * m + 2 * queries * n * m + 2 * queries * m * m * wide
        return encoder + latents + decoder + queries * m * outputs

    tracks, mpra = config["seq_len"], config["mpra_len"]
    passes = products(tracks, tracks, config["num_bins"]) + products(mpra, 1, 1) + products(mpra, mpra, 4)
    return 2 * size * passes / 1e9


def measure_ours(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step of `Perceiver`; weights and configuration are written for the port."""
    import dataclasses

    import tensorflow as tf

    from enformer_core.initial import variable_name
    from enformer_core.perceiver import Perceiver, PerceiverConfig
    from mlproject.training import Adam, make_step

    model = Perceiver(PerceiverConfig(cell_types=tuple(f"cell_{i}" for i in range(CELL_TYPES))))
    config = dataclasses.asdict(model.config)
    weights = {variable_name(v).removeprefix("perceiver/"): v.numpy() for v in model.trainable_variables}
    np.savez(Path(case["folder"]) / "weights.npz", **weights)
    (Path(case["folder"]) / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def loss(batch, is_training, key):
        activity = model.activity(batch["letters"], batch["cell"], is_training, key)
        letters = model.nucleotides(batch["masked"], batch["activity"], batch["cell"], is_training, key)
        bins = model.coverage(batch["codes"], batch["log_coverage"], batch["cell"], is_training, key)
        return (
            tf.reduce_mean((activity - batch["activity"]) ** 2)
            + _mean_where(batch["masked"] == MASKED, batch["letters"], letters)
            + _mean_where(tf.math.is_nan(batch["log_coverage"]), batch["bins"], bins)
        ), {}

    def _mean_where(counts, classes, logits):
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        counts = tf.cast(counts, tf.float32)
        return tf.reduce_sum(each * counts) / tf.reduce_sum(counts)

    step = make_step(loss, Adam(model.trainable_variables), clip_norm=1.0)
    batch = {name: tf.constant(value) for name, value in example_batch(config, BATCH).items()}
    first = {name: float(value) for name, value in step(batch, 1e-4, np.array([0, 1])).items()}
    seconds = fastest(lambda: float(step(batch, 1e-4, np.array([0, 2]))["loss"]), TIMES)
    return {
        **first,
        "seconds": seconds,
        "peak_gb": peak_gb(),
        "parameters": sum(value.size for value in weights.values()),
        "rate": matrix_rate(),
        "gflop": forward_gflop(config, BATCH),
    }


def measure_port(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of the same step with Hugging Face's modules, on the weights that `measure_ours` wrote."""
    import torch
    from torch import nn

    config = json.loads((Path(case["folder"]) / "config.json").read_text(encoding="utf-8"))
    with np.load(Path(case["folder"]) / "weights.npz") as stored:
        weights = {name: torch.from_numpy(stored[name]) for name in stored.files}
    model = _port(config, weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batch = {name: torch.from_numpy(value) for name, value in example_batch(config, BATCH).items()}
    batch = {name: value.long() if value.dtype == torch.int32 else value for name, value in batch.items()}
    hidden, masked = torch.isnan(batch["log_coverage"]), batch["masked"] == MASKED

    def step() -> dict[str, float]:
        optimizer.zero_grad()
        activity, letters, bins = model(batch)
        loss = (
            nn.functional.mse_loss(activity, batch["activity"])
            + nn.functional.cross_entropy(letters[masked], batch["letters"][masked])
            + nn.functional.cross_entropy(bins[hidden], batch["bins"][hidden])
        )
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": float(loss), "gradient_norm": float(norm)}

    first = step()
    return {
        **first,
        "seconds": fastest(step, TIMES),
        "peak_gb": peak_gb(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _port(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The three passes composed of Hugging Face's encoder and decoder, with our weights."""
    import torch
    from torch import nn
    from transformers import PerceiverConfig, PerceiverModel
    from transformers.models.perceiver.modeling_perceiver import PerceiverBasicDecoder

    size, bins = config["d_model"], config["num_bins"]
    theirs = PerceiverConfig(
        num_latents=config["num_latents"],
        d_latents=config["d_latent"],
        d_model=size,
        num_blocks=config["num_blocks"],
        num_self_attends_per_block=config["num_self_attention_layers"],
        num_self_attention_heads=config["num_self_attn_heads"],
        num_cross_attention_heads=config["num_cross_attn_heads"],
        self_attention_widening_factor=config["widening_factor"],
        cross_attention_widening_factor=config["widening_factor"],
        hidden_act="quick_gelu",  # the sigmoid approximation
        attention_probs_dropout_prob=0.0,
    )

    class Port(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = PerceiverModel(theirs)
            self.decoder = PerceiverBasicDecoder(
                theirs,
                output_num_channels=size,
                position_encoding_type="none",
                num_channels=size,
                qk_channels=size,
                v_channels=size,
                num_heads=config["num_cross_attn_heads"],
                widening_factor=config["widening_factor"],
                use_query_residual=True,
                final_project=False,
            )
            tables = ["letter/w", *(f"{name}_embedding" for name in _TABLES)]
            self.tables = nn.ParameterDict(
                {name.split("/")[0]: nn.Parameter(weights[name]) for name in tables}
            )
            self.register_buffer("channel", torch.tensor([*range(4), 0, 4]))  # of a code
            for name in ("to_coverage", "to_activity", "to_letters", "wanted_up", "wanted_down"):
                w, b = weights[f"{name}/w"], weights[f"{name}/b"]
                layer = nn.Linear(*w.shape)
                layer.weight.data, layer.bias.data = w.T.contiguous(), b
                setattr(self, name, layer)
            self.wanted_norm = nn.LayerNorm(size)
            self.wanted_norm.weight.data = weights["wanted_norm/scale"]
            self.wanted_norm.bias.data = weights["wanted_norm/offset"]

        def tokens(self, codes, modality, added):
            x = nn.functional.embedding(self.channel[codes], self.tables["letter"])
            placed = self.tables["position_embedding"][: codes.shape[1]]
            return x + placed + self.tables["modality_embedding"][modality] + added[:, None]

        def decode(self, query, read):
            return self.decoder(query, z=self.encoder(read).last_hidden_state).logits

        def forward(self, batch):
            cells = nn.functional.embedding(batch["cell"], self.tables["cell_type_embedding"])
            table = self.tables["activity_embedding"]
            read = self.tokens(batch["letters"], 0, cells) + table[-1]
            activity = self.to_activity(self.decode(read.mean(1, keepdim=True), read))[:, 0, 0]
            centres = torch.linspace(-3, 3, len(table) - 1)
            near = (batch["activity"].clip(-3, 3)[:, None] - centres) / (2 * (centres[1] - centres[0]))
            near = nn.functional.softmax(-0.5 * near**2, -1) @ table[:-1]
            near = near + cells
            up = self.wanted_up(self.wanted_norm(near))
            wanted = near + self.wanted_down(up * torch.sigmoid(1.702 * up))
            read = self.tokens(batch["masked"], 0, wanted)
            letters = self.to_letters(self.decode(read, read))
            visible = torch.where(torch.isnan(batch["log_coverage"]), bins, batch["bins"])
            read = self.tokens(batch["codes"], 1, cells)
            read = read + nn.functional.embedding(visible, self.tables["coverage_embedding"])
            return activity, letters, self.to_coverage(self.decode(read, read))

    model = Port()
    encoder = model.encoder.encoder
    layers = {"encoder": encoder.cross_attention, "decoder": model.decoder.decoding_cross_attention}
    layers |= {f"self_attention_{i}": layer for i, layer in enumerate(encoder.self_attends)}
    model.encoder.embeddings.latents.data = weights["latents"]
    for name, layer in layers.items():
        for ours, module in _PARTS.items():
            part = layer.get_submodule(module)
            if f"{name}/{ours}/w" in weights:
                part.weight.data = weights[f"{name}/{ours}/w"].T.contiguous()
                part.bias.data = weights[f"{name}/{ours}/b"]
            elif f"{name}/{ours}/scale" in weights:
                part.weight.data = weights[f"{name}/{ours}/scale"]
                part.bias.data = weights[f"{name}/{ours}/offset"]
    return model


_TABLES = ("position", "modality", "cell_type", "coverage", "activity")
_PARTS = {
    "norm": "attention.self.layernorm1",
    "input_norm": "attention.self.layernorm2",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "mlp_norm": "layernorm",
    "up": "mlp.dense1",
    "down": "mlp.dense2",
}


def main() -> int:
    case = case_of(__doc__)
    if case is not None:
        print(json.dumps((measure_ours if case["side"] == "ours" else measure_port)(case)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        ours = in_child(__file__, {"side": "ours", "folder": folder})
        if ours is None:
            return 1
        port = in_child(__file__, {"side": "port", "folder": folder}, pytorch_port.python())
    if port is None:
        return 1
    for name, found in (("ours", ours), ("Hugging Face", port)):
        print(
            f"{name}: {found['seconds']:.2f} s, peak {found['peak_gb']:.1f} GB, {found['parameters']:,} parameters, "
            f"loss {found['loss']:.5f}, gradient norm {found['gradient_norm']:.5f}"
        )
    floor = 3 * ours["gflop"] / ours["rate"]
    print(
        f"reference: {3 * ours['gflop']:.0f} GFLOP of products at {ours['rate']:.0f} GFLOP/s: {floor:.2f} s"
    )
    print(f"ours / Hugging Face: {ours['seconds'] / port['seconds']:.2f} of the time")
    apart = max(abs(ours[name] / port[name] - 1) for name in ("loss", "gradient_norm"))
    met = [
        verdict("ours / reference", ours["seconds"] / floor, ARITHMETIC_LIMIT),
        verdict("loss and gradient norm, differences in thousandths", apart / TOLERANCE, 1),
        verdict("parameters apart", abs(ours["parameters"] - port["parameters"]), 0),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
