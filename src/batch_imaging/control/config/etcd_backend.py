"""The configuration database in etcd, by its gRPC interface."""

import gc
import itertools
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is told by our own errors

import grpc
from etcd3 import etcdrpc as rpc
from etcd3.etcdrpc.kv_pb2 import Event

from batch_imaging.control.config.backend import (
    DEADLINE_S,
    LEASE_TTL_S,
    Changes,
    Compacted,
    Condition,
    NothingNewer,
    Present,
    Put,
    Record,
    Unchanged,
    Write,
)
from batch_imaging.errors import ConfigUnavailable, ControlError

if TYPE_CHECKING:
    from batch_imaging.control.config.client import ConnectionSettings

BACKGROUND_DEADLINE_S = 1.0
CLOSE_DEADLINE_S = 5.0
"""How long a call is tried again, while etcd is away, by a thread that repeats it anyway."""

RETRY_S = 0.1

ALL_KEYS = (b"0", b":")
"""The range of the keys that begin with a digit."""

CHANNEL_OPTIONS = {
    "grpc.max_receive_message_length": -1,
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.min_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 500,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.enable_http_proxy": 0,
}

AWAY = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}

TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old")


class EtcdBackend:
    """A connection to etcd 3.4 or later.

    Parameters
    ----------
    deadline_s: how long a call is tried again while etcd is away.

    Raises
    ------
    ConfigUnavailable: etcd does not answer.
    ControlError: it refuses the user, or the certificate file cannot be read.
    """

    def __init__(self, settings: "ConnectionSettings", deadline_s: float = DEADLINE_S) -> None:
        self._settings = settings
        self._deadline_s = min(deadline_s, DEADLINE_S)  # a wrong address is told soon
        self._endpoint = f"{settings.host}:{settings.port}"
        self._channel = _open_channel(self._endpoint, settings)
        self._auth = rpc.AuthStub(self._channel)
        self._kv = rpc.KVStub(self._channel)
        self._leases = rpc.LeaseStub(self._channel)
        self._watches = rpc.WatchStub(self._channel)
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._lock = threading.Lock()
        self._receipts: tuple[int, float] = (0, 0.0)
        self._open: set[EtcdLease | EtcdWatch] = set()
        try:
            self._authenticate()
            self.read(ALL_KEYS[0].decode())
        except ControlError:
            self._channel.close()
            raise
        self._deadline_s = deadline_s

    def read(self, key: str, revision: int = 0) -> tuple[Record | None, int]:
        response = self._call(self._kv.Range, rpc.RangeRequest(key=key.encode(), revision=revision))
        record = _record(response.kvs[0]) if response.kvs else None
        return record, revision or response.header.revision

    def read_prefix(self, prefix: str, revision: int = 0) -> tuple[dict[str, Record], int]:
        key, end = _range_of(prefix)
        response = self._call(
            self._kv.Range, rpc.RangeRequest(key=key, range_end=end, revision=revision)
        )
        records = {name: _record(kv) for kv in response.kvs if (name := _text(kv.key))}
        return records, revision or response.header.revision

    def commit(self, conditions: Sequence[Condition], writes: Mapping[str, Write]) -> int | None:
        """Write everything if all conditions hold, else nothing.

        A connection that breaks leaves open whether etcd has done it. So every commit leaves a
        receipt, a key of its own that vanishes after a while, by which its repetition knows.
        """
        receipt = f"receipt/{uuid.uuid4()}"
        request = rpc.TxnRequest(
            compare=[_compare(each) for each in (Unchanged(receipt, 0), *conditions)],
            success=[_operation(key, write) for key, write in writes.items()],
            failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=receipt.encode()))],
        )
        request.success.append(_operation(receipt, Put(b"", self._receipt_lease())))
        response = self._call(self._kv.Txn, request)
        if response.succeeded:
            return int(response.header.revision)
        receipts = response.responses[0].response_range.kvs
        return receipts[0].mod_revision if receipts else None

    def watch(self, revision: int) -> "EtcdWatch":
        return EtcdWatch(self, revision)

    def lease(self, ttl_s: float = LEASE_TTL_S) -> "EtcdLease":
        return EtcdLease(self, self._grant(ttl_s), ttl_s)

    def close(self) -> None:
        for each in tuple(self._open):
            each.close()
        self._channel.close()
        # A stream that ended in an error refers to itself. If the end of the interpreter finds it,
        # its finalizer may wait for ever for a lock that a stopped thread of grpc holds.
        gc.collect()

    def _receipt_lease(self) -> int:
        with self._lock:
            lease_id, good_until = self._receipts
            if time.monotonic() > good_until:
                kept_s = self._deadline_s + 30.0
                good_until = time.monotonic() + kept_s
                lease_id = self._grant(2 * kept_s)
                self._receipts = lease_id, good_until
            return lease_id

    def _grant(self, ttl_s: float) -> int:
        request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        return int(self._call(self._leases.LeaseGrant, request).ID)

    def _refresh(self, lease_id: int) -> bool:
        """Keep a lease alive for another while; False if it is gone."""

        def keep_alive(request: Any, **options: Any) -> Any:
            return next(self._leases.LeaseKeepAlive(iter((request,)), **options))

        request = rpc.LeaseKeepAliveRequest(ID=lease_id)
        return bool(self._call(keep_alive, request, BACKGROUND_DEADLINE_S).TTL > 0)

    def _revoke(self, lease_id: int) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease_id)
        self._call(self._leases.LeaseRevoke, request, BACKGROUND_DEADLINE_S)

    def _stream(self, revision: int) -> Any:
        """Open a stream of the changes of all keys."""
        key, end = ALL_KEYS
        create = rpc.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
        requests = iter((rpc.WatchRequest(create_request=create),))
        return self._watches.Watch(requests, metadata=self._metadata)

    def _authenticate(self, deadline_s: float | None = None) -> None:
        """Get a new token, if there is a user."""
        name, password = self._settings.username, self._settings.password
        if name:
            request = rpc.AuthenticateRequest(name=name, password=password or "")
            token = self._call(self._auth.Authenticate, request, deadline_s).token
            self._metadata = (("token", token),)

    def _call(
        self, method: Callable[..., Any], request: Any, deadline_s: float | None = None
    ) -> Any:
        """Call etcd; again, if it is away, until the deadline."""
        deadline = time.monotonic() + (deadline_s or self._deadline_s)
        while True:
            left_s = max(RETRY_S, deadline - time.monotonic())
            try:
                return method(request, timeout=left_s, metadata=self._metadata)
            except ValueError as error:  # grpc's word for a channel that `close` has closed
                raise ConfigUnavailable(f"etcd at {self._endpoint}: {error}") from error
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
                if code is grpc.StatusCode.OUT_OF_RANGE:
                    raise Compacted(f"etcd at {self._endpoint}: {details}") from error
                if self._metadata and any(words in details for words in TOKEN_REFUSED):
                    self._authenticate()
                elif code not in AWAY:
                    raise ControlError(f"etcd at {self._endpoint} refuses: {details}") from error
                if time.monotonic() + RETRY_S > deadline:
                    raise ConfigUnavailable(
                        f"etcd at {self._endpoint} does not answer ({details}); is it running, and "
                        "are SDP_CONFIG_HOST, SDP_CONFIG_PORT and SDP_CONFIG_PROTOCOL right?"
                    ) from error
                time.sleep(RETRY_S)


