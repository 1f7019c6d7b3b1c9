"""What `joint` refuses before it reads anything."""

import dataclasses

import pytest

from mlproject.commands import joint
from mlproject.errors import InputError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mpra_fasta": "x.fa"}, "^--mpra_fasta: found 'x.fa' with --mpra demo, which has its own; give --mpra"),
        ({"mpra_activity": ("a", "b")}, "^--mpra_activity: found 'a,b' with --mpra demo"),
        ({"mpra_cell_type_name": "retina"}, "^--mpra_cell_type_name: found 'retina' with --mpra demo"),
        ({"fasta": "x.fa"}, "^--fasta: found 'x.fa' with --tracks demo, which has its own; give --tracks"),
        ({"track_valid": ("chr1",)}, "^--track_valid: found 'chr1' with --tracks demo"),
        ({"track_regions": "x.bed"}, "^--track_regions: found 'x.bed' with --tracks demo"),
        ({"activity_weight": 0.0}, "^--activity_weight: found 0; it must be above 0, or choose --modalities tracks"),
        ({"coverage_weight": -1.0}, "^--coverage_weight: found -1; it must be above 0, or choose --modalities mpra"),
        ({"widening_factor": -1}, "^--widening_factor: found -1; it must be 0 or more"),
    ],
)  # fmt: skip
def test_what_would_not_be_read_or_not_be_learnt_is_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        joint.check(dataclasses.replace(joint.Options(work_dir=tmp_path / "work"), **options))
    assert not (tmp_path / "work").exists()


def test_every_option_of_files_is_one():
    names = {field.name for field in dataclasses.fields(joint.Options)}
    assert all(name in names for of_one in joint._OF_FILES.values() for name in of_one)
