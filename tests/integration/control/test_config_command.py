"""`batch-imaging config`, with a real etcd."""

import json
import os
import signal
import subprocess
import sys

import pytest

from batch_imaging.cli import main
from batch_imaging.control.config.backend import Put
from batch_imaging.control.config.entities import (
    Deployment,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    Status,
    WorkflowName,
)

BATCH = "batch:batch_imaging:0.1.0"
NAME = WorkflowName(type="batch", id="batch_imaging", version="0.1.0")


@pytest.fixture
def call(etcd, config_prefix, monkeypatch, capsys):
    """Call the command on the database of this test; return exit code, stdout and stderr."""
    for name, value in etcd.environment(config_prefix).items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            code = main(["config", *arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def block(config):
    """A running block with its deployment, in a scheduling block; and a block of a like name."""
    for txn in config.txn():
        txn.create_scheduling_block(SchedulingBlock(id="sbi-a", pb_batch=["pb-a"]))
        for pb_id in ("pb-a", "pb-ab"):
            txn.create_processing_block(ProcessingBlock(id=pb_id, sbi_id="sbi-a", workflow=NAME))
            state = ProcessingBlockState(status=Status.RUNNING, resources_available=True)
            txn.create_processing_block_state(pb_id, state)
        deployment = Deployment(id="proc-pb-a-dask", type="helm", args={"chart": "dask-ee"})
        txn.create_deployment(deployment)
    return "pb-a"


def read(config, path):
    for txn in config.txn():
        entry = txn.raw.get(path)
    return entry


@pytest.mark.usefixtures("block")
class TestList:
    def test_folders_end_in_a_slash(self, call):
        assert call("list") == (0, "/deploy/\n/pb/\n/sb/\n", "")

    def test_only_what_is_right_under_the_path(self, call):
        assert call("list", "/pb") == (0, "/pb/pb-a\n/pb/pb-ab\n", "")
        assert call("list", "/pb/") == call("list", "/pb")
        assert call("list", "/pb/pb-a") == (0, "/pb/pb-a/state\n", "")

    def test_recursive(self, call):
        _, out, _ = call("list", "/pb", "-R")
        assert out.split() == ["/pb/pb-a", "/pb/pb-a/state", "/pb/pb-ab", "/pb/pb-ab/state"]

    def test_values_are_json_after_a_tab(self, call):
        _, out, _ = call("list", "/pb/pb-a", "--values")
        path, value = out.rstrip("\n").split("\t")
        assert path == "/pb/pb-a/state"
        assert json.loads(value) == {"status": "RUNNING", "resources_available": True}

    def test_folders_have_no_values(self, call):
        assert call("list", "--values") == call("list")

    def test_nothing_there(self, call):
        assert call("list", "/nowhere") == (0, "", "")

    def test_path_without_slash(self, call):
        code, out, err = call("list", "pb")
        assert (code, out) == (2, "")
        assert "starts with '/'" in err


class TestGet:
    def test_as_it_is_stored(self, call, config, block):
        expected = '{\n  "resources_available": true,\n  "status": "RUNNING"\n}\n'
        assert call("get", f"/pb/{block}/state") == (0, expected, "")

    @pytest.mark.parametrize("path", ["/pb/pb-missing", "/"])
    def test_no_such_entry(self, call, path):
        code, out, err = call("get", path)
        assert (code, out) == (7, "")
        assert err.startswith(f"error: {path}: there is no such entry")


class TestCreate:
    def test_prints_the_new_id(self, call, config):
        code, out, err = call("create", "pb", BATCH, '{"nfreqwin": 2}')
        assert (code, err) == (0, "")
        entry = read(config, f"/pb/{out.strip()}")
        assert entry["id"] == out.strip()
        assert entry["workflow"] == {"type": "batch", "id": "batch_imaging", "version": "0.1.0"}
        assert entry["parameters"] == {"nfreqwin": 2}
        assert entry["sbi_id"] is None
        assert entry["dependencies"] == []

    def test_many_on_one_day(self, call, config):
        _, first, _ = call("create", "pb", BATCH)
        stem = first.strip().removesuffix("00000")
        for number in range(1, 150):
            for txn in config.txn():
                txn.raw.create(f"/pb/{stem}{number:05d}", {})
        assert call("create", "pb", BATCH) == (0, f"{stem}00150\n", "")

    def test_parameters_from_a_file(self, call, config, tmp_path):
        file = tmp_path / "params.json"
        file.write_text('{"ntimes": 3}')
        _, out, _ = call("create", "pb", BATCH, f"@{file}")
        assert read(config, f"/pb/{out.strip()}")["parameters"] == {"ntimes": 3}

    def test_dependencies_and_scheduling_block(self, call, config, block):
        _, out, _ = call("create", "pb", BATCH, "--sbi", "sbi-a", "--dependency", block)
        entry = read(config, f"/pb/{out.strip()}")
        assert entry["sbi_id"] == "sbi-a"
        assert entry["dependencies"] == [{"pb_id": block, "type": ["none"]}]

    def test_other_workflows_have_parameters_of_their_own(self, call, config):
        _, out, _ = call("create", "pb", "realtime:test_realtime:1", '{"length": 3}')
        assert read(config, f"/pb/{out.strip()}")["parameters"] == {"length": 3}

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            ([BATCH, '{"nfreqwn": 2}'], 2, "nfreqwin"),
            ([BATCH, "@missing.json"], 2, "missing.json: cannot be read"),
            (["batch:other:1", "[]"], 2, "must be a JSON object"),
            (["batch:other:1", "{"], 2, "not valid JSON"),
            (["batch_imaging"], 2, "TYPE:ID:VERSION"),
            (["daily:batch_imaging:1"], 2, "realtime or batch"),
            (["batch:a/b:1"], 2, "of letters, digits, '_', '-' and '.'"),
            ([BATCH, "--dependency", "pb-x"], 7, "/pb/pb-x: there is no such processing block"),
            ([BATCH, "--sbi", "sbi-x"], 7, "/sb/sbi-x: there is no such scheduling block"),
        ],
    )
    def test_mistakes_create_nothing(self, call, arguments, code, words):
        assert call("create", "pb", *arguments)[0] == code
        assert words in call("create", "pb", *arguments)[2]
        assert call("list", "-R") == (0, "", "")


