"""`batch-imaging buffers`, with a real etcd and the local deployer."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from batch_imaging.cli import main
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentStatus,
    ProcessingBlock,
    ProcessingBlockState,
    Resources,
    Status,
    WorkflowName,
)
from batch_imaging.workflow import buffers

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
NAME = WorkflowName(type="batch", id="batch_imaging", version="0.1.0")


@pytest.fixture
def call(etcd, config_prefix, monkeypatch, capsys):
    """Call the command on the database of this test; return exit code, stdout and stderr."""
    for name, value in etcd.environment(config_prefix).items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            code = main(["buffers", *arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def add_block(config, pb_id, status, buffer_bytes=None, **parameters):
    resources = {"resources": Resources(buffers=buffer_bytes)} if buffer_bytes else {}
    for txn in config.txn():
        txn.create_processing_block(
            ProcessingBlock(id=pb_id, sbi_id=None, workflow=NAME, parameters=parameters)
        )
        txn.create_processing_block_state(pb_id, ProcessingBlockState(status=status, **resources))


def add_buffer(config, name, retain=True, **values):
    for txn in config.txn():
        args = {"chart": "buffer", "values": values} | ({} if retain else {"retain": False})
        txn.create_deployment(Deployment(id=name, type="helm", args=args))


@pytest.fixture
def deployed(etcd, config_prefix, config, tmp_path):
    """Two buffers, made by a deployer: the block of one has ended, the other is in use."""
    add_block(config, "pb-a", Status.FINISHED)
    add_block(config, "pb-b", Status.RUNNING, {"buff-shared": 2**30})
    add_buffer(config, "buff-pb-a-vis", retain=False, size="1Mi", pb_id="pb-a")
    add_buffer(config, "buff-shared", size="2Mi", **{"class": "fast"})
    folder = tmp_path / "deployer"
    process = subprocess.Popen(
        [sys.executable, "-m", "batch_imaging", "deployer", "--folder", str(folder)],
        env=os.environ | etcd.environment(config_prefix),
        stderr=subprocess.DEVNULL,
    )
    try:
        for name in ("buff-pb-a-vis", "buff-shared"):
            wait_until_running(config, name)
        yield folder / "buffers"
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def wait_until_running(config, name):
    deadline = time.monotonic() + DEADLINE_S
    with config.follow() as follower:
        while True:
            state = follower.view.get_deployment_state(name)
            if state and state.status == DeploymentStatus.RUNNING:
                return
            assert time.monotonic() < deadline, state
            follower.wait(1.0)


class TestList:
    def test_who_uses_them(self, call, deployed):
        code, out, err = call("list")
        assert (code, err) == (0, "")
        header, first, second = (line.split() for line in out.splitlines())
        assert header[:4] == ["BUFFER", "SIZE", "CLASS", "STATUS"]
        path = str(deployed / "buff-pb-a-vis")
        assert first == ["buff-pb-a-vis", "1Mi", "RUNNING", "no", "pb-a", path]
        path = str(deployed / "buff-shared")
        assert second == ["buff-shared", "2Mi", "fast", "RUNNING", "yes", "pb-b", path]

    def test_as_json(self, call, deployed):
        shared = json.loads(call("list", "--json")[1])[1]
        assert shared == {
            "name": "buff-shared",
            "size": "2Mi",
            "storage_class": "fast",
            "status": "RUNNING",
            "reason": "",
            "path": str(deployed / "buff-shared"),
            "is_retained": True,
            "in_use_by": ["pb-b"],
            "used_by": [],
        }

    def test_no_deployer_and_other_charts(self, call, config):
        add_buffer(config, "buff-new")
        for txn in config.txn():
            args = {"chart": "dask-ee", "values": {"buffers[0]": "buff-new"}}
            txn.create_deployment(Deployment(id="proc-a-dask", type="helm", args=args))
        assert [each["name"] for each in json.loads(call("list", "--json")[1])] == ["buff-new"]

    def test_blocks_that_name_them_before_they_ask(self, call, config):
        add_buffer(config, "buff-mine")
        add_buffer(config, "buff-pb-a-img")
        add_block(config, "pb-a", Status.STARTING, buffer_vis="buff-mine")
        in_use = [each["in_use_by"] for each in json.loads(call("list", "--json")[1])]
        assert in_use == [["pb-a"], ["pb-a"]]


class TestDelete:
    def test_its_files_are_gone_when_it_returns(self, call, deployed):
        (deployed / "buff-pb-a-vis" / "set.ms").mkdir()
        assert call("delete", "buff-pb-a-vis") == (0, "buff-pb-a-vis\n", "")
        assert [each.name for each in deployed.iterdir()] == ["buff-shared"]

    def test_one_in_use_is_refused_and_so_are_those_beside_it(self, call, deployed):
        code, out, err = call("delete", "buff-pb-a-vis", "buff-shared")
        assert (code, out) == (7, "")
        assert err.startswith("error: buff-shared: pb-b has not ended and uses it; wait, or")
        assert len(list(deployed.iterdir())) == 2

    def test_one_whose_script_is_not_done_yet(self, call, config):
        add_buffer(config, "buff-pb-a-vis")
        add_block(config, "pb-a", Status.FAILED)
        for txn in config.txn():
            txn.take_processing_block("pb-a", config.client_lease)
        assert call("delete", "buff-pb-a-vis")[0] == 7

    def test_all_unused(self, call, deployed):
        assert call("delete", "--all-unused", "--dry-run") == (0, "buff-pb-a-vis\n", "")
        assert len(list(deployed.iterdir())) == 2
        assert call("delete", "--all-unused") == (0, "buff-pb-a-vis\n", "")
        assert call("delete", "--all-unused") == (0, "", "")
        assert [each.name for each in deployed.iterdir()] == ["buff-shared"]

    def test_elsewhere_removal_is_only_asked_for(self, call, config):
        add_buffer(config, "buff-far")
        code, out, err = call("delete", "buff-far")
        assert (code, out) == (0, "buff-far\n")
        assert err.startswith("buff-far: removal was asked for")
        assert call("list", "--json")[1] == "[]\n"

    def test_a_deployer_that_does_not_come(self, call, config, tmp_path, monkeypatch):
        monkeypatch.setattr(buffers, "REMOVED_DEADLINE_S", 0.2)
        add_buffer(config, "buff-stale")
        for txn in config.txn():
            txn.raw.create("/deploy/buff-stale/state", {"status": "RUNNING", "path": str(tmp_path)})
        code, out, err = call("delete", "buff-stale")
        assert (code, out) == (7, "")
        assert f"has not removed {tmp_path} within 0.2 s" in err

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["buff-x"], 7, "/deploy/buff-x: there is no such buffer"),
            ([], 2, "either name the buffers to delete, or say --all-unused"),
            (["buff-x", "--all-unused"], 2, "either name"),
        ],
    )
    def test_mistakes(self, call, arguments, code, words):
        assert call("delete", *arguments)[0] == code
        assert words in call("delete", *arguments)[2]

    @pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 8)])
    def test_a_question_on_a_terminal(self, call, config, monkeypatch, answer, code):
        add_buffer(config, "buff-far")
        asked = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("typer.confirm", lambda question, **_: asked.append(question) or answer)
        assert call("delete", "buff-far")[0] == code
        assert asked == ["Delete buff-far with all files?"]
        assert ("buff-far" in call("list")[1]) is not answer


@pytest.mark.parametrize("command", ["list", "delete"])
def test_help_has_an_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"batch-imaging buffers {command}" in out.split("Example")[1]
