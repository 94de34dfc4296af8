"""An HTCondor of 8 cores in a chroot, with mounts and processes of its own on loopback."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from slurm_server import free_ports, wait_for

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = """\
NUM_CPUS = 8
MEMORY = 4000
use FEATURE : PartitionableSlot
MOUNT_UNDER_SCRATCH =
DISCARD_SESSION_KEYRING_ON_STARTUP = False
ENABLE_IPV6 = False
NETWORK_INTERFACE = 127.0.0.1
CONDOR_HOST = 127.0.0.1
SHARED_PORT_PORT = {port}
COLLECTOR_HOST = 127.0.0.1:{port}
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 5
DAGMAN_USE_DIRECT_SUBMIT = True
DAGMAN_SUBMIT_DELAY = 0
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
"""
# Everything that is mounted here goes with the namespace.
START = """\
set -eu
mount --make-rprivate /
mount --bind {root} {root}
for folder in var/lib/condor var/log/condor var/lock/condor var/spool/condor run root tmp; do
    mkdir -p {root}/$folder
    mount -t tmpfs -o mode=0755 tmpfs {root}/$folder
done
chmod 1777 {root}/tmp
mkdir {root}/run/condor {root}/run/lock {root}/run/lock/condor
for each in execute spool; do mkdir {root}/var/lib/condor/$each; done
for each in {bound}; do mkdir -p {root}$each; mount --rbind $each {root}$each; done
mount --bind {configuration} {root}/etc/condor/config.d
mount --bind {work} {root}/home/imager
mount -t proc proc {root}/proc
chroot {root} sh -c 'chown -R condor:condor /var/lib/condor /var/log/condor /var/lock/condor \
    /var/spool/condor /run/condor /run/lock/condor; chown imager:imager ~imager'
exec chroot {root} condor_master -f
"""


@dataclass(frozen=True, slots=True)
class HTCondor:
    """A running pool; commands run as the user `imager` in its home, `work`."""

    pid: int
    work: Path

    def command(self, *command: object) -> list[str]:
        inside = shlex.join(map(str, command))
        return [
            *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd=/", "--"),
            *("runuser", "-u", "imager", "--", "env", "-i"),
            *("PATH=/usr/bin:/bin:/usr/sbin", "OMP_NUM_THREADS=1", "LC_ALL=C.UTF-8"),
            *("sh", "-c", f"export HOME=~imager; cd && exec {inside}"),
        ]

    def run(self, *command: object, deadline_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=deadline_s, check=False
        )

    def jobs(self) -> str:
        return self.run("condor_q", "-allusers", "-af", "ClusterId", "JobStatus").stdout.strip()


def chroot_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("BATCH_IMAGING_HTCONDOR", cache / "batch-imaging" / "htcondor"))


@contextmanager
def running_htcondor(folder: Path) -> Iterator[HTCondor]:
    root = chroot_folder()
    if os.geteuid() != 0 or not (root / "usr/sbin/condor_master").exists():
        pytest.skip(f"needs root and HTCondor in {root}: tests/engines/make-htcondor")
    configuration, work = folder / "config.d", folder / "work"
    shutil.copytree(root / "etc/condor/config.d", configuration)
    (configuration / "99-test").write_text(CONFIGURATION.format(port=free_ports(1)[0]))
    work.mkdir()
    bound = " ".join({"/dev", "/sys", sys.prefix, sys.base_prefix, str(REPOSITORY)})
    script = START.format(root=root, configuration=configuration, work=work, bound=bound)
    with (folder / "start.log").open("w") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: process.poll() is not None or psutil.Process(process.pid).children())
        assert process.poll() is None, (folder / "start.log").read_text()
        (child,) = psutil.Process(process.pid).children()
        pool = HTCondor(child.pid, work)
        wait_for(lambda: "slot" in pool.run("condor_status", "-af", "Name").stdout, 60)
        yield pool
    finally:
        # The first process of its namespace: with it go all others, and the mounts.
        for first in [] if process.poll() is not None else psutil.Process(process.pid).children():
            first.send_signal(signal.SIGQUIT)
            with contextlib.suppress(psutil.TimeoutExpired):
                first.wait(10)
            with contextlib.suppress(psutil.NoSuchProcess):
                first.kill()
        process.wait(10)
