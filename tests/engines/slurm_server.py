"""A SLURM of one node with 8 cores and 4 GB, in a folder and on loopback ports of its own."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
READY_S = 30.0
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.log
KillWait=5
MinJobAge=2
OverTimeLimit=0
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
NodeName=localhost NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which its commands work."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {missing or PROGRAMS}: tests/engines/install-slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, ports=free_ports(2)))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": SEARCHED}

    def start(*command: str) -> None:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *command],  # it ends with the tests, however they end
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)

    with ExitStack() as stack:
        start(
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
            *(f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log"),
        )
        wait_for((folder / "munge.socket").exists)
        start("slurmctld", "-D", "-c")
        # With its namespace go all processes of jobs.
        namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        start(*namespace, "slurmd", "-D", "-N", "localhost", "-c")
        wait_for(lambda: "idle" in nodes(environment))
        yield environment
        with contextlib.suppress(subprocess.SubprocessError):
            output(environment, "scancel", "--user=root")
            wait_for(lambda: not output(environment, "squeue", "--noheader"))


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def output(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()


def nodes(environment: dict[str, str]) -> str:
    """Return the states of the nodes; nothing while there is no answer."""
    with contextlib.suppress(subprocess.CalledProcessError):
        return output(environment, "sinfo", "--noheader", "--format=%T")
    return ""


def wait_for(is_true, deadline_s: float = READY_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s"
        time.sleep(0.2)
