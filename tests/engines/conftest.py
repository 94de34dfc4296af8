"""Tests that are told to end take down the batch systems that they started."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def end_in_order():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
