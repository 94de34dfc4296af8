"""Finding and ending the processes of a deployment, whatever became of who started them.

They carry the folder and the id of their deployment in their environment, and hand it on to their
children. So they are found after a crash of the deployer, in another session, and without a parent.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from batch_imaging.control.config.entities import DEPLOY_ID
from batch_imaging.errors import ControlError

MARK = "BATCH_IMAGING_DEPLOYMENT"
GRACE_S = 10.0
POLL_S = 0.2
EXEC_S = 2.0
"""A process that is just beginning a program has no environment for a moment."""


def is_deploy_id(text: str) -> bool:
    """Whether this may name a deployment, and so a directory."""
    return re.fullmatch(DEPLOY_ID, text) is not None


def mark_of(folder: Path, deploy_id: str) -> str:
    return f"{folder}:{deploy_id}"


def is_marked(pid: int, mark: str) -> bool:
    """Whether this process lives and is of the deployment; ids of dead processes are used again."""
    try:
        process = psutil.Process(pid)
        deadline = time.monotonic() + EXEC_S
        while not (environment := process.environ()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(environment.get(MARK) == mark)
    except (psutil.Error, OSError):  # gone, a zombie, or somebody else's
        return False


def find_processes(folder: Path) -> dict[str, set[psutil.Process]]:
    """Return the processes of a folder's deployments, by deployment id."""
    found: dict[str, set[psutil.Process]] = {}
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            path, _, deploy_id = process.environ().get(MARK, "").rpartition(":")
            if path == str(folder) and is_deploy_id(deploy_id):
                found.setdefault(deploy_id, set()).add(process)
    return found


def end_processes(what: str, find: Callable[[], set[psutil.Process]]) -> None:
    """Ask processes and their descendants to end; after GRACE_S force them.

    Parameters
    ----------
    find: called again and again, for processes may start others while they end.

    Raises
    ------
    ControlError: some cannot be ended.
    """
    begin = time.monotonic()
    asked: set[psutil.Process] = set()
    while processes := _with_descendants(find() | asked):
        waited_s = time.monotonic() - begin
        if waited_s > 2 * GRACE_S:
            pids = ", ".join(str(each.pid) for each in processes)
            raise ControlError(f"{what}: processes {pids} do not end, not even when killed")
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if waited_s > GRACE_S:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked |= processes
        psutil.wait_procs(processes, timeout=POLL_S)


def _with_descendants(processes: set[psutil.Process]) -> set[psutil.Process]:
    living = set(filter(_is_alive, processes))
    for process in tuple(living):
        with suppress(psutil.NoSuchProcess):
            living.update(filter(_is_alive, process.children(recursive=True)))
    return living


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
