"""`Config`: a client of the configuration database."""

import os
import threading
from dataclasses import dataclass
from typing import Any, Literal, Self

from batch_imaging.control.config.backend import DEADLINE_S, LEASE_TTL_S, Backend, Lease
from batch_imaging.control.config.entities import Owner
from batch_imaging.control.config.memory_backend import MemoryBackend
from batch_imaging.control.config.transaction import MAX_RETRIES, Transaction
from batch_imaging.control.config.view import Follower
from batch_imaging.errors import SettingError

BackendName = Literal["etcd3", "memory"]


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where the store is; unset values come from SDP_CONFIG_* in the environment.

    Attributes
    ----------
    protocol: http, or https for TLS.
    cert: file of the certificate authority that signs the server's certificate.
    """

    host: str
    port: int
    protocol: str
    cert: str | None
    username: str | None
    password: str | None

    @classmethod
    def from_environment(cls, **settings: Any) -> "ConnectionSettings":
        """Take what is given, else the environment, else the defaults.

        Raises
        ------
        SettingError: a port that is no number or a protocol that is neither http nor https.
        """

        def setting(name: str, default: str | None = None) -> Any:
            given = settings.pop(name, None)
            return (
                given
                if given is not None
                else os.environ.get(f"SDP_CONFIG_{name.upper()}", default)
            )

        port = str(setting("port", "2379"))
        if not port.isdecimal():
            raise SettingError(f"SDP_CONFIG_PORT = {port}: must be a number")
        made = cls(
            host=setting("host", "127.0.0.1"),
            port=int(port),
            protocol=setting("protocol", "http"),
            cert=setting("cert"),
            username=setting("username"),
            password=setting("password"),
        )
        if settings:
            raise TypeError(f"unknown settings: {', '.join(settings)}")
        if made.protocol not in {"http", "https"}:
            raise SettingError(f"SDP_CONFIG_PROTOCOL = {made.protocol}: must be http or https")
        return made


class Config:
    """A client of the configuration database.

    Parameters
    ----------
    backend: its name, or a store to share; unset, SDP_CONFIG_BACKEND or etcd3.
    global_prefix: put before all paths: empty, or '/' and a name; unset, SDP_CONFIG_PREFIX.
    owner: what this client writes as the owner of processing blocks; default: this process.
    deadline_s: how long a call goes on trying while the store is away.
    settings: as ConnectionSettings.

    Raises
    ------
    SettingError: the backend or another setting is unknown.
    ConfigUnavailable: the store does not answer.
    """

    def __init__(
        self,
        backend: BackendName | Backend | None = None,
        global_prefix: str | None = None,
        owner: Owner | dict[str, Any] | None = None,
        deadline_s: float = DEADLINE_S,
        **settings: Any,
    ) -> None:
        if global_prefix is None:
            global_prefix = os.environ.get("SDP_CONFIG_PREFIX", "")
        if global_prefix and (not global_prefix.startswith("/") or global_prefix.endswith("/")):
            raise SettingError(
                f"global_prefix {global_prefix}: must start with '/', not end with one"
            )
        self._prefix = global_prefix
        if isinstance(owner, dict):
            owner = Owner.model_validate(owner)
        self.owner = owner or Owner.this_process()
        self._owns_backend = backend is None or isinstance(backend, str)
        self.backend = _open_backend(backend, settings, deadline_s)
        self._client_lease: Lease | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def txn(self, max_retries: int = MAX_RETRIES) -> Transaction:
        """Return a transaction to iterate over; see `transaction`.

        Parameters
        ----------
        max_retries: lost races in a row before it gives up.
        """
        return Transaction(self.backend, self._prefix, self.owner, max_retries)

    def follow(self) -> Follower:
        """Return a view of the whole database that can be kept current."""
        return Follower(self.backend, self._prefix)

    def lease(self, ttl: float = LEASE_TTL_S) -> Lease:
        """Grant a lease, refreshed in the background until it is revoked."""
        return self.backend.lease(ttl)

    @property
    def client_lease(self) -> Lease:
        """The lease of this client; revoked by `close`."""
        with self._lock:
            if self._client_lease is None:
                self._client_lease = self.lease()
            return self._client_lease

    def close(self) -> None:
        """Give up what this client owns and end the connection."""
        with self._lock:
            lease, self._client_lease = self._client_lease, None
        if lease:
            lease.revoke()
        if self._owns_backend:
            self.backend.close()


def _open_backend(
    backend: BackendName | Backend | None, settings: dict[str, Any], deadline_s: float
) -> Backend:
    if backend is not None and not isinstance(backend, str):
        return backend
    name = backend or os.environ.get("SDP_CONFIG_BACKEND", "etcd3")
    if name == "memory":
        return MemoryBackend()
    if name != "etcd3":
        raise SettingError(f"SDP_CONFIG_BACKEND = {name}: must be etcd3 or memory")
    from batch_imaging.control.config.etcd_backend import EtcdBackend

    return EtcdBackend(ConnectionSettings.from_environment(**settings), deadline_s)
