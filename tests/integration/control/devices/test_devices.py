"""The devices as processes, driven as an operator drives them; Tango database and etcd are real."""

import itertools
import json
import signal
import threading
import time

import pytest

tango = pytest.importorskip("tango")

from batch_imaging.control.config.entities import (  # noqa: E402
    ProcessingBlockState,
    Status,
    Subarray,
)
from batch_imaging.control.devices.registration import SUBARRAY  # noqa: E402
from batch_imaging.control.devices.states import SUBARRAY_RULES, ObsState  # noqa: E402

pytestmark = pytest.mark.integration

PREFIX = "/devices"
DEADLINE_S = 30
ARGUMENTS = {"AssignResources": "{}", "Configure": "{}", "Scan": "{}"}
NUMBERS = itertools.count()


def wait_for(read, value, deadline_s=DEADLINE_S):
    """Wait until something has a value."""
    deadline = time.monotonic() + deadline_s
    while (now := read()) != value:
        assert time.monotonic() < deadline, f"{now} did not become {value} in {deadline_s} s"
        time.sleep(0.02)


def assignment(workflow="test_realtime", **members):
    """A configuration string with ids that were not used before."""
    number = next(NUMBERS)
    block = {
        "id": f"pb-test-20200523-{number:05d}",
        "workflow": {"type": "realtime", "id": workflow, "version": "0.2.0"},
        "parameters": {},
    }
    sbi = {
        "id": f"sbi-test-20200523-{number:05d}",
        "max_length": 21600.0,
        "scan_types": [{"id": "science"}],
        "processing_blocks": [block],
    }
    return json.dumps(sbi | members), sbi["id"], block["id"]


def command(device, name):
    """Give a command, with an argument if it takes one."""
    argument = [ARGUMENTS[name]] if name in ARGUMENTS else []
    return device.command_inout(name, *argument)


def refusal(call, *arguments):
    """Return the first error of a command that is refused."""
    with pytest.raises(tango.DevFailed) as failure:
        call(*arguments)
    return failure.value.args[0]


@pytest.fixture(scope="module")
def config(etcd):
    with etcd.config(PREFIX) as config:
        yield config


@pytest.fixture(scope="module")
def server(start_subarray, etcd):
    return start_subarray(1, etcd, PREFIX)


@pytest.fixture
def device(server, config):
    """Subarray 1, ON and EMPTY."""
    proxy = server.proxy()
    wait_for(lambda: proxy.State() != tango.DevState.UNKNOWN, True)
    for txn in config.txn():
        txn.update_subarray("01", Subarray())
    wait_for(lambda: (proxy.State(), proxy.obsState), (tango.DevState.OFF, ObsState.EMPTY))
    proxy.On()
    return proxy


def entry(config, path):
    for txn in config.txn():
        found = txn.raw.get(path)
    return found


def test_session_of_an_operator(device, config):
    text, sbi_id, pb_id = assignment(transaction_id="txn-test-1")
    device.AssignResources(text)
    assert device.obsState == ObsState.IDLE
    assert entry(config, "/subarray/01") == {
        "last_command": "AssignResources",
        "obs_state_target": "IDLE",
        "sbi_id": sbi_id,
        "state": "ON",
        "transaction_id": "txn-test-1",
    }
    assert entry(config, f"/pb/{pb_id}")["sbi_id"] == sbi_id
    device.Configure('{"scan_type": "science"}')
    assert (device.obsState, device.scanType) == (ObsState.READY, "science")
    device.Scan('{"id": 3}')
    assert (device.obsState, device.scanID) == (ObsState.SCANNING, 3)
    device.EndScan()
    device.End()
    assert (device.scanType, device.scanID) == ("null", 0)
    device.ReleaseResources()
    assert device.obsState == ObsState.EMPTY
    assert entry(config, f"/sb/{sbi_id}")["status"] == "FINISHED"


def test_receive_addresses_are_waited_for(device, config):
    text, sbi_id, pb_id = assignment("test_receive_addresses")
    device.AssignResources(text)
    assert device.obsState == ObsState.RESOURCING
    assert device.receiveAddresses == "null"
    addresses = {"science": {"host": [[0, "127.0.0.1"]], "port": [[0, 9000, 1]]}}
    for txn in config.txn():
        block = txn.get_scheduling_block(sbi_id)
        txn.update_scheduling_block(block.model_copy(update={"pb_receive_addresses": pb_id}))
        txn.create_processing_block_state(
            pb_id, ProcessingBlockState(status=Status.RUNNING, receive_addresses=addresses)
        )
    wait_for(lambda: device.obsState, ObsState.IDLE)
    assert json.loads(device.receiveAddresses) == addresses


@pytest.mark.parametrize("state", ["OFF", "ON"])
def test_refusals_of_the_whole_table(device, config, state):
    """In every state, give every command that is not allowed there."""
    for obs_state in ObsState:
        for txn in config.txn():
            subarray = txn.get_subarray("01")
            update = {"state": state, "obs_state_target": obs_state.name, "last_command": "x"}
            txn.update_subarray("01", subarray.model_copy(update=update))
        wait_for(lambda: (str(device.State()), device.obsState), (state, obs_state))
        for name, rule in SUBARRAY_RULES.items():
            if state != rule.state:
                wrong = f"device state is {state}"
            elif obs_state not in rule.obs_states:
                wrong = f"obsState is {obs_state.name}"
            else:
                continue
            error = refusal(command, device, name)
            assert error.reason == "API_CommandNotAllowed"
            assert error.desc == f"Command {name} not allowed when {wrong}"
            assert error.origin == f"SDPSubarray.is_{name}_allowed()"
            assert device.obsState == obs_state


