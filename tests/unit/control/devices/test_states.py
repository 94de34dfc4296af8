"""The tables of commands and states, in full."""

import pytest

from batch_imaging.control.devices.states import (
    MASTER_RULES,
    SUBARRAY_RULES,
    NotAllowed,
    ObsState,
    check_master_command,
    check_subarray_command,
)

ALLOWED = {
    "On": ("OFF", "EMPTY"),
    "Off": ("ON", " ".join(ObsState.__members__)),
    "AssignResources": ("ON", "EMPTY"),
    "ReleaseResources": ("ON", "IDLE"),
    "Configure": ("ON", "IDLE READY"),
    "Scan": ("ON", "READY"),
    "EndScan": ("ON", "SCANNING"),
    "End": ("ON", "READY"),
    "Abort": ("ON", "IDLE CONFIGURING READY SCANNING RESETTING"),
    "ObsReset": ("ON", "ABORTED FAULT"),
    "Restart": ("ON", "ABORTED FAULT"),
}
AFTER = {
    "On": "EMPTY",
    "Off": "EMPTY",
    "AssignResources": "IDLE",
    "ReleaseResources": "EMPTY",
    "Configure": "READY",
    "Scan": "SCANNING",
    "EndScan": "READY",
    "End": "IDLE",
    "Abort": "ABORTED",
    "ObsReset": "IDLE",
    "Restart": "EMPTY",
}


def test_every_command_aims_at_its_obs_state():
    assert {name: rule.target.name for name, rule in SUBARRAY_RULES.items()} == AFTER


@pytest.mark.parametrize("name", SUBARRAY_RULES)
@pytest.mark.parametrize("state", ["OFF", "ON", "UNKNOWN", "FAULT"])
@pytest.mark.parametrize("obs_state", ObsState)
def test_subarray_command(name, state, obs_state):
    needed, obs_states = ALLOWED[name]
    if state == needed and obs_state.name in obs_states.split():
        check_subarray_command(name, state, obs_state)
        return
    with pytest.raises(NotAllowed) as refusal:
        check_subarray_command(name, state, obs_state)
    wrong = f"obsState is {obs_state.name}" if state == needed else f"device state is {state}"
    assert str(refusal.value) == f"Command {name} not allowed when {wrong}"


@pytest.mark.parametrize("name", MASTER_RULES)
@pytest.mark.parametrize("state", ["OFF", "STANDBY", "DISABLE", "ON"])
def test_master_command(name, state):
    if state != name.upper():
        check_master_command(name, state)
        return
    with pytest.raises(NotAllowed, match=f"^Command {name} not allowed when device state is"):
        check_master_command(name, state)
