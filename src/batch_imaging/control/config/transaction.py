"""Optimistic transactions: read a snapshot, write at the end if nothing that was read has changed.

    for txn in config.txn():
        state = txn.get_processing_block_state(pb_id)
        txn.update_processing_block_state(pb_id, ...)

The body runs again if another client was faster, so it must have no other effects. `txn.loop()` at
its end makes it run again after success; with `wait`, after something it has read has changed.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from batch_imaging.control.config.backend import (
    Backend,
    Changes,
    Compacted,
    Condition,
    Lease,
    NothingNewer,
    Present,
    Put,
    Record,
    Unchanged,
    Write,
)
from batch_imaging.control.config.encoding import check_path, to_key, to_object, to_path, to_value
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    Entity,
    Owner,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    Subarray,
    WorkflowDefinition,
    WorkflowName,
    today,
)
from batch_imaging.control.config.reader import (
    Reader,
    deploy_path,
    deploy_state_path,
    pb_owner_path,
    pb_path,
    pb_state_path,
    sb_path,
    subarray_path,
    workflow_path,
)
from batch_imaging.errors import (
    ConfigCollision,
    ConfigVanished,
    ControlError,
    OwnershipLost,
)

MAX_RETRIES = 64
NEVER_S = 3600.0
BELOW = 5
"""Levels below an entry that go when it is deleted with all that is under it."""


@dataclass(slots=True)
class _Attempt:
    """What one attempt has read and is going to write, by key."""

    revision: int = 0
    read: dict[str, Record | None] = field(default_factory=dict)
    listed: dict[str, dict[str, Record]] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)

    def conditions(self) -> list[Condition]:
        """Return what must still be so for the writes to be right."""
        same = [
            Unchanged(key, record.mod_revision if record else 0)
            for key, record in self.read.items()
        ]
        listed = {key for records in self.listed.values() for key in records}
        present = [Present(key) for key in sorted(listed - self.read.keys())]
        newest = [NothingNewer(prefix, self.revision) for prefix in self.listed]
        return [*same, *present, *newest]

    def is_touched_by(self, changes: Changes) -> bool:
        """Whether what was read changed, or what was listed has gained or lost a member."""
        for key, record in changes.records.items():
            came_or_went = record is None or record.create_revision > self.revision
            if key in self.read or (came_or_went and any(map(key.startswith, self.listed))):
                return True
        return False


class RawEntries:
    """Entries as plain objects, by path."""

    def __init__(self, backend: Backend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._attempt = _Attempt()

    def get(self, path: str) -> dict[str, Any] | None:
        """Return an entry, or None."""
        value = self.value(path)
        return None if value is None else to_object(path, value)

    def value(self, path: str) -> bytes | None:
        """Return the bytes of an entry, or None."""
        key = self._key(path)
        if key in self._attempt.writes:
            write = self._attempt.writes[key]
            return write.value if write else None
        record = self._read(key)
        return record.value if record else None

    def list_keys(self, path: str, recurse: int = 0) -> list[str]:
        """Return the paths that begin with ``path``, sorted; down to ``recurse`` levels deeper."""
        found: set[str] = set()
        for level in range(recurse + 1):
            prefix = f"{path.count('/') + self._prefix.count('/') + level}{self._prefix}{path}"
            keys = set(self._list(prefix))
            keys |= {key for key, write in self._attempt.writes.items() if write}
            keys -= {key for key, write in self._attempt.writes.items() if not write}
            found |= {key for key in keys if key.startswith(prefix)}
        return sorted(self._path(key) for key in found if to_path(key))

    def taken_paths(self, beginning: str) -> set[str]:
        """Return the paths of this depth that begin so, without a condition for the commit."""
        attempt, prefix = self._attempt, to_key(self._prefix + beginning)
        records, revision = self._backend.read_prefix(prefix, attempt.revision)
        attempt.revision = attempt.revision or revision
        written = {key for key in attempt.writes if key.startswith(prefix)}
        return {self._path(key) for key in records.keys() | written}

    def create(self, path: str, entry: dict[str, Any], lease: Lease | None = None) -> None:
        """Write a new entry.

        Raises
        ------
        ConfigCollision: it exists.
        """
        if self.value(path) is not None:
            raise ConfigCollision(path, "exists already")
        self._write(path, Put(to_value(entry), lease.id if lease else 0))

    def update(self, path: str, entry: dict[str, Any]) -> None:
        """Rewrite an entry; a lease it was under is dropped.

        Raises
        ------
        ConfigVanished: it does not exist.
        """
        if self.value(path) is None:
            raise ConfigVanished(path, "does not exist, so it cannot be changed")
        self._write(path, Put(to_value(entry)))

    def delete(self, path: str, recurse: bool = False) -> None:
        """Delete an entry, with all entries under it if ``recurse``.

        Raises
        ------
        ConfigVanished: there is nothing to delete.
        """
        doomed = [path] if self.value(path) is not None else []
        if recurse:
            doomed += self.list_keys(f"{path}/", BELOW)
        if not doomed:
            raise ConfigVanished(path, "does not exist, so it cannot be deleted")
        for each in doomed:
            self._write(each, None)

    def _path(self, key: str) -> str:
        return key[key.index("/") + len(self._prefix) :]

    def _key(self, path: str) -> str:
        return to_key(self._prefix + check_path(path))

    def _write(self, path: str, write: Write) -> None:
        self._attempt.writes[self._key(path)] = write

    def _read(self, key: str) -> Record | None:
        attempt = self._attempt
        if key not in attempt.read:
            attempt.read[key], revision = self._backend.read(key, attempt.revision)
            attempt.revision = attempt.revision or revision
        return attempt.read[key]

    def _list(self, prefix: str) -> dict[str, Record]:
        attempt = self._attempt
        if prefix not in attempt.listed:
            attempt.listed[prefix], revision = self._backend.read_prefix(prefix, attempt.revision)
            attempt.revision = attempt.revision or revision
        return attempt.listed[prefix]


class Transaction(Reader):
    """One transaction; made by `Config.txn`. Malformed entries raise MalformedRecord.

    Attributes
    ----------
    revision: of the last attempt that went through: of its writes, or what it has read.
    """

    def __init__(
        self, backend: Backend, prefix: str, owner: Owner, max_retries: int = MAX_RETRIES
    ) -> None:
        self.raw = RawEntries(backend, prefix)
        self._backend = backend
        self._owner = owner
        self._max_retries = max_retries
        self.revision = 0
        self._again = self._wait = False
        self._timeout_s: float | None = None

    def __iter__(self) -> Iterator["Transaction"]:
        failures = 0
        while True:
            self.raw._attempt = attempt = _Attempt()
            self._again = self._wait = False
            yield self
            written = self._commit(attempt)
            if written is not None:
                self.revision = written
                if not self._again:
                    return
                failures = 0
                if self._wait:
                    self._wait_for_change(attempt)
                continue
            failures += 1
            if failures > self._max_retries:
                raise ControlError(
                    f"Transaction did not succeed after {self._max_retries} retries!"
                )
            time.sleep(random.uniform(0, 0.001 * min(failures, 20)))

    def loop(self, wait: bool = False, timeout: float | None = None) -> None:
        """Run the body again after success: at once, or after a change of what it has read.

        Parameters
        ----------
        timeout: seconds after which it runs again in any case.
        """
        self._again, self._wait, self._timeout_s = True, wait, timeout

    def _commit(self, attempt: _Attempt) -> int | None:
        if not attempt.writes:
            return attempt.revision
        return self._backend.commit(attempt.conditions(), attempt.writes)

    def _wait_for_change(self, attempt: _Attempt) -> None:
        timeout_s = NEVER_S if self._timeout_s is None else self._timeout_s
        if not attempt.revision:  # nothing was read
            time.sleep(timeout_s)
            return
        deadline = time.monotonic() + timeout_s
        watch = self._backend.watch(attempt.revision + 1)
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                changes = watch.next(left_s)
                if changes and attempt.is_touched_by(changes):
                    return
        except Compacted:
            return
        finally:
            watch.close()

    # Reader

    def _value(self, path: str) -> bytes | None:
        return self.raw.value(path)

    def _children(self, path: str) -> list[str]:
        return [child.removeprefix(path) for child in self.raw.list_keys(path)]

    # processing blocks

    def new_processing_block_id(self, generator: str) -> str:
        """Return the first free `pb-<generator>-<date>-<number>`.

        The commit depends on the id that is then created, not on the many that are taken.
        """
        stem = f"pb-{generator}-{today():%Y%m%d}-"
        taken = self.raw.taken_paths(pb_path(stem))
        for number in range(100_000):
            pb_id = f"{stem}{number:05d}"
            if pb_path(pb_id) not in taken:
                return pb_id
        raise ControlError(f"pb-{generator}-{today():%Y%m%d}: all 100000 ids of the day are taken")

    def create_processing_block(self, block: ProcessingBlock) -> None:
        self._create(pb_path(block.id), block)

    def create_processing_block_state(self, pb_id: str, state: ProcessingBlockState) -> None:
        self._create(pb_state_path(pb_id), state)

    def update_processing_block_state(self, pb_id: str, state: ProcessingBlockState) -> None:
        self._update(pb_state_path(pb_id), state)

    def delete_processing_block(self, pb_id: str) -> None:
        """Delete a block with its state and owner; the controller removes its deployments."""
        self.raw.delete(pb_path(pb_id), recurse=True)

    def take_processing_block(self, pb_id: str, lease: Lease) -> None:
        """Become the owner of a block for as long as ``lease`` lives.

        Raises
        ------
        ConfigVanished: there is no such block.
        ConfigCollision: it has an owner.
        """
        if self.raw.value(pb_path(pb_id)) is None:
            raise ConfigVanished(pb_path(pb_id), "there is no such processing block")
        self.raw.create(pb_owner_path(pb_id), self._owner.to_object(), lease)

    def is_processing_block_owner(self, pb_id: str) -> bool:
        return self.get_processing_block_owner(pb_id) == self._owner

    def check_processing_block_owner(self, pb_id: str) -> None:
        """Let the transaction go through only while this client owns the block.

        Raises
        ------
        OwnershipLost: it does not.
        """
        owner = self.get_processing_block_owner(pb_id)
        if owner != self._owner:
            raise OwnershipLost(f"{pb_id}: its owner is {owner or 'nobody'}, not this process")

    # scheduling blocks and subarrays

    def create_scheduling_block(self, block: SchedulingBlock) -> None:
        self._create(sb_path(block.id), block)

    def update_scheduling_block(self, block: SchedulingBlock) -> None:
        self._update(sb_path(block.id), block)

    def create_subarray(self, subarray_id: str, subarray: Subarray) -> None:
        self._create(subarray_path(subarray_id), subarray)

    def update_subarray(self, subarray_id: str, subarray: Subarray) -> None:
        self._update(subarray_path(subarray_id), subarray)

    # deployments and workflow definitions

    def create_deployment(self, deployment: Deployment) -> None:
        self._create(deploy_path(deployment.id), deployment)

    def update_deployment(self, deployment: Deployment) -> None:
        self._update(deploy_path(deployment.id), deployment)

    def delete_deployment(self, deploy_id: str) -> None:
        """Delete a deployment and its state."""
        self.raw.delete(deploy_path(deploy_id), recurse=True)

    def set_deployment_state(self, deploy_id: str, state: DeploymentState) -> None:
        """Write the state of a deployment that exists.

        Raises
        ------
        ConfigVanished: it does not.
        """
        if self.raw.value(deploy_path(deploy_id)) is None:
            raise ConfigVanished(deploy_path(deploy_id), "there is no such deployment")
        self._set(deploy_state_path(deploy_id), state)

    def set_workflow(self, name: WorkflowName, definition: WorkflowDefinition) -> None:
        self._set(workflow_path(name), definition)

    def _create(self, path: str, entity: Entity) -> None:
        self.raw.create(path, entity.to_object())

    def _update(self, path: str, entity: Entity) -> None:
        self.raw.update(path, entity.to_object())

    def _set(self, path: str, entity: Entity) -> None:
        write = self.raw.update if self.raw.value(path) is not None else self.raw.create
        write(path, entity.to_object())