def test_bad_arguments(device, config):
    text, sbi_id, pb_id = assignment(max_length="long")
    error = refusal(device.AssignResources, text)
    assert error.reason == "API_CommandFailed"
    assert error.origin == "SDPSubarray.AssignResources()"
    assert error.desc.split("\n  ") == [
        "Configuration validation failed:",
        'max_length = "long": must be a number',
    ]
    assert device.obsState == ObsState.EMPTY
    assert entry(config, f"/sb/{sbi_id}") is None
    assert entry(config, f"/pb/{pb_id}") is None

    text, sbi_id, pb_id = assignment()
    device.AssignResources(text)
    device.ReleaseResources()
    error = refusal(device.AssignResources, text)
    assert error.desc.startswith(
        f"Duplicate SBI ID or PB ID in configuration: {sbi_id}, {pb_id} in the database already"
    )


def test_change_events(device):
    seen = []
    changed = threading.Event()

    def note(event):
        if not event.err:
            seen.append((event.attr_name.rpartition("/")[2].lower(), event.attr_value.value))
            changed.set()

    names = ("State", "obsState", "adminMode", "scanType", "scanID", "receiveAddresses")
    subscriptions = [
        device.subscribe_event(name, tango.EventType.CHANGE_EVENT, note)
        for name in (*names, "healthState")
    ]
    try:
        seen.clear()
        device.AssignResources(assignment()[0])
        device.Configure('{"scan_type": "science"}')
        device.Scan('{"id": 3}')
        device.adminMode = 2
        device.Off()
        expected = {
            ("obsstate", ObsState.IDLE),
            ("scantype", "science"),
            ("scanid", 3),
            ("adminmode", 2),
            ("state", tango.DevState.OFF),
            ("obsstate", ObsState.EMPTY),
        }
        wait_for(lambda: expected - set(seen), set())
    finally:
        for subscription in subscriptions:
            device.unsubscribe_event(subscription)
        device.adminMode = 1


def test_restart_of_the_device_loses_nothing(device, server):
    device.AssignResources(assignment()[0])
    device.Configure('{"scan_type": "science"}')
    device.adminMode = 2
    server.end(kill=True)
    server.start()
    again = server.proxy()
    wait_for(again.State, tango.DevState.ON)
    assert (again.obsState, again.scanType, again.adminMode) == (ObsState.READY, "science", 2)
    again.Init()
    wait_for(again.State, tango.DevState.ON)
    assert again.obsState == ObsState.READY
    again.adminMode = 1


def test_log_has_the_transaction_id(device, server):
    device.AssignResources(assignment(transaction_id="txn-log-7")[0])
    lines = [line for line in server.log.read_text().splitlines() if "txn-id:txn-log-7" in line]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "enter AssignResources",
        "exit AssignResources",
    ]


def test_absence_of_the_database(start_subarray, etcd_server):
    """It is not there at the start, comes, goes in the middle, and comes back."""
    etcd_server.config().close()  # answers: one that is killed before it has a leader is broken
    etcd_server.kill()
    server = start_subarray(2, etcd_server)
    device = server.proxy()
    assert device.State() == tango.DevState.UNKNOWN
    error = refusal(device.On)
    assert error.reason == "API_CommandFailed"
    assert error.desc.startswith("Command On was not carried out: the configuration database")

    etcd_server.start()
    wait_for(device.State, tango.DevState.OFF)
    wait_for(lambda: device.healthState, 0)
    device.On()
    device.AssignResources(assignment()[0])

    etcd_server.kill()
    error = refusal(device.Off)
    assert error.reason == "API_CommandFailed"
    assert "try again when healthState is OK" in error.desc
    wait_for(lambda: device.healthState, 1)
    assert device.obsState == ObsState.IDLE

    etcd_server.start()
    wait_for(lambda: device.healthState, 0)
    assert device.obsState == ObsState.IDLE
    device.ReleaseResources()
    assert device.obsState == ObsState.EMPTY
    server.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_server(start_subarray, etcd, number):
    server = start_subarray(2, etcd, PREFIX)
    server.proxy()
    wait_for(lambda: "Ready to accept request" in server.log.read_text(), True)
    server.process.send_signal(number)
    assert server.process.wait(DEADLINE_S) == 0, server.log.read_text()


def test_master(start_master):
    server = start_master()
    master = server.proxy()
    assert master.State() == tango.DevState.STANDBY
    assert master.healthState == 0
    error = refusal(master.Standby)
    assert error.reason == "API_CommandNotAllowed"
    assert error.desc == "Command Standby not allowed when device state is STANDBY"
    assert error.origin == "SDPMaster.is_Standby_allowed()"
    for name in ("Disable", "On", "Off", "On"):
        command(master, name)
        assert master.State() == tango.DevState.names[name.upper()]
    server.end(kill=True)
    server.start()
    assert server.proxy().State() == tango.DevState.ON


def test_a_server_enters_its_device_unless_it_has_one(tango_host, etcd, start_subarray):
    database = tango.Database()
    for _ in range(2):
        server = start_subarray(3, etcd)
        assert server.proxy().name() == SUBARRAY.format(3)
        server.end()
    assert list(database.get_device_name("SDPSubarray/3", "SDPSubarray")) == [SUBARRAY.format(3)]
    assert list(database.get_device_property(SUBARRAY.format(3), "SkaLevel")["SkaLevel"]) == ["2"]
