"""Fixtures that all tests may use."""

import os
import signal
from pathlib import Path

import pytest

# A run in the background of a shell ignores Ctrl-C, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets; tests that need it are skipped where it is absent."""
    beside_the_repository = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("BATCH_IMAGING_SHARED", beside_the_repository)) / "data"
    if not folder.is_dir():
        pytest.skip("real data are not here (set BATCH_IMAGING_SHARED to the folder above `data`)")
    return folder
