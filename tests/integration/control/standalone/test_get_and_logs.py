"""`get` and `logs` on a real database: what people and programs see of blocks and deployments."""

import json
import time

import pytest

from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    ProcessingBlock,
    ProcessingBlockState,
)

pytestmark = pytest.mark.integration

PB_ID = "pb-test-20200523-00001"
DEPLOY_ID = f"proc-{PB_ID}-workflow"


@pytest.fixture
def command(etcd, tmp_path, monkeypatch, capfd):
    """Run a command on the shared etcd, as SDP_CONFIG_* names it, under a prefix of this test."""
    from batch_imaging.cli import main

    monkeypatch.setenv("BATCH_IMAGING_FOLDER", str(tmp_path / "none"))

    def run(*arguments):
        code = main(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def database(etcd, config, config_prefix, monkeypatch):
    for name, value in etcd.environment(config_prefix).items():
        if name.startswith("SDP_CONFIG_"):
            monkeypatch.setenv(name, value)
    return config


@pytest.fixture
def block(database, tmp_path):
    """A block that runs, with the log of its script."""
    log = tmp_path / "script.log"
    log.write_text("INFO:batch_imaging:Claimed processing block\n")
    workflow = {"type": "batch", "id": "batch_imaging", "version": "0.1.0"}
    state = {"status": "RUNNING", "stage": "ical", "fraction": 0.43}
    deployed = Deployment(id=DEPLOY_ID, type="helm", args={"chart": "workflow", "values": {}})
    for txn in database.txn():
        txn.create_processing_block(ProcessingBlock(id=PB_ID, sbi_id=None, workflow=workflow))
        txn.create_processing_block_state(PB_ID, ProcessingBlockState(**state))
        txn.create_deployment(deployed)
        txn.set_deployment_state(DEPLOY_ID, DeploymentState(status="RUNNING", log=str(log)))
    return log


def end(database, status, reason):
    for txn in database.txn():
        state = ProcessingBlockState(status=status, reason=reason)
        txn.update_processing_block_state(PB_ID, state)


def test_blocks_in_columns(command, block):
    code, out, _ = command("get", "pb")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["PROCESSING BLOCK", PB_ID]
    assert "batch:batch_imaging:0.1.0  RUNNING  ical 43%" in out


def test_everything_in_tables(command, block):
    out = command("get")[1]
    assert f"{DEPLOY_ID}  workflow  RUNNING" in out
    assert "SUBARRAY" not in out  # there is none


def test_json_has_the_entries_with_their_states(command, block):
    (found,) = json.loads(command("get", "pb", PB_ID, "--json")[1])
    assert found["workflow"]["id"] == "batch_imaging"
    assert found["state"]["fraction"] == 0.43
    assert set(json.loads(command("get", "--json")[1])) == {"subarray", "sb", "pb", "deploy"}


def test_a_malformed_entry_is_shown_as_such(command, block, database):
    for txn in database.txn():
        txn.raw.create("/pb/pb-odd", {"colour": "red"})
    assert "pb-odd                  malformed" in command("get", "pb")[1]


def test_what_is_not_there_is_named(command, block):
    code, _, err = command("get", "pb", "pb-nobody")
    assert (code, err.splitlines()[-1]) == (
        7,
        "error: pb-nobody: there is no such entry; `batch-imaging get` shows all",
    )
    code, _, err = command("logs", "pb-nobody")
    assert code == 7
    assert "neither a processing block nor a service" in err


def test_the_log_of_a_block(command, block):
    assert command("logs", PB_ID)[1] == block.read_text()


def test_following_ends_with_the_block_and_has_its_last_line(command, block, database):
    import threading

    def work():
        time.sleep(0.5)
        with block.open("a") as log:
            log.write("INFO:batch_imaging:Finished processing\n")
        end(database, "FINISHED", None)

    worker = threading.Thread(target=work)
    worker.start()
    code, out, _ = command("logs", PB_ID, "--follow")
    worker.join()
    assert code == 0
    assert out.splitlines()[-1] == "INFO:batch_imaging:Finished processing"


def test_a_block_that_never_ran_has_a_reason_instead_of_a_log(command, block, database):
    block.unlink()
    end(database, "FAILED", "no such workflow")
    code, _, err = command("logs", PB_ID, "--follow")
    assert code == 7
    assert "its state is FAILED: no such workflow" in err


@pytest.mark.parametrize("words", [("get",), ("logs", PB_ID)])
def test_without_a_database_it_says_where_one_comes_from(command, monkeypatch, words):
    monkeypatch.delenv("SDP_CONFIG_HOST", raising=False)
    code, _, err = command(*words)
    assert code == 7
    assert "start it with `batch-imaging up`, or set SDP_CONFIG_HOST and SDP_CONFIG_PORT" in err