class TestDelete:
    def test_processing_block_with_its_state(self, call, block):
        assert call("delete", "pb", block) == (0, f"/pb/{block}\n", "")
        assert call("list", "/pb", "-R")[1] == "/pb/pb-ab\n/pb/pb-ab/state\n"

    @pytest.mark.usefixtures("block")
    @pytest.mark.parametrize(("kind", "entry_id"), [("deploy", "proc-pb-a-dask"), ("sb", "sbi-a")])
    def test_other_kinds(self, call, kind, entry_id):
        assert call("delete", kind, entry_id) == (0, f"/{kind}/{entry_id}\n", "")
        assert call("list", f"/{kind}") == (0, "", "")

    def test_path_alone(self, call, block):
        assert call("delete", f"/pb/{block}/state") == (0, f"/pb/{block}/state\n", "")
        assert call("list", "/pb/pb-a") == (0, "", "")

    def test_more_than_one_transaction_may_hold(self, call, config):
        paths = [f"/workflow/batch:w{number:03d}:1" for number in range(200)]
        for path in paths:
            for txn in config.txn():
                txn.raw.create(path, {"image": "w:1"})
        code, out, _ = call("delete", "/workflow", "-R")
        assert (code, out.split()) == (0, paths)
        assert call("list") == (0, "", "")

    @pytest.mark.usefixtures("block")
    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["pb", "pb-missing"], 7, "/pb/pb-missing: does not exist"),
            (["/pb"], 7, "-R deletes what is below it"),
            (["subarray", "01"], 2, "must be pb, deploy or sb"),
            (["pb"], 2, "must be pb, deploy or sb with an ID, or a PATH"),
        ],
    )
    def test_mistakes_delete_nothing(self, call, arguments, code, words):
        before = call("list", "-R", "--values")
        assert call("delete", *arguments)[0] == code
        assert words in call("delete", *arguments)[2]
        assert call("list", "-R", "--values") == before


class TestCancel:
    def test_with_a_reason(self, call, config, block):
        assert call("cancel", "pb", block, "--reason", "wrong field") == (0, "", "")
        assert read(config, f"/pb/{block}/state") == {
            "status": "CANCELLED",
            "resources_available": True,
            "reason": "wrong field",
        }

    def test_before_the_controller_has_seen_it(self, call, config):
        pb_id = call("create", "pb", BATCH)[1].strip()
        call("cancel", "pb", pb_id)
        assert read(config, f"/pb/{pb_id}/state") == {
            "status": "CANCELLED",
            "reason": "cancelled by the operator",
        }

    def test_ended_already(self, call, block):
        call("cancel", "pb", block)
        code, _, err = call("cancel", "pb", block)
        assert (code, err) == (7, f"error: {block}: cannot be cancelled, it is CANCELLED already\n")

    def test_no_such_block(self, call):
        assert call("cancel", "pb", "pb-x") == (
            7,
            "",
            "error: /pb/pb-x: there is no such processing block\n",
        )


@pytest.fixture
def watching(etcd, config_prefix):
    """Return a function that starts `config watch` and waits until it looks."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "batch_imaging", "config", "watch", *arguments],
            env=os.environ | etcd.environment(config_prefix),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stderr.readline().startswith("watching")
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=30)


class TestWatch:
    def test_changes_below_the_path_until_ctrl_c(self, watching, config, block):
        process = watching(f"/pb/{block}")
        for pb_id in ("pb-ab", block):  # of which the first is not below the path
            for txn in config.txn():
                state = ProcessingBlockState(status=Status.FINISHED)
                txn.update_processing_block_state(pb_id, state)
        line = process.stdout.readline()
        assert line == f'/pb/{block}/state\t{{"status": "FINISHED"}}\n'
        for txn in config.txn():
            txn.raw.delete(f"/pb/{block}/state")
        assert process.stdout.readline() == f"/pb/{block}/state\tnull\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert process.stderr.read() == ""

    def test_entries_that_are_not_json(self, watching, etcd, config_prefix, config):
        process = watching()
        with etcd.config() as other:
            key = f"3{config_prefix}/pb/pb-bad"
            other.backend.commit([], {key: Put(b"{ not json\n")})
        assert process.stdout.readline() == '/pb/pb-bad\t"{ not json\\n"\n'


def test_no_database(call, etcd_server, monkeypatch):
    etcd_server.stop()
    monkeypatch.setenv("SDP_CONFIG_PORT", str(etcd_server.port))
    code, out, err = call("list")
    assert (code, out) == (7, "")
    assert str(etcd_server.port) in err


@pytest.mark.parametrize("command", ["list", "get", "watch", "create", "delete", "cancel"])
def test_help_has_an_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"batch-imaging config {command}" in out.split("Example")[1]
