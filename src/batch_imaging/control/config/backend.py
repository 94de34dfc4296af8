"""What a store of the configuration database must be able to do: etcd, or the memory of a process.

A store holds values under keys and counts revisions: every commit that writes is one more, and
every read may ask for the state as of an earlier one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from batch_imaging.errors import ControlError

LEASE_TTL_S = 10.0
DEADLINE_S = 5.0
"""How long a call goes on trying while the store is away, unless told otherwise."""


class Compacted(ControlError):
    """The store has forgotten the revision that was asked for; read the present state instead."""


@dataclass(frozen=True, slots=True)
class Record:
    """A value with the revisions of its creation and of its last change."""

    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A commit's condition: the key has this revision of last change; 0 means that it is absent."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class NothingNewer:
    """A commit's condition: no key of this prefix was created after this revision."""

    prefix: str
    revision: int


@dataclass(frozen=True, slots=True)
class Present:
    """A commit's condition: the key exists."""

    key: str


Condition = Unchanged | NothingNewer | Present


@dataclass(frozen=True, slots=True)
class Put:
    """A write; with a lease, the key goes when the lease does."""

    value: bytes
    lease_id: int = 0


Write = Put | None
"""None deletes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of keys up to a revision; None was deleted."""

    revision: int
    records: Mapping[str, Record | None]


class Lease(Protocol):
    """Keeps keys alive as long as this process lives; refreshed in the background.

    Attributes
    ----------
    lost: set when the store has let the lease expire.
    """

    id: int
    lost: Event

    def revoke(self) -> None:
        """Give the lease up: its keys vanish now. A lease that is gone is no error."""


class Watch(Protocol):
    """Changes from a revision on, in order, none left out, also through a restart of the store."""

    def next(self, timeout_s: float) -> Changes | None:
        """Return the next changes, or None if there are none within ``timeout_s``.

        Raises
        ------
        Compacted: changes are lost; watch again from a fresh read.
        """

    def close(self) -> None:
        """End the watch; a `next` in another thread returns None."""


class Backend(Protocol):
    """A store. Methods may be called from any thread.

    All raise ConfigUnavailable if the store does not answer within their deadline.
    """

    def read(self, key: str, revision: int = 0) -> tuple[Record | None, int]:
        """Return the record of a key as of ``revision`` (0: now), and the revision of the read."""

    def read_prefix(self, prefix: str, revision: int = 0) -> tuple[dict[str, Record], int]:
        """Return the records whose keys have a prefix ('': all), by key, and the revision."""

    def commit(self, conditions: Sequence[Condition], writes: Mapping[str, Write]) -> int | None:
        """Write everything if all conditions hold, else nothing.

        Returns the revision of the writes; None if a condition did not hold.
        """

    def watch(self, revision: int) -> Watch:
        """Watch all keys from ``revision`` on, that one included."""

    def lease(self, ttl_s: float = LEASE_TTL_S) -> Lease:
        """Grant a lease and keep it alive until it is revoked."""

    def close(self) -> None:
        """End what this process has open: leases are revoked, watches ended."""
