"""Signals as exceptions: none is lost, and no lock is left held."""

import gc
import signal
import time

import pytest

from batch_imaging.signals import RaisingSignals

DEADLINE_S = 10.0


class Stopped(BaseException):
    pass


@pytest.fixture
def stoppable():
    before = signal.getsignal(signal.SIGTERM)
    yield RaisingSignals(lambda number: Stopped(number), {signal.SIGTERM: signal.SIG_IGN})
    signal.signal(signal.SIGTERM, before)


def collect_and_wait():
    gc.collect()
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        pass


def test_the_first_is_raised_and_another_does_what_was_said(stoppable):
    def stop_twice():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=r"^15$"), stoppable:
        stop_twice()


def test_one_that_a_callback_of_the_garbage_collector_loses_comes_again(stoppable):
    def lose(phase, _):
        gc.callbacks.remove(lose)
        signal.raise_signal(signal.SIGTERM)

    gc.callbacks.append(lose)
    with pytest.raises(Stopped), stoppable:
        collect_and_wait()


def test_a_lock_is_not_left_held(stoppable):
    class Lock:
        held = False

        def __enter__(self):
            signal.raise_signal(signal.SIGTERM)
            self.held = True

        def __exit__(self, *_):
            self.held = False

    lock = Lock()
    with pytest.raises(Stopped), stoppable, lock:
        collect_and_wait()
    assert not lock.held


def test_other_unraisable_exceptions_are_still_reported(stoppable, monkeypatch):
    reported = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)

    class Bad:
        def __del__(self):
            raise ValueError("bad")

    with stoppable:
        Bad()
    assert [str(each.exc_value) for each in reported] == ["bad"]
