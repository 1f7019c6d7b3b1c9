import sys

import pytest

from mlproject import precision
from mlproject.errors import InputError


def child(code):
    return [sys.executable, "-c", code]


def test_float32_is_tried_nowhere():
    precision.require("float32", child("raise SystemExit(1)"))


def test_a_trial_that_ends_well_is_enough():
    precision.require("bfloat16", child("pass"))


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            r"was killed by signal 4 \(Illegal instruction\)",
        ),
        ("raise FloatingPointError('not finite')", "failed with FloatingPointError: not finite"),
        ("raise SystemExit(3)", "failed with 3"),
    ],
)
def test_a_host_whose_trial_ends_badly_is_refused_in_one_line(code, how):
    with pytest.raises(InputError, match=f"^--precision: found 'bfloat16', .* {how}; choose float32$"):
        precision.require("bfloat16", child(code))


def test_a_trial_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(precision, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"did not end within 0\.5 seconds"):
        precision.require("bfloat16", child("import time; time.sleep(60)"))


@pytest.mark.slow
def test_the_trial_itself_trains_in_float32_and_answers_for_this_host_in_bfloat16():
    # float32 works everywhere, which shows that the trial can succeed; bfloat16 must answer either way, never die here
    precision.require("bfloat16", [sys.executable, "-m", "mlproject.precision", "float32"])
    try:
        precision.require("bfloat16")
    except InputError as error:
        assert "was killed by signal" in str(error)  # an error of ours would be told as `failed with`
