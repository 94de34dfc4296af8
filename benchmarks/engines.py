"""How long engines take from nothing to all workers, on the platforms that are here."""

import shutil
import time

from batch_imaging.execution.engines import EngineName, open_executor
from batch_imaging.parameters import Engine
from benchmarks.table import Measurement, Table, tabulate

MEMORY_BYTES = 512 * 2**20
PROGRAMS: dict[EngineName, str] = {"local": "sh", "slurm": "sbatch", "htcondor": "condor_submit"}
GOALS_S: dict[str, float | None] = {"local": None, "slurm": 15.0, "htcondor": 30.0}
WORKERS = 2


def benchmark_engines(_quick: bool) -> list[Table]:
    """Start and stop every engine whose program is on the path."""
    measured = []
    for name, program in PROGRAMS.items():
        if shutil.which(program) is None:
            continue
        wanted = Engine(name=name, interface=None if name == "local" else "lo")
        begin = time.perf_counter()
        with open_executor(wanted, WORKERS, MEMORY_BYTES):
            up = time.perf_counter()
        end = time.perf_counter()
        what = f"{name}: {WORKERS} workers"
        measured.append(Measurement(f"{what} start", up - begin, "s", GOALS_S[name]))
        measured.append(Measurement(f"{what} stop", end - up, "s"))
    return [tabulate("Engines", measured, "")]
