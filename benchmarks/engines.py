"""How long engines take from nothing to all workers, on the platforms that are here."""

import time

from batch_imaging.errors import EngineError
from batch_imaging.execution.engines import EngineName, open_executor
from batch_imaging.execution.engines.batch_jobs import run_command
from batch_imaging.parameters import Engine
from benchmarks.table import Measurement, Table, tabulate

MEMORY_BYTES = 512 * 2**20
PROBES: dict[EngineName, str] = {"local": "true", "slurm": "sinfo", "htcondor": "condor_status"}
GOALS_S: dict[str, float | None] = {"local": None, "slurm": 15.0, "htcondor": 30.0}
WORKERS = 2


def benchmark_engines(_quick: bool) -> list[Table]:
    """Start and stop every engine whose platform answers."""
    measured = []
    for name, probe in PROBES.items():
        try:
            run_command(probe, deadline_s=10)
        except EngineError:
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
