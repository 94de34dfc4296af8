"""Which image a workflow runs from.

Entries `/workflow/<type>:<id>:<version>` of the database come first, then the file or URL that the
controller was given, then the workflows of this program, which is its own image for any version;
BATCH_IMAGING_IMAGE says what that is called where we are.
"""

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.request import urlopen

from pydantic import BaseModel, ConfigDict, Field

from batch_imaging import __version__
from batch_imaging.control.config import View
from batch_imaging.control.config.entities import WorkflowName

LOG = logging.getLogger(__name__)

OWN_IMAGE = os.environ.get("BATCH_IMAGING_IMAGE", f"batch-imaging:{__version__}")
OWN_WORKFLOWS = ("batch:batch_imaging", "realtime:test_receive_addresses", "realtime:test_realtime")
FETCH_TIMEOUT_S = 10.0
RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Definitions:
    """Images by `<type>:<id>:<version>`, besides those of the database and our own.

    Attributes
    ----------
    are_read: False until the file or URL, if there is one, could be read for the first time.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    are_read: bool = True

    def image(self, name: WorkflowName, view: View) -> str | None:
        """Return the image of a workflow, or None."""
        if definition := view.get_workflow(name):
            return definition.image
        is_own = f"{name.type}:{name.id}" in OWN_WORKFLOWS
        return self.images.get(str(name)) or (OWN_IMAGE if is_own else None)

    def known(self, view: View) -> str:
        """Return the names of all workflows, to be read by people."""
        names = {*view.list_workflows(), *self.images}
        return ", ".join([*sorted(names), *(f"{each} (any version)" for each in OWN_WORKFLOWS)])


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Repository(_Item):
    name: str
    path: str


class _Workflow(_Item):
    type: str
    id: str
    repository: str
    image: str
    versions: Annotated[list[str], Field(min_length=1)]


class _DefinitionsFile(_Item):
    about: list[Any] = Field(default_factory=list)
    version: dict[str, Any]
    repositories: Annotated[list[_Repository], Field(min_length=1)]
    workflows: Annotated[list[_Workflow], Field(min_length=1)]


def read_definitions(source: str) -> dict[str, str]:
    """Return the images by workflow of a file or URL; entries that cannot be used are left out.

    Raises
    ------
    OSError, HTTPException: it cannot be read.
    ValueError: it is not JSON of the right form.
    """
    if "://" in source:
        with urlopen(source, timeout=FETCH_TIMEOUT_S) as response:
            text = response.read()
    else:
        text = Path(source).read_bytes()
    content = _DefinitionsFile.model_validate_json(text)
    paths = {each.name: each.path for each in content.repositories}
    images = {}
    for each in content.workflows:
        if each.repository not in paths or each.type not in {"batch", "realtime"}:
            LOG.warning(
                "%s: workflow %s:%s is left out: type or repository %s is unknown",
                *(source, each.type, each.id, each.repository),
            )
            continue
        for version in each.versions:
            name = f"{each.type}:{each.id}:{version}"
            images[name] = f"{paths[each.repository]}/{each.image}:{version}"
    return images


class DefinitionsReader:
    """Keeps definitions current in the background; as a context it ends with it.

    Attributes
    ----------
    definitions: as last read. If a later attempt fails, they stay.
    """

    def __init__(self, source: str | None, refresh_s: float) -> None:
        self.definitions = Definitions(are_read=source is None)
        self._source = source
        self._refresh_s = refresh_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="definitions", daemon=True)

    def __enter__(self) -> Self:
        if self._source:
            self._read(self._source)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _read(self, source: str) -> None:
        try:
            self.definitions = Definitions(read_definitions(source))
        except (OSError, HTTPException, ValueError) as error:
            LOG.warning("%s: no new workflow definitions: %s", source, error)

    def _run(self) -> None:
        assert self._source
        while not self._ended.wait(
            self._refresh_s if self.definitions.are_read else min(RETRY_S, self._refresh_s)
        ):
            self._read(self._source)
