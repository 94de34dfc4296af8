"""The whole database in memory, kept current by a watch: what long-running parts look at.

    with config.follow() as follower:
        while follower.wait(timeout_s=60):
            follower.view.get_processing_block_state(pb_id)

A view is read without asking the store; what is decided from it must be checked again in a
transaction that writes it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Self

from batch_imaging.control.config.backend import Backend, Compacted, Record, Watch
from batch_imaging.control.config.encoding import to_object, to_path
from batch_imaging.control.config.entities import AnyEntity, Entity, parse
from batch_imaging.control.config.reader import Reader, pb_path
from batch_imaging.errors import MalformedRecord

LOG = logging.getLogger(__name__)


class View(Reader):
    """Entries as of one revision. A malformed one is logged once and reads as absent."""

    def __init__(self) -> None:
        self.revision = 0
        self._records: dict[str, Record] = {}
        self._folders: dict[str, set[str]] = {}
        self._entities: dict[str, Entity | None] = {}

    def __contains__(self, path: str) -> bool:
        """Whether an entry is there, be it malformed."""
        return path in self._records

    def arrival(self, pb_id: str) -> int:
        """Return a number by which processing blocks are in order of their creation."""
        return self._records[pb_path(pb_id)].create_revision

    def value(self, path: str) -> bytes | None:
        """Return the bytes of an entry, or None."""
        record = self._records.get(path)
        return record.value if record else None

    def _value(self, path: str) -> bytes | None:
        return self.value(path)

    def _children(self, path: str) -> list[str]:
        return sorted(self._folders.get(path, ()))

    def _entity(self, kind: type[AnyEntity], path: str) -> AnyEntity | None:
        if path not in self._records:
            return None
        if path not in self._entities:
            try:
                self._entities[path] = parse(kind, path, to_object(path, self._records[path].value))
            except MalformedRecord as error:
                LOG.warning("%s; it is ignored", error)
                self._entities[path] = None
        return self._entities[path]  # type: ignore[return-value]

    def _put(self, path: str, record: Record | None) -> None:
        folder, _, name = path.rpartition("/")
        names = self._folders.setdefault(f"{folder}/", set())
        self._entities.pop(path, None)
        if record is None:
            self._records.pop(path, None)
            names.discard(name)
        else:
            self._records[path] = record
            names.add(name)


class Follower:
    """Keeps a view current. For one thread; close it, or use it as a context.

    Attributes
    ----------
    changed: paths that the last `wait` has brought up to date.
    """

    def __init__(self, backend: Backend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self.view = View()
        self.changed: set[str] = set()
        self._watch = self._read_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout_s: float) -> bool:
        """Bring the view up to date; if it is, wait for a change. Whether there was one."""
        self.changed = set()
        deadline = time.monotonic() + timeout_s
        while not self.changed:
            try:
                changes = self._watch.next(max(0.0, deadline - time.monotonic()))
                if changes is None:
                    return False
                while changes is not None:
                    self._apply(changes.records, changes.revision)
                    changes = self._watch.next(0.0)
            except Compacted:
                broken, self._watch = self._watch, self._read_all()
                broken.close()
        return True

    def close(self) -> None:
        """End the watch; a `wait` in another thread returns False."""
        self._watch.close()

    def _read_all(self) -> Watch:
        """Read everything, count as changed what differs, and watch from there on."""
        records, revision = self._backend.read_prefix("")
        gone: dict[str, Record | None] = {key: None for key in self._keys() if key not in records}
        self._apply(gone | records, revision)
        return self._backend.watch(revision + 1)

    def _keys(self) -> list[str]:
        paths = (f"{self._prefix}{path}" for path in self.view._records)
        return [f"{path.count('/')}{path}" for path in paths]

    def _apply(self, records: Mapping[str, Record | None], revision: int) -> None:
        for key, record in records.items():
            path = to_path(key)
            if path is None or not path.startswith(f"{self._prefix}/"):
                continue
            path = path.removeprefix(self._prefix)
            if self.view._records.get(path) != record:
                self.view._put(path, record)
                self.changed.add(path)
        self.view.revision = revision
