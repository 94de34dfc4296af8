"""Workers on SLURM: jobs of their own, or steps of the allocation in which this process runs."""

import logging
import os
import shlex
import subprocess
import sys
import tempfile
from typing import IO, Any

from distributed import Scheduler
from distributed.deploy.spec import SpecCluster

from batch_imaging.errors import EngineError
from batch_imaging.execution.engines.batch_jobs import (
    COMMAND_S,
    SCHEDULER_AWAY_S,
    BatchEngine,
    QueuedJob,
    jobqueue,
    run_command,
)
from batch_imaging.execution.engines.settings import inherited_settings
from batch_imaging.parameters import Engine as EngineParameters

HOPELESS = {
    *("BadConstraints", "InvalidAccount", "InvalidQOS", "JobHeldAdmin", "JobHeldUser"),
    *("PartitionNodeLimit", "PartitionTimeLimit", "launch_failed_requeued_held"),
}
"""Reasons with which a job waits for ever (squeue's manual, job reason codes)."""


def is_inside_allocation() -> bool:
    """Whether this process is (part of) a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


class SlurmEngine(BatchEngine):
    """A job for each worker."""

    submit_command = "sbatch"

    def make_cluster(self, options: dict[str, Any]) -> Any:
        return jobqueue("slurm").SLURMCluster(
            **options,
            queue=self.wanted.queue,
            account=self.wanted.account,
            walltime=self.wanted.walltime,
            job_name=self.job_name,
            job_mem=f"{-(-self.memory_bytes // 2**20)}M",
            job_extra_directives=list(self.wanted.directives),
        )

    def jobs(self) -> list[QueuedJob]:
        lines = run_command(
            "squeue", "--noheader", f"--name={self.job_name}", "--format=%A|%T|%r"
        ).splitlines()
        found = []
        for line in lines:
            job_id, state, reason = line.strip().split("|", 2)
            is_over = state not in {"CONFIGURING", "PENDING", "RUNNING", "SUSPENDED"}
            found.append(
                QueuedJob(
                    job_id,
                    state.lower(),
                    "" if reason == "None" else reason,
                    is_over or reason.split(" ")[0] in HOPELESS,
                )
            )
        return found

    def cancel(self) -> None:
        run_command("scancel", f"--name={self.job_name}")

    def explain(self, job: QueuedJob) -> str:
        return job.reason or job.state


class SlurmStepEngine:
    """Workers as one step of the job that this process belongs to, on all its nodes."""

    def __init__(self, wanted: EngineParameters, memory_bytes: int) -> None:
        self.cores = wanted.cores
        self.wanted = wanted
        self.memory_bytes = memory_bytes
        self._cluster: SpecCluster | None = None
        self._step: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (stop closes it)
        self._n_workers = 0

    def start(self, n_workers: int, deadline_s: float) -> str:
        options = {
            "interface": self.wanted.interface,
            "dashboard": self.wanted.dashboard,
            "port": 0,
        }
        self._cluster = SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": options | {"dashboard_address": "127.0.0.1:0"},
            },
            silence_logs=logging.WARNING,
        )
        self.scale(n_workers)
        return str(self._cluster.scheduler_address)

    def scale(self, n_workers: int) -> None:
        if self._cluster is None or (self._step is not None and self._step.poll() is None):
            return
        worker = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", self._cluster.scheduler_address),
            *("--nthreads", "1", "--memory-limit", str(self.memory_bytes), "--no-dashboard"),
            *("--death-timeout", str(SCHEDULER_AWAY_S)),
        ]
        if self.wanted.interface:
            worker += ["--interface", self.wanted.interface]
        command = [
            *("srun", f"--ntasks={n_workers}", f"--cpus-per-task={self.cores}", "--overlap"),
            *("--kill-on-bad-exit=0", "--wait=0", *self.wanted.directives),
        ]
        try:
            self._step = subprocess.Popen(
                [*command, *worker],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"DASK_INTERNAL_INHERIT_CONFIG": inherited_settings()},
            )
        except OSError as error:
            raise EngineError(f"{shlex.join(command)}: {error}") from error

    def trouble(self) -> str:
        assert self._step is not None
        if self._step.poll() is not None:
            said = " ".join(self.logs()["srun"].split()) or f"exit code {self._step.returncode}"
            raise EngineError(f"srun in job {os.environ['SLURM_JOB_ID']} ended: {said}")
        return f"srun waits in job {os.environ['SLURM_JOB_ID']}"

    def logs(self) -> dict[str, str]:
        self._log.seek(0)
        return {"srun": self._log.read().decode(errors="replace")}

    def stop(self) -> None:
        if self._step is not None and self._step.poll() is None:
            self._step.terminate()
            try:
                self._step.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                self._step.kill()
                self._step.wait()
        if self._cluster is not None:
            self._cluster.close(timeout=COMMAND_S)
        self._log.close()
