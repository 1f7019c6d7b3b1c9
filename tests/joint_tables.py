"""A made-up MPRA table for tests of `joint`, and options of trainings that take seconds."""

import numpy as np
import pandas as pd

LETTERS = 40
TINY = {
    "--d_model": "16", "--d_latent": "16", "--num_latents": "4", "--num_self_attention_layers": "1",
    "--nucleotide_width": "3", "--num_bins": "16", "--seq_len": "64", "--steps_per_epoch": "3",
    "--warmup_steps": "2", "--batch_size": "8", "--track_batch_size": "4", "--num_track_train_samples": "40",
    "--num_track_valid_samples": "4", "--seeds": "1,2",
}  # fmt: skip
# of `made_up`: labels of one of its two cell types are hidden
OF_TABLE = {"--modalities": "mpra", "--mpra_len": str(LETTERS), "--mpra_activity": "log2_K562,log2_HepG2"}
OF_TABLE |= {"--mpra_test": "chr8,chr9", "--mpra_valid": "chr7", "--holdout_cell_type": "K562"}


def made_up(rows=90):
    """A table with activity in two columns, and chromosomes in its labels."""
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list("ACGT"), random.integers(30, LETTERS + 1))) for _ in range(rows)]
    share = np.array([(one.count("G") + one.count("C")) / len(one) for one in sequences])
    noise = random.normal(0, 0.05, (2, rows))
    return pd.DataFrame(
        {
            "label": [f"chr{n % 9 + 1}-{n}00-{n}40_WT" for n in range(rows)],
            "sequence": sequences,
            "log2_K562": 3 * share + noise[0],
            "log2_HepG2": 1 + 2 * share + noise[1],
        }
    ).round(4)
