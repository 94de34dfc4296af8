"""Ending the processes of a deployment: obstinate, in other sessions, without a mark or parent."""

import os
import subprocess
import sys

import psutil

from batch_imaging.control.deployer.local import processes
from batch_imaging.control.deployer.local.processes import (
    MARK,
    end_processes,
    find_processes,
    is_marked,
    mark_of,
)

# The child outlives its parent in a session of its own; the grandchild has lost the mark.
FAMILY = """
import subprocess, sys
ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
sleep = f"import signal, time; {ignore}; print(flush=True); time.sleep(600)"
child = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {sleep!r}], env={{}})"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
"""


def test_obstinate_and_orphaned_processes_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    environment = os.environ | {MARK: mark_of(tmp_path, "proc-a")}
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], env=environment, stdout=subprocess.PIPE
    ) as parent:
        parent.stdout.readline()  # of the grandchild, which does not obey SIGTERM from now on
        parent.wait(30)
        found = find_processes(tmp_path)["proc-a"]
        family = found | {each for one in found for each in one.children(recursive=True)}
        assert len(found) == 1
        assert len(family) == 2
        end_processes("proc-a", lambda: find_processes(tmp_path).get("proc-a", set()))
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert find_processes(tmp_path) == {}


def test_processes_of_other_folders_and_deployments_are_not_ours(tmp_path):
    environment = os.environ | {MARK: mark_of(tmp_path / "other", "..")}
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert is_marked(other.pid, mark_of(tmp_path / "other", ".."))
        assert not is_marked(other.pid, mark_of(tmp_path, ".."))
        assert find_processes(tmp_path) == find_processes(tmp_path / "other") == {}
        other.kill()
    assert not is_marked(other.pid, mark_of(tmp_path / "other", ".."))
