"""One of several like processes acts, the others stand by.

The one that leads has created the key `/leader/<name>` under a lease. When it ends, or is not heard
of for as long as the lease lasts, the key vanishes and one of the others creates it again.
"""

import logging
from typing import Any, Self

from batch_imaging.control.config import Config, Transaction, View
from batch_imaging.control.config.backend import Lease
from batch_imaging.errors import ControlError

LOG = logging.getLogger(__name__)

HELM_DEPLOYER = "helm-deployer"
"""Name under which the deployers of Kubernetes compete; scripts look whether one is there."""


def leader_path(name: str) -> str:
    return f"/leader/{name}"


class Leader:
    """Candidate for the lead; as a context it gives the lead up at the end."""

    def __init__(self, config: Config, name: str) -> None:
        self.path = leader_path(name)
        self._config = config
        self._lease: Lease | None = None
        self._since = 0
        self._role = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resign()

    def leads(self, view: View) -> bool:
        """Whether this process leads, and ``view`` shows all that was done before it did.

        If nobody leads, it tries to; a later view will show the outcome.
        """
        is_current = view.revision >= self._since
        is_free = self.path not in view
        if self._lease and (self._lease.lost.is_set() or (is_free and is_current)):
            self._lose()
        if self._lease:
            return is_current
        if is_free:
            self._try()
        else:
            self._now("stands by")
        return False

    def resign(self) -> None:
        """Give the lead up, if this process has it."""
        lease, self._lease = self._lease, None
        if lease:
            lease.revoke()

    def confirm(self, txn: Transaction) -> bool:
        """Let the transaction go through only while this process leads; else False."""
        leads = self._lease is not None and txn.raw.get(self.path) == self._entry(self._lease)
        if not leads:
            self._lose()
        return leads

    def _try(self) -> None:
        lease = self._config.lease()
        try:
            for txn in self._config.txn():
                if is_free := txn.raw.get(self.path) is None:
                    txn.raw.create(self.path, self._entry(lease), lease)
        except ControlError:
            lease.revoke()
            raise
        if is_free:
            self._lease, self._since = lease, txn.revision
            self._now("leads")
        else:
            lease.revoke()

    def _lose(self) -> None:
        if self._lease:
            LOG.warning("%s: the lead is lost", self.path)
            self._role = ""
            self.resign()

    def _now(self, role: str) -> None:
        if role != self._role:
            LOG.info("%s: this process %s", self.path, role)
            self._role = role

    def _entry(self, lease: Lease) -> dict[str, Any]:
        """Return what only this process writes: process ids alone are the same in two pods."""
        return self._config.owner.to_object() | {"lease": lease.id}
