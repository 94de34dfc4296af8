"""The reference page says what the code does."""

from pathlib import Path

import pytest

from batch_imaging.control.devices.states import MASTER_RULES, SUBARRAY_RULES, AdminMode, ObsState
from batch_imaging.control.devices.validation import MAX_ENTRIES, VERSIONS

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "tango.md").read_text()


def order(states):
    return ", ".join(states)


@pytest.mark.parametrize("name", SUBARRAY_RULES)
def test_subarray_commands(name):
    rule = SUBARRAY_RULES[name]
    allowed = [state.name for state in ObsState if state in rule.obs_states]
    where = "any" if len(allowed) == len(ObsState) else order(allowed)
    argument = "JSON " if name in {"AssignResources", "Configure", "Scan"} else ""
    assert f"| `{name}` | {argument}| {rule.state} | {where} | {rule.target.name} |" in PAGE


@pytest.mark.parametrize("name", MASTER_RULES)
def test_master_commands(name):
    allowed = [each for each in ("OFF", "STANDBY", "DISABLE", "ON") if each in MASTER_RULES[name]]
    assert f"| `{name}` | {order(allowed)} | {name.upper()} |" in PAGE


@pytest.mark.parametrize("states", [ObsState, AdminMode])
def test_values_of_enums(states):
    assert order(f"{each.name} {each.value}" for each in states) in PAGE


def test_limits():
    assert f"no more than {MAX_ENTRIES} blocks" in PAGE
    assert all(version in PAGE for version in VERSIONS)
