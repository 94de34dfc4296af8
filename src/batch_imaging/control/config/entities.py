"""The entries of the configuration database, with the member names they have in JSON.

Members that are not known here survive a read and a rewrite. Processing blocks are read in two
dialects, with `workflow {type, id, version}` or with the later `script {kind, name, version}`, and
written in the first.
"""

import re
import socket
import sys
from datetime import UTC, date, datetime
from enum import StrEnum
from os import getpid
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from batch_imaging.errors import MalformedRecord

PB_ID = r"^[A-Za-z0-9\-]{1,64}$"
DEPLOY_ID = r"^[A-Za-z0-9\-]{1,96}$"
PbId = Annotated[str, StringConstraints(pattern=PB_ID)]


class Entity(BaseModel):
    """An entry; `model_copy(update=…)` changes it, `to_object` is what is stored."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object of this entry."""
        return self.model_dump(mode="json")


class WorkflowName(Entity):
    """Which program a processing block is for."""

    type: str = Field(validation_alias=AliasChoices("type", "kind"))
    id: str = Field(validation_alias=AliasChoices("id", "name"))
    version: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}:{self.version}"


class Dependency(Entity):
    """Another processing block that must have FINISHED first; `type` documents which data flow."""

    pb_id: str
    type: list[str] = Field(default_factory=list, validation_alias=AliasChoices("type", "kind"))


class ProcessingBlock(Entity):
    """What shall be processed, and how. It does not change."""

    id: PbId = Field(validation_alias=AliasChoices("id", "pb_id", "key"))
    sbi_id: str | None = Field(validation_alias=AliasChoices("sbi_id", "eb_id"))
    workflow: WorkflowName = Field(validation_alias=AliasChoices("workflow", "script"))
    parameters: dict[str, Any] = Field(default_factory=dict)
    dependencies: list[Dependency] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _script_in_one_word(cls, entry: Any) -> Any:
        """Read the newest dialect's `script` of one word, `kind:name:version`."""
        if isinstance(entry, dict) and isinstance(entry.get("script"), str):
            words = entry["script"].split(":")
            if len(words) == 3:
                return entry | {
                    "script": dict(zip(("kind", "name", "version"), words, strict=True))
                }
        return entry


class Status(StrEnum):
    """The status of a processing block."""

    STARTING = "STARTING"
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return self in {Status.FINISHED, Status.FAILED, Status.CANCELLED}


class _Sparse(Entity):
    """An entry of which only the members that were set are stored."""

    def to_object(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)

    def without(self, *members: str) -> Self:
        """Return a copy in which these members are not set."""
        return type(self).model_validate(
            {name: value for name, value in self.to_object().items() if name not in members}
        )


class Resources(Entity):
    """What a block asks for while it runs: Dask workers, and bytes of each buffer by name."""

    workers: int = 0
    buffers: dict[str, int] = Field(default_factory=dict)


class ProcessingBlockState(_Sparse):
    """How far a processing block is.

    Attributes
    ----------
    reason: why it waits, failed or was cancelled.
    stage, fraction: what it does while RUNNING, and how much of the stage is done, 0 to 1.
    resources: what it will need, written by the script before it waits.
    """

    status: Status
    resources_available: bool = False
    reason: str | None = None
    stage: str | None = None
    fraction: float | None = None
    resources: Resources | None = None
    receive_addresses: dict[str, Any] | None = None


class Owner(Entity):
    """The process that works on a processing block; stored under a lease of it."""

    command: list[str]
    hostname: str
    pid: int

    @classmethod
    def this_process(cls) -> Self:
        return cls(command=list(sys.argv), hostname=socket.gethostname(), pid=getpid())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.hostname}"


class SchedulingStatus(StrEnum):
    """The status of a scheduling block instance."""

    ACTIVE = "ACTIVE"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"


class SchedulingBlock(Entity):
    """A scheduling block instance: an observation with its processing blocks."""

    id: str
    subarray_id: str | None = None
    max_length: float | None = None
    scan_types: list[dict[str, Any]] = Field(default_factory=list)
    pb_realtime: list[str] = Field(default_factory=list)
    pb_batch: list[str] = Field(default_factory=list)
    pb_receive_addresses: str | None = None
    current_scan_type: str | None = None
    scan_id: int | None = None
    status: SchedulingStatus = SchedulingStatus.ACTIVE

    def to_object(self) -> dict[str, Any]:
        """Leave `max_length` out where it is not known: other writers do not have it."""
        entry = super().to_object()
        if self.max_length is None:
            del entry["max_length"]
        return entry


class Subarray(Entity):
    """What a subarray device was told last."""

    state: str = "OFF"
    sbi_id: str | None = None
    last_command: str | None = None
    obs_state_target: str = "EMPTY"


class Deployment(Entity):
    """Something to be made real by a deployer, in the way its `type` says."""

    id: Annotated[str, StringConstraints(pattern=DEPLOY_ID)]
    type: str
    args: dict[str, Any] = Field(default_factory=dict)

    @property
    def chart(self) -> str:
        return str(self.args.get("chart", ""))

    @property
    def values(self) -> dict[str, Any]:
        """The chart's values, flat, with the paths of Helm's `--set` as keys."""
        values = self.args.get("values")
        return values if isinstance(values, dict) else {}

    @property
    def retain(self) -> bool:
        """Whether it stays when nobody uses it any more; said of buffers."""
        return self.args.get("retain") is not False


class DeploymentStatus(StrEnum):
    """What became of a deployment."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


class DeploymentState(_Sparse):
    """What a deployer says of a deployment.

    Attributes
    ----------
    reason: why it is not RUNNING, or what is to be known although it is.
    attempts: how often it could not be installed so far.
    pods: status of each of its parts by name.
    scheduler: address of the Dask scheduler of an execution engine.
    path: of a buffer's folder, where the workers see it.
    adopted: whether a buffer's volume was there before its deployment.
    log: file that holds the output.
    """

    status: DeploymentStatus
    reason: str | None = None
    attempts: int | None = None
    pods: dict[str, str] | None = None
    scheduler: str | None = None
    path: str | None = None
    adopted: bool = False
    log: str | None = None


class WorkflowDefinition(Entity):
    """The image that a workflow runs from."""

    image: str


AnyEntity = TypeVar("AnyEntity", bound=Entity)


def parse(kind: type[AnyEntity], path: str, entry: dict[str, Any]) -> AnyEntity:
    """Return the entity of an entry.

    Raises
    ------
    MalformedRecord: members are missing or of the wrong type.
    """
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors()
        )
        raise MalformedRecord(path, f"is not a {kind.__name__} ({mistakes})") from error


def is_pb_id(text: str) -> bool:
    return re.fullmatch(PB_ID, text) is not None


def today() -> date:
    """Return the date that new ids carry, UTC."""
    return datetime.now(UTC).date()


def workflow_deployment_id(pb_id: str) -> str:
    return f"proc-{pb_id}-workflow"


def engine_deployment_id(pb_id: str) -> str:
    return f"proc-{pb_id}-dask"
