"""The JSON arguments of a subarray's commands: from text to checked requests.

Two interfaces are understood. 0.2, also meant where none is named, has the member names of the
database; in 0.3 some have others, given here as aliases. All mistakes are named, by path and value.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import count, islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from batch_imaging.control.config.encoding import to_value
from batch_imaging.control.config.entities import (
    PB_ID,
    ProcessingBlock,
    SchedulingBlock,
    today,
)
from batch_imaging.errors import ControlError, ParameterError
from batch_imaging.parameters import load_parameters

INTERFACE = "https://schema.skao.int/ska-sdp-{}/{}"
VERSIONS = ("0.2", "0.3")
MAX_ENTRIES = 120
"""Blocks, and blocks elsewhere they depend on, that fit into one transaction of 128 operations."""


class InvalidArgument(ControlError):
    """The argument of a command is wrong; nothing was written."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        super().__init__("\n  ".join(["Configuration validation failed:", *mistakes]))


# --- requests ---


class _Request(BaseModel):
    """An object that may have more members than are known here; those are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class _Exact(_Request):
    """An object that has the known members only."""

    model_config = ConfigDict(extra="forbid")


Name = Annotated[str, StringConstraints(min_length=1)]
SbiId = Annotated[str, StringConstraints(pattern=r"^[^/\s]+$")]
PbId = Annotated[str, StringConstraints(pattern=PB_ID)]

ALLOWED = {
    r"^[^/\s]+$": "one or more characters, none of them '/' or a space",
    PB_ID: "1 to 64 of A-Z, a-z, 0-9 and '-'",
}
"""What a pattern means, in words."""


class ScanType(_Request):
    """A scan type; what else it has is the receive workflow's business."""

    id: Name = Field(alias="scan_type_id")


class Workflow(_Exact):
    """Which program a block is for."""

    type: Literal["realtime", "batch"] = Field(alias="kind")
    id: Name = Field(alias="name")
    version: Name


class Dependency(_Exact):
    """A block that must have FINISHED first."""

    pb_id: PbId
    type: list[str] = Field(alias="kind", min_length=1)


class Block(_Exact):
    """A processing block."""

    id: PbId = Field(alias="pb_id")
    workflow: Workflow
    parameters: dict[str, Any]
    dependencies: list[Dependency] = []


