"""A whole run as one job of a batch system: its script, and how it is submitted."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from batch_imaging.execution.engines import asked_memory_bytes
from batch_imaging.execution.engines.batch_jobs import run_command
from batch_imaging.execution.engines.htcondor import assignment
from batch_imaging.execution.plan import Plan
from batch_imaging.parameters import Engine

MIB = 2**20
SPARE = 1.25  # over the memory that the plan foretells


def job_script(engine: Engine, plan: Plan, arguments: Sequence[str], folder: Path) -> str:
    """Return the script of the job, or submit file, that runs `batch-imaging` with arguments.

    Parameters
    ----------
    engine: named slurm or htcondor.
    folder: of the job's output and log.
    """
    if engine.name == "slurm":
        return _slurm_script(engine, plan, arguments, folder)
    return _htcondor_script(engine, plan, arguments, folder)


def _slurm_script(engine: Engine, plan: Plan, arguments: Sequence[str], folder: Path) -> str:
    """One task for the script itself, which then starts the others as a step of the job."""
    task_bytes = max(asked_memory_bytes(engine) or plan.memory_limit_bytes, plan.main_bytes)
    directives = [
        "--job-name=batch-imaging",
        f"--output={folder}/batch-imaging-%j.log",
        f"--time={engine.walltime}",
        f"--ntasks={plan.n_workers + 1}",
        f"--cpus-per-task={engine.cores}",
        f"--mem-per-cpu={-(-task_bytes // (engine.cores * MIB))}M",
    ]
    if engine.queue:
        directives.append(f"--partition={engine.queue}")
    if engine.account:
        directives.append(f"--account={engine.account}")
    lines = [f"#SBATCH {line}" for line in (*directives, *engine.directives)]
    command = shlex.join([sys.executable, "-m", "batch_imaging", *arguments])
    return "\n".join(["#!/bin/sh", *lines, "export OMP_NUM_THREADS=1", f"exec {command}", ""])


def _htcondor_script(engine: Engine, plan: Plan, arguments: Sequence[str], folder: Path) -> str:
    memory_bytes = SPARE * plan.memory_bytes
    if worker_bytes := asked_memory_bytes(engine):
        memory_bytes = plan.n_workers * worker_bytes + plan.main_bytes
    lines = {
        "batch_name": "batch-imaging",
        "executable": sys.executable,
        "transfer_executable": "false",
        "arguments": f'"{_quoted(["-m", "batch_imaging", *arguments])}"',
        "getenv": "HOME",
        "environment": "OMP_NUM_THREADS=1",
        "initialdir": str(folder),
        "output": "batch-imaging-$(ClusterId).out",
        "error": "batch-imaging-$(ClusterId).log",
        "log": "batch-imaging-$(ClusterId).events",
        "should_transfer_files": "IF_NEEDED",
        "request_cpus": str(plan.n_workers * engine.cores),
        "request_memory": f"{math.ceil(memory_bytes / MIB)}",
        "request_disk": f"{-(-plan.disk_bytes // 1024)}",
        "periodic_remove": "(JobStatus == 2) && "
        f"(time() - EnteredCurrentStatus > {engine.walltime_s})",
    }
    if engine.account:
        lines["accounting_group"] = engine.account
    lines |= dict(map(assignment, engine.directives))
    return "\n".join([*(f"{name} = {value}" for name, value in lines.items()), "queue", ""])


def _quoted(arguments: Sequence[str]) -> str:
    """Quote as HTCondor's manual says of arguments: each in single quotes, both kinds doubled."""
    return " ".join("'" + word.replace("'", "''").replace('"', '""') + "'" for word in arguments)


def submit_job(engine: Engine, script: str) -> str:
    """Submit a job and return its number.

    Raises
    ------
    EngineError: in the words of the batch system.
    """
    command = ["sbatch", "--parsable"] if engine.name == "slurm" else ["condor_submit", "-terse"]
    return run_command(*command, "/dev/stdin", text=script).split()[0]
