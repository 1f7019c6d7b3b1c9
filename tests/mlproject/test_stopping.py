import os
import signal
import time

import pytest

from mlproject import stopping
from mlproject.errors import Stopped


@pytest.fixture(autouse=True)
def forgotten():
    """A signal that a test has sent would stop the trainings of the tests after it."""
    yield
    with stopping.listening():
        assert not stopping.should_stop()


def test_a_signal_stops_at_once():
    with pytest.raises(Stopped, match="SIGTERM"), stopping.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert stopping.received() == signal.SIGTERM


def test_a_deferred_signal_is_noted_and_two_together_are_one(capsys):
    with pytest.raises(Stopped, match="SIGINT"), stopping.listening(), stopping.deferred() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # as `mlflow run` does after Ctrl-C
        assert should_stop()
    assert capsys.readouterr().err == "SIGINT: stopping at the next safe step; send it again to stop now\n"


def test_a_second_signal_does_not_wait(monkeypatch):
    monkeypatch.setattr(stopping, "_AGAIN_SECONDS", 0.05)
    reached = False
    with pytest.raises(Stopped), stopping.listening(), stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert not reached


def test_handlers_and_state_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.listening():
        assert signal.getsignal(signal.SIGTERM) is not before
        assert not stopping.should_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failure_is_not_hidden_by_a_signal_before_it():
    with pytest.raises(ValueError), stopping.listening(), stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the disk is full")
