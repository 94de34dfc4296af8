"""What a process costs: time, processor time and peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# A process of little memory between: Linux counts what the parent ever took as the child's own.
_RUN = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
seconds = time.perf_counter() - begin
cost = seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
print(json.dumps([process.returncode, *cost]))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took; processor time with that of its own children, memory of the largest."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure(arguments: Sequence[str], program: str = sys.executable) -> Cost:
    """Run ``program``, Python by default, with ``arguments`` and return what it took."""
    whole = subprocess.run(
        [sys.executable, "-c", _RUN, program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    returncode, *cost = json.loads(whole.stdout)
    if returncode:
        raise RuntimeError(f"{' '.join(arguments[:4])} failed: {whole.stderr[-500:]}")
    return Cost(*cost)