class EtcdLease:
    """A lease that a thread refreshes, whether etcd is there or not, until etcd says it is gone."""

    def __init__(self, backend: EtcdBackend, lease_id: int, ttl_s: float) -> None:
        self.id = lease_id
        self.lost = threading.Event()
        self._backend = backend
        self._interval_s = ttl_s / 4
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_alive, name=f"lease {lease_id:x}", daemon=True
        )
        backend._open.add(self)
        self._thread.start()

    def revoke(self) -> None:
        if not self._ended.is_set():
            self.close()

    def close(self) -> None:
        self._ended.set()
        self._backend._open.discard(self)
        self._thread.join()
        with suppress(ControlError):  # gone already, or it expires
            self._backend._revoke(self.id)

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._interval_s):
            with suppress(ControlError, StopIteration):  # refused, or cut off: again next time
                if not self._backend._refresh(self.id):
                    self.lost.set()
                    return


class EtcdWatch:
    """A stream of changes that a thread opens again where it broke off."""

    def __init__(self, backend: EtcdBackend, revision: int) -> None:
        self._backend = backend
        self._revision = revision
        self._queue: queue.SimpleQueue[Changes | Compacted | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._stream: Any = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch of etcd", daemon=True)
        backend._open.add(self)
        self._thread.start()

    def next(self, timeout_s: float) -> Changes | None:
        try:
            item = self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if isinstance(item, Changes):
            return item
        self._queue.put(item)  # for whoever asks again
        if item is None:
            return None
        raise item

    def close(self) -> None:
        self._backend._open.discard(self)
        with self._lock:
            self._ended.set()
            if self._stream:
                self._stream.cancel()
        self._queue.put(None)
        self._thread.join(CLOSE_DEADLINE_S)
        self._stream = None

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                if self._ended.is_set():
                    return
                self._stream = self._backend._stream(self._revision)
            try:
                for response in self._stream:
                    if self._lost(response):
                        self._queue.put(Compacted("etcd has forgotten the changes since then"))
                        return
                    if response.canceled:
                        break
                    self._take(response.events)
            except grpc.RpcError:
                pass
            self._stream.cancel()
            self._ended.wait(RETRY_S)
            with suppress(ControlError):
                self._backend._authenticate(BACKGROUND_DEADLINE_S)

    def _lost(self, response: Any) -> bool:
        """Whether changes were compacted, or etcd came back with older data than we have seen."""
        is_older = response.created and response.header.revision < self._revision - 1
        return bool(response.compact_revision or is_older)

    def _take(self, events: Sequence[Any]) -> None:
        """Pass events on, those of one revision together."""
        for revision, together in itertools.groupby(events, lambda event: event.kv.mod_revision):
            records = {
                name: None if event.type == Event.DELETE else _record(event.kv)
                for event in together
                if (name := _text(event.kv.key))
            }
            self._revision = revision + 1
            self._queue.put(Changes(revision, records))


def _open_channel(endpoint: str, settings: "ConnectionSettings") -> grpc.Channel:
    options = list(CHANNEL_OPTIONS.items())
    if settings.protocol == "http":
        return grpc.insecure_channel(endpoint, options)
    try:
        authority = Path(settings.cert).read_bytes() if settings.cert else None
    except OSError as error:
        raise ControlError(
            f"SDP_CONFIG_CERT = {settings.cert}: cannot be read ({error.strerror})"
        ) from error
    return grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(authority), options)


