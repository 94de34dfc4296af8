"""States of the devices, and which command is allowed in which of them."""

from dataclasses import dataclass
from enum import IntEnum

from batch_imaging.errors import ControlError


class ObsState(IntEnum):
    """The observing state of a subarray."""

    EMPTY = 0
    RESOURCING = 1
    IDLE = 2
    CONFIGURING = 3
    READY = 4
    SCANNING = 5
    ABORTING = 6
    ABORTED = 7
    RESETTING = 8
    FAULT = 9
    RESTARTING = 10


class AdminMode(IntEnum):
    """What a device may be used for. Commands do not ask for it."""

    OFFLINE = 0
    ONLINE = 1
    MAINTENANCE = 2
    NOT_FITTED = 3
    RESERVED = 4


class HealthState(IntEnum):
    """How well a device works."""

    OK = 0
    DEGRADED = 1
    FAILED = 2
    UNKNOWN = 3


class NotAllowed(ControlError):
    """A command was given in a state in which it is not allowed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a subarray's command is allowed, and the obsState it aims at."""

    state: str
    obs_states: frozenset[ObsState]
    target: ObsState

    @classmethod
    def on(cls, *obs_states: ObsState, to: ObsState) -> "Rule":
        """A command of a subarray that is ON."""
        return cls("ON", frozenset(obs_states), to)


EMPTY, IDLE, READY = ObsState.EMPTY, ObsState.IDLE, ObsState.READY
CONFIGURING, SCANNING, RESETTING = ObsState.CONFIGURING, ObsState.SCANNING, ObsState.RESETTING
ABORTED, FAULT = ObsState.ABORTED, ObsState.FAULT

SUBARRAY_RULES = {
    "On": Rule("OFF", frozenset({EMPTY}), EMPTY),
    "Off": Rule.on(*ObsState, to=EMPTY),
    "AssignResources": Rule.on(EMPTY, to=IDLE),
    "ReleaseResources": Rule.on(IDLE, to=EMPTY),
    "Configure": Rule.on(IDLE, READY, to=READY),
    "Scan": Rule.on(READY, to=SCANNING),
    "EndScan": Rule.on(SCANNING, to=READY),
    "End": Rule.on(READY, to=IDLE),
    "Abort": Rule.on(IDLE, CONFIGURING, READY, SCANNING, RESETTING, to=ABORTED),
    "ObsReset": Rule.on(ABORTED, FAULT, to=IDLE),
    "Restart": Rule.on(ABORTED, FAULT, to=EMPTY),
}
"""The commands of a subarray."""

MASTER_RULES = {
    "On": frozenset({"OFF", "STANDBY", "DISABLE"}),
    "Disable": frozenset({"OFF", "STANDBY", "ON"}),
    "Standby": frozenset({"OFF", "DISABLE", "ON"}),
    "Off": frozenset({"STANDBY", "DISABLE", "ON"}),
}
"""The commands of the master, which go by the state they lead to, and the states before it."""


def check_subarray_command(name: str, state: str, obs_state: ObsState) -> None:
    """Let a command of a subarray pass.

    Raises
    ------
    NotAllowed: it is not allowed in these states.
    """
    rule = SUBARRAY_RULES[name]
    if state != rule.state:
        raise NotAllowed(f"Command {name} not allowed when device state is {state}")
    if obs_state not in rule.obs_states:
        raise NotAllowed(f"Command {name} not allowed when obsState is {obs_state.name}")


def check_master_command(name: str, state: str) -> None:
    """Let a command of the master pass.

    Raises
    ------
    NotAllowed: it is not allowed in this state.
    """
    if state not in MASTER_RULES[name]:
        raise NotAllowed(f"Command {name} not allowed when device state is {state}")
