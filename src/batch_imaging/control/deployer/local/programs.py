"""Programs that run for a deployment, and what is kept of them in the deployer's folder.

`deployments/<id>/` is their working directory and scratch. There stand `programs.json`, complete
when all have been started, and `<name>.exit` with the exit code of each that has ended. So nothing
of a deployment is known only to the process that made it.
"""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from batch_imaging.control.config.entities import DeploymentState, DeploymentStatus
from batch_imaging.control.deployer.local.processes import (
    MARK,
    end_processes,
    find_processes,
    is_marked,
    mark_of,
)

# Goes on when it is told to end, to write down how its command took the same signal.
KEEP_EXIT_CODE = 'trap : TERM; "$@"; echo $? > "$0"'


class Record(BaseModel):
    """What is started: the chart, the programs, and the process id of each that is known."""

    chart: str
    programs: list[str]
    pids: dict[str, int] = {}

    @property
    def is_complete(self) -> bool:
        return len(self.pids) == len(self.programs)

    def write(self, scratch: Path) -> None:
        partial = scratch / "programs.json.partial"
        partial.write_text(self.model_dump_json())
        partial.rename(scratch / "programs.json")


def read_record(folder: Path, deploy_id: str) -> Record | None:
    """Return the record of a deployment; None if not all of its programs were started.

    If the deployer was killed between the start of the only program and the note of it, the program
    is found by its mark: ending a script that has claimed its block would cancel that.
    """
    scratch = scratch_of(folder, deploy_id)
    try:
        record = Record.model_validate_json((scratch / "programs.json").read_text())
    except (OSError, ValidationError):
        return None
    if not record.is_complete and len(record.programs) == 1:
        for process in find_processes(folder).get(deploy_id, ()):
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) == process.pid:
                    record.pids[record.programs[0]] = process.pid
                    record.write(scratch)
    return record if record.is_complete else None


def scratch_of(folder: Path, deploy_id: str) -> Path:
    return folder / "deployments" / deploy_id


def remove_programs(folder: Path, deploy_id: str) -> None:
    """End all processes of a deployment and remove its scratch folder."""
    end_processes(deploy_id, lambda: find_processes(folder).get(deploy_id, set()))
    with suppress(FileNotFoundError):
        shutil.rmtree(scratch_of(folder, deploy_id))


class Programs(ABC):
    """The programs of one deployment.

    Attributes
    ----------
    scratch: their working directory.
    log: gets what they say.
    """

    def __init__(self, folder: Path, deploy_id: str) -> None:
        self.folder = folder
        self.deploy_id = deploy_id
        self.scratch = scratch_of(folder, deploy_id)
        self.log = folder / "logs" / f"{deploy_id}.log"
        self._children: list[subprocess.Popen[bytes]] = []
        self._final: DeploymentState | None = None

    def make_scratch(self) -> None:
        """Make an empty scratch folder, and the folder of the log."""
        self.remove()
        self.scratch.mkdir(parents=True)
        self.log.parent.mkdir(exist_ok=True)

    def start(
        self, chart: str, commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]
    ) -> None:
        """Start commands by name, all at the same time."""
        # Dask changes the title of its processes where it can, and would wipe out the mark.
        ours = {MARK: mark_of(self.folder, self.deploy_id), "SPT_NOENV": "1"}
        try:
            record = Record(chart=chart, programs=list(commands))
            record.write(self.scratch)
            with self.log.open("ab") as log:
                for name, command in commands.items():
                    child = subprocess.Popen(
                        ["sh", "-c", KEEP_EXIT_CODE, str(self._exit_file(name)), *command],
                        cwd=self.scratch,
                        env={**environment, "PYTHONUNBUFFERED": "1", **ours},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                    self._children.append(child)
                    record.pids[name] = child.pid
            record.write(self.scratch)
        except BaseException:
            self.remove()
            raise

    def state(self) -> DeploymentState:
        """Return the state; one that says that they have ended stays for good."""
        for child in self._children:
            child.poll()  # or it would stay a zombie
        if self._final:
            return self._final
        state = self.state_after(self._exit_codes())
        if state.status in {DeploymentStatus.FINISHED, DeploymentStatus.FAILED}:
            self._final = state
        return state

    @abstractmethod
    def state_after(self, exit_codes: Mapping[str, int | None]) -> DeploymentState:
        """Return the state, given the exit codes of those that have ended; None is an unknown."""

    def _exit_codes(self) -> dict[str, int | None]:
        record = read_record(self.folder, self.deploy_id)
        codes: dict[str, int | None] = {}
        for name, pid in record.pids.items() if record else ():
            lives = is_marked(pid, mark_of(self.folder, self.deploy_id))
            with suppress(FileNotFoundError):  # read after the look at the process that writes it
                if text := self._exit_file(name).read_text():
                    codes[name] = int(text)
            if not lives:
                codes.setdefault(name, None)
        return codes

    def failure(self, exit_code: int | None) -> str:
        """Return why a program has failed, with the last line of the log."""
        code = f"exit code {exit_code}"
        if exit_code is None:
            code = "killed before its exit code was known, or the machine was restarted"
        return f"{code}, see {self.log}: {_last_line(self.log)}"

    def remove(self) -> None:
        """End all processes and remove the scratch folder; the log stays."""
        remove_programs(self.folder, self.deploy_id)
        for child in self._children:
            child.wait()
        self._children.clear()

    def _exit_file(self, name: str) -> Path:
        return self.scratch / f"{name}.exit"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return str(error)
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