def _compare(condition: Condition) -> Any:
    match condition:
        case Unchanged(key, mod_revision):
            return rpc.Compare(
                target="MOD", result="EQUAL", key=key.encode(), mod_revision=mod_revision
            )
        case Present(key):
            return rpc.Compare(target="VERSION", result="GREATER", key=key.encode(), version=0)
        case NothingNewer(prefix, revision):
            first, end = _range_of(prefix)
            return rpc.Compare(
                target="CREATE",
                result="LESS",
                key=first,
                range_end=end,
                create_revision=revision + 1,
            )


def _operation(key: str, write: Write) -> Any:
    if write is None:
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode()))
    return rpc.RequestOp(
        request_put=rpc.PutRequest(key=key.encode(), value=write.value, lease=write.lease_id)
    )


def _range_of(prefix: str) -> tuple[bytes, bytes]:
    """Return the first key with a prefix, and the first key after all with it."""
    if not prefix:
        return ALL_KEYS
    key = prefix.encode()
    return key, key[:-1] + bytes([key[-1] + 1])


def _record(kv: Any) -> Record:
    return Record(kv.value, kv.create_revision, kv.mod_revision)


def _text(key: bytes) -> str | None:
    """Return a key as text; None if it is not UTF-8, and so not one of ours."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None
