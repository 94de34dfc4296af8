"""The configuration database in the memory of one process, for tests and trials without etcd."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batch_imaging.control.config.backend import (
    LEASE_TTL_S,
    Changes,
    Compacted,
    Condition,
    NothingNewer,
    Present,
    Record,
    Unchanged,
    Write,
)
from batch_imaging.errors import ControlError

KEPT_REVISIONS = 10_000


class MemoryBackend:
    """A store that several `Config`s of a process may share. It keeps all recent revisions."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._revision = 1
        self._snapshots: dict[int, dict[str, Record]] = {1: {}}
        self._log: list[Changes] = []
        self._leases: dict[int, MemoryLease] = {}
        self._lease_ids = itertools.count(1)

    def read(self, key: str, revision: int = 0) -> tuple[Record | None, int]:
        with self._changed:
            revision = revision or self._revision
            return self._at(revision).get(key), revision

    def read_prefix(self, prefix: str, revision: int = 0) -> tuple[dict[str, Record], int]:
        with self._changed:
            revision = revision or self._revision
            records = self._at(revision)
            return {
                key: records[key] for key in sorted(records) if key.startswith(prefix)
            }, revision

    def commit(self, conditions: Sequence[Condition], writes: Mapping[str, Write]) -> int | None:
        with self._changed:
            if not all(map(self._holds, conditions)):
                return None
            leases = {write.lease_id for write in writes.values() if write and write.lease_id}
            if leases - self._leases.keys():
                raise ControlError("the lease of an entry to be written is gone")
            return self._write(writes)

    def watch(self, revision: int) -> "MemoryWatch":
        return MemoryWatch(self, revision)

    def lease(self, ttl_s: float = LEASE_TTL_S) -> "MemoryLease":
        with self._changed:
            lease = MemoryLease(self, next(self._lease_ids))
            self._leases[lease.id] = lease
            return lease

    def close(self) -> None:
        """Revoke all leases."""
        for lease in tuple(self._leases.values()):
            lease.revoke()

    def _at(self, revision: int) -> dict[str, Record]:
        try:
            return self._snapshots[revision]
        except KeyError:
            raise Compacted(f"revision {revision} is not kept any more") from None

    def _holds(self, condition: Condition) -> bool:
        now = self._snapshots[self._revision]
        match condition:
            case Unchanged(key, mod_revision):
                return (now[key].mod_revision if key in now else 0) == mod_revision
            case Present(key):
                return key in now
            case NothingNewer(prefix, revision):
                return all(
                    record.create_revision <= revision
                    for key, record in now.items()
                    if key.startswith(prefix)
                )

    def _write(self, writes: Mapping[str, Write]) -> int:
        before = self._snapshots[self._revision]
        self._revision += 1
        after = dict(before)
        changed: dict[str, Record | None] = {}
        for key, write in writes.items():
            for lease in self._leases.values():
                lease.keys.discard(key)
            if write is None:
                if after.pop(key, None):
                    changed[key] = None
                continue
            created = before[key].create_revision if key in before else self._revision
            after[key] = changed[key] = Record(write.value, created, self._revision)
            if write.lease_id:
                self._leases[write.lease_id].keys.add(key)
        self._snapshots[self._revision] = after
        self._snapshots.pop(self._revision - KEPT_REVISIONS, None)
        self._log.append(Changes(self._revision, changed))
        del self._log[:-KEPT_REVISIONS]
        self._changed.notify_all()
        return self._revision

    def _revoke(self, lease: "MemoryLease") -> None:
        with self._changed:
            if self._leases.pop(lease.id, None) and lease.keys:
                self._write(dict.fromkeys(tuple(lease.keys)))

    def _changes_from(self, revision: int) -> list[Changes]:
        if self._log and revision < self._log[0].revision and revision <= self._revision:
            raise Compacted(f"revision {revision} is not kept any more")
        return self._log[max(0, len(self._log) - (self._revision - revision + 1)) :]


@dataclass(slots=True)
class MemoryLease:
    """A lease that lasts until it is revoked, or `expire` plays the death of its holder."""

    backend: MemoryBackend
    id: int
    keys: set[str] = field(default_factory=set)
    lost: threading.Event = field(default_factory=threading.Event)

    def revoke(self) -> None:
        self.backend._revoke(self)

    def expire(self) -> None:
        self.lost.set()
        self.revoke()


class MemoryWatch:
    """Changes of a MemoryBackend."""

    def __init__(self, backend: MemoryBackend, revision: int) -> None:
        self._backend = backend
        self._revision = revision
        self._closed = False

    def next(self, timeout_s: float) -> Changes | None:
        deadline = time.monotonic() + timeout_s
        changed = self._backend._changed
        with changed:
            while not self._closed:
                waiting = self._backend._changes_from(self._revision)
                if waiting:
                    self._revision = waiting[0].revision + 1
                    return waiting[0]
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not changed.wait(left_s):
                    return None
        return None

    def close(self) -> None:
        with self._backend._changed:
            self._closed = True
            self._backend._changed.notify_all()
