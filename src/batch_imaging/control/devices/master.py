"""The Tango device of the whole system. Its state stands for itself: subarrays ignore it."""

# mypy: allow-untyped-decorators, allow-subclassing-any

import logging

import tango
from tango.server import Device, attribute, command, device_property

from batch_imaging import __version__
from batch_imaging.control.devices.failures import throw
from batch_imaging.control.devices.server import run_server
from batch_imaging.control.devices.states import HealthState, NotAllowed, check_master_command
from batch_imaging.control.devices.validation import new_transaction_id

LOG = logging.getLogger(__name__)

STATES = {"On": "ON", "Disable": "DISABLE", "Standby": "STANDBY", "Off": "OFF"}
"""The state that each command leads to."""


class SDPMaster(Device):
    """The master of the science data processor."""

    LastState: str = device_property(
        dtype=str, default_value="STANDBY", doc="State to take up again after a restart."
    )

    def init_device(self) -> None:
        """Take up the state before the restart."""
        super().init_device()
        for name in ("State", "healthState"):
            self.set_change_event(name, True, False)
        self.set_state(getattr(tango.DevState, self.LastState))

    @attribute(doc="Version of the software.")
    def version(self) -> str:
        return __version__

    @attribute(dtype=HealthState, doc="Health of the device.")
    def healthState(self) -> HealthState:
        return HealthState.OK

    @command
    def On(self) -> None:
        """Go to ON."""
        self._go("On")

    @command
    def Disable(self) -> None:
        """Go to DISABLE."""
        self._go("Disable")

    @command
    def Standby(self) -> None:
        """Go to STANDBY."""
        self._go("Standby")

    @command
    def Off(self) -> None:
        """Go to OFF."""
        self._go("Off")

    def _go(self, name: str) -> None:
        log = logging.LoggerAdapter(LOG, {"txn_id": new_transaction_id()})
        log.info("%s: enter %s", self.get_name(), name)
        try:
            check_master_command(name, str(self.get_state()))
        except NotAllowed as error:
            log.warning("%s: %s refused: %s", self.get_name(), name, error)
            throw(type(self).__name__, name, error)
        database = tango.Util.instance().get_database()
        database.put_device_property(self.get_name(), {"LastState": STATES[name]})
        self.set_state(getattr(tango.DevState, STATES[name]))
        self.push_change_event("State", self.get_state())
        log.info("%s: exit %s", self.get_name(), name)


def main() -> None:
    """Run the server `SDPMaster INSTANCE`."""
    run_server(SDPMaster)
