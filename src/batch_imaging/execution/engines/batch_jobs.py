"""Workers as jobs of a batch system, by dask-jobqueue: what SLURM and HTCondor have in common.

The scheduler runs in this process. A worker retires some time before its job's walltime, so that no
unit is cut off; whatever job is gone from the queue is submitted again.
"""

import logging
import math
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from distributed.core import Status

from batch_imaging.errors import EngineError
from batch_imaging.execution.engines.engine import wait_until
from batch_imaging.execution.engines.settings import inherited_settings
from batch_imaging.parameters import Engine as EngineParameters

LOG = logging.getLogger(__name__)

ASK_S = 5.0
COMMAND_S = 60.0
GONE_S = 60.0
SCHEDULER_AWAY_S = 60
"""Workers that have not heard of the scheduler for so long end themselves, and their jobs."""
MARGIN, MARGIN_S = 0.2, (20.0, 600.0)
"""Fraction of the walltime, and its limits, that is left when the last workers retire."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as its queue has it.

    Attributes
    ----------
    state: in the words of the batch system.
    reason: why it waits, or is held.
    is_over: it will never run, or run on; why it is still in the queue says `reason`.
    """

    id: str
    state: str
    reason: str
    is_over: bool


def lifetime_s(walltime_s: float) -> tuple[float, float]:
    """Return when a worker retires, and by how much this is spread over workers, s.

    Together they stay below the walltime by a margin for start and last units.
    """
    least_s, most_s = MARGIN_S
    margin_s = min(max(MARGIN * walltime_s, least_s), most_s, walltime_s / 3)
    stagger_s = margin_s / 2
    return walltime_s - margin_s - stagger_s, stagger_s


def run_command(*command: str, text: str = "", deadline_s: float = COMMAND_S) -> str:
    """Return what a command of the batch system prints, given text on stdin.

    Raises
    ------
    EngineError: with what it says of its failure.
    """
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=deadline_s, check=True
        )
    except FileNotFoundError as error:
        raise EngineError(
            f"{command[0]}: no such program here; run this where jobs are submitted"
        ) from error
    except subprocess.CalledProcessError as error:
        raise EngineError(f"{command[0]}: {(error.stderr or error.stdout).strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{command[0]}: did not answer within {deadline_s:g} s") from error
    return done.stdout


