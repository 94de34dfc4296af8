"""The operator's scripts, in plain Python and in iTango."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tango")

from batch_imaging.control.config.entities import Subarray

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).resolve().parents[4] / "tango_scripts"
PREFIX = "/scripts"
DEADLINE_S = 60


def run(tmp_path, program, script, *arguments, **environment):
    """Run a script and return its exit code and what it says."""
    done = subprocess.run(
        [*program, SCRIPTS / script, *arguments],
        env=os.environ | {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path)} | environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


PROGRAMS = {
    "python": [sys.executable],
    "itango": [shutil.which("itango", path=Path(sys.executable).parent) or "itango"],
}


@pytest.fixture(scope="module")
def server(start_subarray, etcd):
    return start_subarray(1, etcd, PREFIX)


@pytest.fixture
def device(server, etcd):
    """Subarray 1, OFF, in an empty database."""
    proxy = server.proxy()
    deadline = time.monotonic() + DEADLINE_S
    with etcd.config(PREFIX) as config:
        while str(proxy.State()) == "UNKNOWN":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for txn in config.txn():
            for path in (*txn.raw.list_keys("/sb/"), *txn.raw.list_keys("/pb/")):
                txn.raw.delete(path)
            txn.update_subarray("01", Subarray())
        while str(proxy.State()) != "OFF":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return proxy


@pytest.mark.parametrize("program", PROGRAMS)
def test_session(device, tmp_path, program):
    code, said = run(tmp_path, PROGRAMS[program], "assign_resources.py")
    assert code == 0, said
    assert "mid_sdp/elt/subarray_1 is ON and IDLE" in said
    assert device.obsState.name == "IDLE"
    code, said = run(tmp_path, PROGRAMS[program], "release_resources.py")
    assert code == 0, said
    assert "mid_sdp/elt/subarray_1 is ON and EMPTY" in said


def test_refusal_is_told_in_words(device, tmp_path):
    code, said = run(tmp_path, PROGRAMS["python"], "release_resources.py")
    assert code == 1
    words = "Command ReleaseResources not allowed when device state is OFF"
    assert said == f"ReleaseResources was refused: {words}\n"


def test_watch(device, tmp_path):
    code, said = run(tmp_path, PROGRAMS["python"], "watch.py", "--seconds", "1")
    assert code == 0, said
    assert "obsState = EMPTY" in said
    assert "State = OFF" in said


def test_missing_host_and_device(tango_host, tmp_path):
    code, said = run(tmp_path, PROGRAMS["python"], "watch.py", TANGO_HOST="")
    assert (code, "TANGO_HOST is not set" in said) == (1, True)
    code, said = run(tmp_path, PROGRAMS["python"], "watch.py", "mid_sdp/elt/subarray_9")
    assert (code, "subarray_9 at TANGO_HOST=" in said) == (1, True)
