"""Workers as jobs of HTCondor, which need no file system in common with the script."""

import json
import os
from typing import Any

from batch_imaging.execution.engines.batch_jobs import BatchEngine, QueuedJob, jobqueue, run_command

STATES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "running"}
STATES |= {7: "suspended"}
"""JobStatus of the job ClassAd (HTCondor's manual, appendix of job attributes)."""


def is_inside_slot() -> bool:
    """Whether this process is a job of HTCondor."""
    return "_CONDOR_JOB_AD" in os.environ


class HTCondorEngine(BatchEngine):
    """A job for each worker."""

    submit_command = "condor_submit"

    def make_cluster(self, options: dict[str, Any]) -> Any:
        further = dict(assignment(line) for line in self.wanted.directives)
        if self.wanted.account:
            further["accounting_group"] = self.wanted.account
        return jobqueue("htcondor").HTCondorCluster(
            **options,
            disk=f"{self.wanted.disk}B",
            job_extra_directives={
                "batch_name": self.job_name,
                "RequestMemory": -(-self.memory_bytes // 2**20),
                "periodic_remove": "(JobStatus == 2) && "
                f"(time() - EnteredCurrentStatus > {self.wanted.walltime_s})",
            }
            | further,
        )

    def jobs(self) -> list[QueuedJob]:
        wanted = "ClusterId", "ProcId", "JobStatus", "HoldReason"
        text = run_command(
            *("condor_q", "-constraint", self._constraint()),
            *("-json", "-attributes", ",".join(wanted)),
        )
        return [
            QueuedJob(
                f"{job['ClusterId']}.{job['ProcId']}",
                STATES.get(job["JobStatus"], "unknown"),
                job.get("HoldReason", ""),
                job["JobStatus"] not in {1, 2, 6, 7},
            )
            for job in json.loads(text or "[]")
        ]

    def cancel(self) -> None:
        if self.jobs():
            run_command("condor_rm", "-constraint", self._constraint())

    def explain(self, job: QueuedJob) -> str:
        if job.reason:
            return job.reason
        text = run_command("condor_q", "-better-analyze", job.id)
        _, _, conditions = text.partition("Condition\n")  # and how many slots meet each
        return " ".join((conditions or text).split())

    def _constraint(self) -> str:
        return f'JobBatchName == "{self.job_name}"'


def assignment(line: str) -> tuple[str, str]:
    """Return the name and the value of a line of a submit file."""
    name, _, value = line.partition("=")
    return name.strip(), value.strip()
