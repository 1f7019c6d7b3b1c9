"""The training step that benchmarks export to other runtimes: its module is what its plan says."""

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from enformer_core.enformer import preset

BATCH, BINS, TRACKS = 2, 4, 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The functions of the script, the exported module and its plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        patch.setattr(sys, "path", [*sys.path])  # the script adds to it
        import gpu_export
    config = preset(
        "tiny",
        heads={"human": TRACKS},
        sequence_length=128 * BINS,
        target_length=None,
        num_transformer_layers=1,
    )
    folder = tmp_path_factory.mktemp("exported")
    gpu_export.export(folder, config, BATCH, values=False)
    module = lzma.decompress((folder / "step.mlir.xz").read_bytes()).decode()
    return gpu_export, module, json.loads((folder / "step.json").read_text(encoding="utf-8"))


def test_the_module_takes_the_inputs_of_the_plan(exported):
    gpu_export, module, plan = exported
    inputs, _ = gpu_export.signature(module)
    drawn = [gpu_export.draw(about, index) for index, about in enumerate(plan["inputs"])]
    assert inputs == [(list(value.shape), value.dtype.name) for value in drawn]
    assert [about["name"] for about in plan["inputs"][:4]] == ["sequence", "target", "learning_rate", "key"]
    np.testing.assert_array_equal(drawn[0].sum(-1), np.ones([BATCH, 128 * BINS]))


def test_every_variable_has_its_new_value_among_the_outputs(exported):
    gpu_export, module, plan = exported
    inputs, outputs = gpu_export.signature(module)
    written = [about["output"] for about in plan["inputs"][4:]]
    assert sorted(written) == list(range(len(plan["scalars"]), len(outputs)))
    assert [outputs[place] for place in written] == inputs[4:]


def test_the_module_is_stablehlo_and_nothing_else(exported):
    _, module, plan = exported
    assert plan["custom_calls"] == []
    # `mhlo.` is left in attributes only, which other runtimes read or ignore
    assert "= mhlo." not in module and "= tf." not in module
    parsed = tf.mlir.experimental.run_pass_pipeline(module, "")
    assert parsed.count("stablehlo.convolution") == module.count("stablehlo.convolution") > 0
