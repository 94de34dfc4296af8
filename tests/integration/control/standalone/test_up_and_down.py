"""The whole system by `up`, `down` and `status`: what starts, what stays, what is refused."""

import json
import shlex
import socket

import psutil
import pytest

pytestmark = pytest.mark.integration

SERVICES = ["etcd", "tango", "controller", "deployer", "master", "subarray-1"]


def test_everything_runs_and_says_where(running):
    assert list(running.pids()) == SERVICES
    assert running.status()["blocks"] == {}
    table = running.do("status").splitlines()
    assert table[0].split() == ["SERVICE", "STATE", "PID", "ADDRESS", "LOG"]
    assert all("running" in line for line in table[1:7])
    exports = dict(
        shlex.split(line)[1].split("=") for line in running.do("status", "--export").splitlines()
    )
    ports = running.ports()
    assert exports == {
        "TANGO_HOST": f"127.0.0.1:{ports['tango']}",
        "SDP_CONFIG_HOST": "127.0.0.1",
        "SDP_CONFIG_PORT": str(ports["etcd"]),
        "BATCH_IMAGING_FOLDER": str(running.folder),
    }


def test_subarray_1_is_on(running):
    assert str(running.device("subarray_1").state()) == "ON"


def test_nothing_listens_to_other_machines(running):
    for process in running.processes():
        for connection in process.net_connections("tcp"):
            if connection.status == "LISTEN":
                assert connection.laddr.ip in {"127.0.0.1", "::1"}, process.cmdline()


def test_up_again_changes_nothing(running):
    before = running.pids()
    assert running.do("up").startswith("Everything runs already.")
    assert running.pids() == before


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_comes_back_and_nothing_is_lost(running, name):
    before, ports = running.pids(), running.ports()
    running.kill(name)
    code, out, _ = running.run("status")
    assert code == 1
    assert "stopped" in out
    assert running.do("up").startswith(f"Started {name} in ")
    after = running.pids()
    assert {each for each in SERVICES if before[each] != after[each]} == {name}
    assert running.ports() == ports
    assert str(running.device("subarray_1").state()) == "ON"
    assert str(running.device("master").state()) == "STANDBY"


def test_other_options_restart_what_they_are_for(running):
    before = running.pids()
    assert running.do("up", "--max-workers=3").startswith("Started controller in ")
    assert running.do("up").startswith("Everything runs already.")
    before.pop("controller")
    assert before.items() <= running.pids().items()
    settings = json.loads((running.folder / "standalone.json").read_text())
    assert settings["max_workers"] == 3


def test_new_ports_are_refused_while_something_has_the_old_ones(running):
    code, _, err = running.run("up", "--new-ports")
    assert code == 7
    assert "would keep the old ports" in err


def test_down_and_up_go_on_with_the_same_data(stopped):
    assert "Nothing runs in" in stopped.do("down")
    assert not stopped.folder.exists()
    assert stopped.run("status")[0] == 1
    stopped.do("up", "--subarrays=2")
    stopped.device("subarray_1").Off()
    ports = stopped.ports()
    assert "Stopped" in stopped.do("down")
    assert not stopped.processes()
    assert stopped.run("status")[0] == 1
    stopped.do("up")
    assert stopped.ports() == ports
    assert "subarray-2" in stopped.pids()
    assert str(stopped.device("subarray_1").state()) == "OFF"  # as the operator left it


def test_a_taken_port_is_named_and_left_to_who_has_it(stopped):
    stopped.do("up")
    stopped.do("down")
    ports = stopped.ports()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ports["tango"]))
        other.listen()
        code, _, err = stopped.run("up")
        assert code == 7
        ours = " ".join(psutil.Process().cmdline())[:80]
        assert f"tango: its port {ports['tango']} is taken by {ours} (process " in err
        assert "--new-ports" in err
        assert not stopped.processes()
        stopped.do("up", "--new-ports")
        assert not set(stopped.ports().values()) & set(ports.values())


def test_what_fails_to_start_takes_the_others_with_it(stopped):
    stopped.folder.mkdir()
    ports = {"etcd": 1, "etcd_peer": 2, "tango": 3}
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for name, each in zip(ports, (a, b, c), strict=True):
            each.bind(("127.0.0.1", 0))
            ports[name] = each.getsockname()[1]
    (stopped.folder / "standalone.json").write_text(json.dumps({"ports": ports}))
    (stopped.folder / "etcd").write_text("not a directory")
    code, _, err = stopped.run("up", "--max-workers=3")
    assert code == 7
    assert err.startswith("error: etcd: ended with code ")
    settings = json.loads((stopped.folder / "standalone.json").read_text())
    assert settings["max_workers"] is None, "options are kept only if all has started"
    assert str(stopped.folder / "logs" / "etcd.log") in err
    assert not stopped.processes()


def test_too_many_subarrays_are_refused(stopped):
    code, _, err = stopped.run("up", "--subarrays=17")
    assert code == 2
    assert "16" in err
    assert not stopped.folder.exists()


def test_two_at_once_start_one_system(stopped):
    both = [stopped.popen("up") for _ in range(2)]
    outs = sorted(each.communicate(timeout=100)[0].splitlines()[0] for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert outs[0] == "Everything runs already."
    assert outs[1].startswith("Started etcd, ")


def test_another_folder_is_refused(stopped):
    stopped.folder.mkdir()
    (stopped.folder / "thesis.tex").write_text("mine")
    for command in ("up", "down", "status"):
        stopped.run(command)
    assert [each.name for each in stopped.folder.iterdir()] == ["thesis.tex"]