def jobqueue(module: str) -> Any:
    """Import a module of dask-jobqueue, and take back Ctrl-C, which it takes over."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return import_module(f"dask_jobqueue.{module}")
    finally:
        signal.signal(signal.SIGINT, handler)


class BatchEngine(ABC):
    """Workers as jobs, one worker a job.

    Parameters
    ----------
    memory_bytes: of a worker.
    """

    submit_command: str

    def __init__(self, wanted: EngineParameters, memory_bytes: int) -> None:
        self.cores = wanted.cores
        self.wanted = wanted
        self.memory_bytes = memory_bytes
        self.job_name = f"batch-imaging-{uuid.uuid4().hex[:12]}"
        self._cluster: Any = None
        self._folder: Path | None = None
        self._n_workers = 0
        self._said, self._asked_s = "", -math.inf

    @abstractmethod
    def make_cluster(self, options: dict[str, Any]) -> Any:
        """Return dask-jobqueue's cluster, without workers."""

    @abstractmethod
    def jobs(self) -> list[QueuedJob]:
        """Return the jobs of this engine that the queue still has."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel all jobs of this engine."""

    @abstractmethod
    def explain(self, job: QueuedJob) -> str:
        """Return why a job does not run, as the batch system explains it at length."""

    def start(self, n_workers: int, deadline_s: float) -> str:
        if shutil.which(self.submit_command) is None:
            raise EngineError(
                f"engine {self.wanted.name}: there is no {self.submit_command} here; run this "
                "where jobs are submitted"
            )
        try:  # a folder that most likely the submitting and the running hosts share
            self._folder = Path(tempfile.mkdtemp(prefix=".batch-imaging-", dir=Path.cwd()))
        except OSError as error:
            raise EngineError(f"no place for the logs of jobs here: {error}") from error
        lifetime, stagger = lifetime_s(self.wanted.walltime_s)
        options = {
            "cores": self.cores,
            "processes": 1,
            "memory": f"{self.memory_bytes}B",
            "interface": self.wanted.interface,
            "death_timeout": SCHEDULER_AWAY_S,
            "log_directory": str(self._folder),
            "job_script_prologue": [
                f"export DASK_INTERNAL_INHERIT_CONFIG={inherited_settings()}",
                'export HOME="${HOME:-$PWD}"',  # HTCondor sets none, and libraries look for it
            ],
            "worker_extra_args": [
                *("--nthreads", "1", "--no-dashboard"),
                *("--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"),
            ],
            "scheduler_options": {
                "dashboard_address": "127.0.0.1:0",
                "dashboard": self.wanted.dashboard,
            },
            "silence_logs": logging.WARNING,
        }
        self._cluster = self.make_cluster(options)
        self._n_workers = n_workers
        self._submit(n_workers, deadline_s)
        return str(self._cluster.scheduler_address)

    def scale(self, n_workers: int) -> None:
        alive = {job.id for job in self.jobs() if not job.is_over}
        workers = self._cluster.workers
        for name, job in list(workers.items()):
            if job.job_id not in alive:
                LOG.info("job %s ended; another one is submitted", job.job_id)
                job.status = Status.closed
                workers.pop(name, None)
        if len(workers) == n_workers:
            return
        self._submit(n_workers, COMMAND_S)

    def _submit(self, n_workers: int, deadline_s: float) -> None:
        cluster = self._cluster

        async def submit() -> None:
            await cluster

        # Not by its method scale, which submits later and does not tell of what fails.
        while len(cluster.worker_spec) < n_workers:
            cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            cluster.sync(submit, callback_timeout=deadline_s)
        except (TimeoutError, RuntimeError, ValueError, OSError) as error:
            for job in cluster.workers.values():
                if job.job_id is None:
                    job.status = Status.failed  # or the cluster cannot be closed
            raise EngineError(f"engine {self.wanted.name}: {_stderr(str(error))}") from error

    def trouble(self) -> str:
        if time.monotonic() > self._asked_s + ASK_S:
            self._said, self._asked_s = self._look(), time.monotonic()
        return self._said

    def _look(self) -> str:
        jobs = self.jobs()
        for job in jobs:
            if job.is_over:
                raise EngineError(f"job {job.id} is {job.state}: {self.explain(job)}")
        if not jobs:
            raise EngineError(f"all jobs of {self.job_name} ended before a worker was there")
        if len(jobs) < self._n_workers:
            self.scale(self._n_workers)
        said = ", ".join(f"{n} {state}" for state, n in Counter(job.state for job in jobs).items())
        waiting = [job for job in jobs if job.state != "running"]
        return f"jobs: {said}" + (f"; {self.explain(waiting[0])}" if waiting else "")

    def logs(self) -> dict[str, str]:
        if self._folder is None:
            return {}
        files = (path for path in sorted(self._folder.iterdir()) if path.suffix in {".out", ".err"})
        texts = {path.name: path.read_text(errors="replace") for path in files}
        return {name: text for name, text in texts.items() if text.strip()}

    def stop(self) -> None:
        try:
            if self._cluster is not None:
                self._cluster.close(timeout=COMMAND_S)
                self.cancel()
                wait_until(lambda: not self.jobs(), GONE_S, f"{self.job_name}: jobs did not end")
        except (TimeoutError, EngineError) as error:
            LOG.warning("jobs of %s may be left in the queue: %s", self.job_name, error)
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


def _stderr(text: str) -> str:
    """Return what the submit command said, out of dask-jobqueue's account of it."""
    _, _, said = text.partition("stderr:\n")
    return " ".join(said.split()) or text
