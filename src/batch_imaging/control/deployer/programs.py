"""Programs that run for a deployment, and what is kept of them in the deployer's folder.

`deployments/<id>/` is their working directory and scratch. There stand `programs.json`, written
last, when all have been started, and `<name>.exit` with the exit code of each that has ended. So
nothing of a deployment is known only to the process that made it.
"""

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from batch_imaging.control.config.entities import DeploymentState, DeploymentStatus
from batch_imaging.control.deployer.processes import (
    MARK,
    end_processes,
    find_processes,
    is_marked,
    mark_of,
)

# Goes on when it is told to end, to write down how its command took the same signal.
KEEP_EXIT_CODE = 'trap : TERM; "$@"; echo $? > "$0"'


class Record(BaseModel):
    """What has been started: the chart, and the process id of each program by name."""

    chart: str
    pids: dict[str, int]


def read_record(scratch: Path) -> Record | None:
    """Return the record of a deployment; None if not all of its programs were started."""
    try:
        return Record.model_validate_json((scratch / "programs.json").read_text())
    except (OSError, ValidationError):
        return None


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
            pids = dict(zip(commands, (child.pid for child in self._children), strict=True))
            partial = self.scratch / "programs.json.partial"
            partial.write_text(Record(chart=chart, pids=pids).model_dump_json())
            partial.rename(self.scratch / "programs.json")
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
        record = read_record(self.scratch)
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
