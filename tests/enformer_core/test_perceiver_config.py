"""Sizes and units of a Perceiver: what is refused, and the defaults."""

import numpy as np
import pytest

from enformer_core.perceiver import PerceiverConfig
from toys import toy_perceiver_config

SIZES = ("seq_len", "mpra_len", "d_model", "d_latent", "num_latents", "num_blocks", "num_self_attention_layers",
         "num_cross_attn_heads", "num_self_attn_heads", "widening_factor", "nucleotide_width")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [({"cell_types": ()}, r"cell_types is \(\); it must be different names, at least one"),
     ({"cell_types": ("a", "a")}, r"cell_types is \('a', 'a'\); it must be different names, at least one"),
     ({"cell_types": ("a", "")}, r"cell_types is \('a', ''\); it must be a list of names"),
     ({"cell_types": ("a\nb", 3)}, r"cell_types is \('a\\nb', 3\); it must be a list of names"),
     ({"cell_types": "HepG2"}, "cell_types is 'HepG2'; it must be a list of names"),
     ({"cell_types": 3}, "cell_types is 3; it must be a list of names"),
     ({"unseen_cell_types": "a"}, "unseen_cell_types is 'a'; it must be a list of names"),
     ({"unseen_cell_types": ("a", "a")}, r"unseen_cell_types is \('a', 'a'\); it must be different names"),
     ({"unseen_cell_types": ("z",)}, r"unseen_cell_types is \('z',\); it must name some, not all, of cell_types"),
     ({"cell_types": ("a",), "unseen_cell_types": ("a",)},
      r"unseen_cell_types is \('a',\); it must name some, not all, of cell_types"),
     *[({name: 0}, f"{name} is 0; it must be 1 or more") for name in SIZES],
     ({"d_model": 8.0}, r"d_model is 8\.0; it must be a whole number, 1 or more"),
     ({"num_bins": 1}, "num_bins is 1; it must be 2 or more"),
     ({"trunk_channels": -1}, "trunk_channels is -1; it must be 0 or more"),
     ({"nucleotide_width": 4}, "nucleotide_width is 4; it must be odd"),
     ({"dropout": 1.0}, r"dropout is 1\.0; it must be a number from 0 to below 1"),
     ({"d_model": 9}, "d_model is 9; it must be a multiple of num_cross_attn_heads, 2"),
     ({"d_latent": 9}, "d_latent is 9; it must be a multiple of num_self_attn_heads, 5"),
     ({"min_cov": "0"}, "min_cov is '0'; it must be a number"),
     ({"max_cov": np.inf}, "max_cov is inf; it must be a number"),
     ({"activity_mean": np.nan}, "activity_mean is nan; it must be a number"),
     ({"activity_sd": 10**400}, "activity_sd is 10{79}; it must be a number"),
     ({"min_cov": 4.0}, "max_cov is 4; it must be above min_cov, 4"),
     ({"activity_sd": 0.0}, "activity_sd is 0; it must be above 0")],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(change, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        toy_perceiver_config(**change)


def test_the_defaults_are_the_published_sizes():
    config = PerceiverConfig(("a",))
    assert (config.d_model, config.d_latent, config.num_latents) == (256, 512, 128)
    assert (config.num_self_attention_layers, config.num_cross_attn_heads, config.num_self_attn_heads) == (
        4,
        4,
        8,
    )
    assert (config.seq_len, config.mpra_len, config.num_bins) == (1000, 150, 256)
    assert (config.min_cov, config.max_cov, config.sequence_length) == (0, 10, 150)