class AssignResources(_Request):
    """A scheduling block with its processing blocks."""

    id: SbiId = Field(alias="eb_id")
    max_length: float = Field(ge=0)
    scan_types: list[ScanType] = Field(min_length=1)
    processing_blocks: list[Block] = Field(min_length=1)

    def scheduling_block(self, subarray_id: str) -> SchedulingBlock:
        """Return the entry of the scheduling block."""
        ids: dict[str, list[str]] = {"realtime": [], "batch": []}
        for block in self.processing_blocks:
            ids[block.workflow.type].append(block.id)
        return SchedulingBlock(
            id=self.id,
            subarray_id=subarray_id,
            max_length=self.max_length,
            scan_types=[scan_type.model_dump() for scan_type in self.scan_types],
            pb_realtime=ids["realtime"],
            pb_batch=ids["batch"],
        )

    def entries(self) -> list[ProcessingBlock]:
        """Return the entries of the processing blocks; realtime ones do not wait for others."""
        return [
            ProcessingBlock.model_validate(
                block.model_dump()
                | {"sbi_id": self.id}
                | ({"dependencies": []} if block.workflow.type == "realtime" else {})
            )
            for block in self.processing_blocks
        ]

    def dropped_dependencies(self) -> list[str]:
        """Return the realtime blocks that were given dependencies."""
        return [
            block.id
            for block in self.processing_blocks
            if block.dependencies and block.workflow.type == "realtime"
        ]

    def targets_elsewhere(self) -> dict[str, list[str]]:
        """Return blocks depended on that are not of this request, with the paths of their names."""
        own = {block.id for block in self.processing_blocks}
        targets: dict[str, list[str]] = {}
        for path, dependency in self._dependencies():
            if dependency.pb_id not in own:
                targets.setdefault(dependency.pb_id, []).append(path)
        return targets

    def mistakes(self) -> Iterator[str]:
        """Yield what is wrong between members that are right by themselves."""
        yield from _repeated("scan_types", "id", [each.id for each in self.scan_types])
        blocks = self.processing_blocks
        yield from _repeated("processing_blocks", "id", [block.id for block in blocks])
        if (entries := len(blocks) + len(self.targets_elsewhere())) > MAX_ENTRIES:
            yield (
                f"processing_blocks: {entries} blocks, those elsewhere they depend on included; "
                f"at most {MAX_ENTRIES} fit into one scheduling block"
            )
        for index, block in enumerate(blocks):
            if block.workflow.id == "batch_imaging":
                try:
                    load_parameters(block.parameters).with_buffers(block.id)
                except ParameterError as error:
                    for line in str(error).splitlines():
                        yield f"processing_blocks[{index}].parameters.{line}"
        graph = {
            block.id: [each.pb_id for each in block.dependencies]
            for block in blocks
            if block.workflow.type == "batch"
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield f"processing_blocks: dependencies go in a circle: {' → '.join(error.args[1])}"

    def _dependencies(self) -> Iterator[tuple[str, Dependency]]:
        """Yield the dependencies that count, with the paths of what they name."""
        for i, block in enumerate(self.processing_blocks):
            if block.workflow.type == "batch":
                for j, dependency in enumerate(block.dependencies):
                    yield f"processing_blocks[{i}].dependencies[{j}].pb_id", dependency


class Configure(_Request):
    """A change of the scan type, and perhaps more types to choose from."""

    scan_type: Name
    new_scan_types: list[ScanType] = Field(default=[], min_length=1)

    def extend(self, scan_types: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the scan types of a scheduling block with the new ones.

        Raises
        ------
        InvalidArgument: a new one exists already, or the type asked for does not.
        """
        extended = scan_types + [each.model_dump() for each in self.new_scan_types]
        ids = [str(each.get("id")) for each in extended]
        mistakes = list(_repeated("new_scan_types", "id", ids, first=len(scan_types)))
        if self.scan_type not in ids:
            mistakes.append(_wrong("scan_type", self.scan_type, f"one of {', '.join(ids)}"))
        if mistakes:
            raise InvalidArgument(mistakes)
        return extended


class Scan(_Request):
    """The start of a scan."""

    id: int = Field(alias="scan_id", ge=-(2**63), lt=2**63)  # as the attribute scanID holds it


AnyRequest = TypeVar("AnyRequest", AssignResources, Configure, Scan)

SCHEMAS: Mapping[type[_Request], str] = {
    AssignResources: "assignres",
    Configure: "configure",
    Scan: "scan",
}

# --- reading ---


def read_request(kind: type[AnyRequest], argument: str) -> AnyRequest:
    """Read the argument of a command.

    Raises
    ------
    InvalidArgument: it is not JSON, of an unknown interface, or has other mistakes.
    """
    document = _read_object(argument)
    is_later = _version(SCHEMAS[kind], document) == "0.3"
    try:
        request = kind.model_validate(document, by_alias=is_later, by_name=not is_later)
    except ValidationError as error:
        raise InvalidArgument(map(_mistake, error.errors(include_url=False))) from None
    if isinstance(request, AssignResources) and (mistakes := list(request.mistakes())):
        raise InvalidArgument(mistakes)
    return request


def transaction_id(argument: str | None) -> str:
    """Return the transaction id that an argument brings with it, or a new one."""
    try:
        given = json.loads(argument or "{}").get("transaction_id")
    except (ValueError, AttributeError, RecursionError):
        given = None
    return given if isinstance(given, str) and given else new_transaction_id()


_NUMBERS = count(1)


def new_transaction_id() -> str:
    """Return an id that this process has not used today."""
    return f"txn-local-{today():%Y%m%d}-{next(_NUMBERS):09d}"


def _read_object(argument: str) -> dict[str, Any]:
    try:
        document = json.loads(
            argument, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant
        )
        to_value(document)  # half a surrogate, or 1e999, can be read but not be stored
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidArgument([f"it is not JSON at {place}: {error.msg}"]) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument([f"it cannot be read as JSON: {error}"]) from None
    if not isinstance(document, dict):
        raise InvalidArgument([_wrong("it", document, "a JSON object, {…}")])
    return document


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise ValueError(f"{name} is given {number} times in one object")
    return dict(pairs)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number in JSON")


def _version(schema: str, document: dict[str, Any]) -> str:
    interface = document.get("interface", INTERFACE.format(schema, VERSIONS[0]))
    versions = {INTERFACE.format(schema, version): version for version in VERSIONS}
    if not isinstance(interface, str) or interface not in versions:
        raise InvalidArgument([_wrong("interface", interface, " or ".join(versions))])
    return versions[interface]


# --- mistakes ---


def _mistake(error: Any) -> str:
    """Put one of pydantic's errors into our words."""
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, error["loc"])))
    match error["type"]:
        case "missing":
            return f"{path}: missing"
        case "extra_forbidden":
            return f"{path} = {_shown(error['input'])}: unknown member; leave it out"
        case "string_pattern_mismatch":
            return _wrong(path, error["input"], ALLOWED[error["ctx"]["pattern"]])
        case "string_too_short":
            return _wrong(path, error["input"], "a string that is not empty")
        case "too_short":
            return _wrong(path, error["input"], "a list that is not empty")
    allowed = re.sub(r"^Input should be (a valid )?", "", error["msg"])
    names = {"dictionary": "an object", "list": "a list", "string": "a string"}
    allowed = {**names, "integer": "an integer", "number": "a number"}.get(allowed, allowed)
    if error["type"] in {"model_type", "model_attributes_type"}:
        allowed = "an object"
    return _wrong(path, error["input"], allowed)


def _repeated(path: str, member: str, ids: list[str], first: int = 0) -> Iterator[str]:
    """Yield the ids that were there before; items of the path begin with the one of ``first``."""
    for index, each in islice(enumerate(ids), first, None):
        if each in ids[:index]:
            where = f"{path}[{index - first}].{member}"
            yield f"{where} = {_shown(each)}: is there already; each must be different"


def _wrong(path: str, value: object, allowed: str) -> str:
    return f"{path} = {_shown(value)}: must be {allowed}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
