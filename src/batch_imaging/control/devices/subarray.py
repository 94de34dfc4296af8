"""The Tango device of a subarray: hands commands on, and shows what the database says."""

# mypy: allow-untyped-decorators, allow-subclassing-any, no-warn-return-any

import json
import logging
import threading
from typing import Any

import tango
from tango.server import Device, attribute, command

from batch_imaging import __version__
from batch_imaging.control.devices.failures import throw
from batch_imaging.control.devices.link import Link
from batch_imaging.control.devices.observation import Observation
from batch_imaging.control.devices.server import run_server
from batch_imaging.control.devices.states import AdminMode, HealthState, ObsState
from batch_imaging.control.devices.validation import transaction_id
from batch_imaging.errors import ControlError

LOG = logging.getLogger(__name__)

FOLLOWING = ("State", "obsState", "healthState", "receiveAddresses", "scanType", "scanID")
"""Attributes that are derived from the configuration database."""


class SDPSubarray(Device):
    """A subarray of the science data processor."""

    def init_device(self) -> None:
        """Show UNKNOWN until the database has been reached."""
        super().init_device()
        for name in (*FOLLOWING, "adminMode"):
            self.set_change_event(name, True, False)
        self._admin_mode = AdminMode.ONLINE
        self._pushed: dict[str, Any] = {}
        self.set_state(tango.DevState.UNKNOWN)
        number = self.get_name().rpartition("_")[2]
        self._link = Link(number.zfill(2), self._push_changes)
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def delete_device(self) -> None:
        """End the link."""
        self._link.close()
        super().delete_device()

    @attribute(doc="Version of the software.")
    def version(self) -> str:
        return __version__

    @attribute(dtype=ObsState, doc="Observing state.")
    def obsState(self) -> ObsState:
        return self._values()["obsState"]

    @attribute(dtype=AdminMode, memorized=True, hw_memorized=True, doc="Administration mode.")
    def adminMode(self) -> AdminMode:
        return self._admin_mode

    @adminMode.write  # type: ignore[no-redef]
    def adminMode(self, mode: int) -> None:
        self._admin_mode = AdminMode(mode)
        self.push_change_event("adminMode", self._admin_mode)

    @attribute(dtype=HealthState, doc="DEGRADED while the configuration database is away.")
    def healthState(self) -> HealthState:
        return self._values()["healthState"]

    @attribute(doc="Addresses of the receive workflow, by scan type, as JSON; null if none.")
    def receiveAddresses(self) -> str:
        return self._values()["receiveAddresses"]

    @attribute(doc="Id of the scan type; null if none.")
    def scanType(self) -> str:
        return self._values()["scanType"]

    @attribute(doc="Id of the scan; 0 if none.")
    def scanID(self) -> int:
        return self._values()["scanID"]

    def dev_state(self) -> tango.DevState:
        """Return the state for those who read it."""
        return self._values()["State"]

    def dev_status(self) -> str:
        """Return the state in words, and what is wrong."""
        status = f"The device is in {self.dev_state()} state."
        problem = self._link.problem
        return f"{status} No configuration database: {problem}" if problem else status

    @command
    def On(self) -> None:
        """Turn the subarray on."""
        self._record("On")

    @command
    def Off(self) -> None:
        """Turn the subarray off; what it does is cancelled."""
        self._record("Off")

    @command
    def AssignResources(self, configuration: str) -> None:
        """Create a scheduling block with its processing blocks."""
        self._record("AssignResources", configuration)

    @command
    def ReleaseResources(self) -> None:
        """Finish the scheduling block; batch processing starts."""
        self._record("ReleaseResources")

    @command
    def Configure(self, configuration: str) -> None:
        """Choose the scan type."""
        self._record("Configure", configuration)

    @command
    def Scan(self, configuration: str) -> None:
        """Start a scan."""
        self._record("Scan", configuration)

    @command
    def EndScan(self) -> None:
        """End the scan."""
        self._record("EndScan")

    @command
    def End(self) -> None:
        """Give the scan type up."""
        self._record("End")

    @command
    def Abort(self) -> None:
        """Stop what is being observed."""
        self._record("Abort")

    @command
    def ObsReset(self) -> None:
        """Go back to IDLE; the resources stay."""
        self._record("ObsReset")

    @command
    def Restart(self) -> None:
        """Go back to EMPTY; what was assigned is cancelled."""
        self._record("Restart")

    def _record(self, name: str, argument: str = "") -> None:
        txn_id = transaction_id(argument)
        log = logging.LoggerAdapter(LOG, {"txn_id": txn_id})
        log.info("%s: enter %s", self.get_name(), name)
        try:
            self._link.record(name, argument, txn_id, log)
        except ControlError as error:
            log.warning("%s: %s refused: %s", self.get_name(), name, error)
            throw(type(self).__name__, name, error)
        log.info("%s: exit %s", self.get_name(), name)

    def _values(self) -> dict[str, Any]:
        """Return the attributes that follow the database, all as of one moment."""
        found, problem = self._link.observation, self._link.problem
        shown = found or Observation()
        return {
            "State": tango.DevState.names.get(found.state if found else "", tango.DevState.UNKNOWN),
            "obsState": shown.obs_state,
            "healthState": HealthState.DEGRADED if problem else HealthState.OK,
            "receiveAddresses": json.dumps(shown.receive_addresses),
            "scanType": shown.scan_type or "null",
            "scanID": shown.scan_id or 0,
        }

    def _follow(self) -> None:
        with tango.EnsureOmniThread():  # for a thread that sends events
            self._link.run()

    def _push_changes(self) -> None:
        """Send the attributes that have other values than those sent before."""
        for name, value in self._values().items():
            if self._pushed.get(name) != value:
                self._pushed[name] = value
                if name == "State":  # its events carry what was set
                    self.set_state(value)
                self.push_change_event(name, value)


def main() -> None:
    """Run the server `SDPSubarray INSTANCE`."""
    run_server(SDPSubarray)
