"""Emptying a control system; the deployer is a test."""

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    ProcessingBlock,
    ProcessingBlockState,
    Status,
    WorkflowName,
)
from batch_imaging.control.deployer.drain import drain
from batch_imaging.control.deployer.loop import GOING, pending
from batch_imaging.errors import ControlError

WORKFLOW = WorkflowName(type="batch", id="a", version="1")


@pytest.fixture
def config():
    config = Config(MemoryBackend())
    for txn in config.txn():
        for pb_id in ("pb-new", "pb-runs", "pb-done"):
            txn.create_processing_block(ProcessingBlock(id=pb_id, sbi_id=None, workflow=WORKFLOW))
        runs = ProcessingBlockState(status=Status.RUNNING, stage="ical", resources_available=True)
        txn.create_processing_block_state("pb-runs", runs)
        done = ProcessingBlockState(status=Status.FINISHED)
        txn.create_processing_block_state("pb-done", done)
        for deploy_id, chart in (("script", "workflow"), ("volume", "buffer")):
            args = {"chart": chart}
            txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))
    return config


def test_blocks_are_cancelled_and_all_but_buffers_removed(config):
    assert drain(config, deadline_s=10) == ["script"]
    for txn in config.txn():
        assert txn.list_deployments() == ["volume"]
        states = {
            pb_id: txn.get_processing_block_state(pb_id) for pb_id in txn.list_processing_blocks()
        }
        assert {pb_id: state.status for pb_id, state in states.items()} == {
            "pb-new": "CANCELLED",
            "pb-runs": "CANCELLED",
            "pb-done": "FINISHED",
        }
        assert states["pb-runs"].reason == "the control system is being taken down"
        assert states["pb-runs"].stage is None


def test_buffers_go_that_are_not_to_be_kept(config):
    for txn in config.txn():
        for deploy_id in ("scratch", "adopted"):
            args = {"chart": "buffer", "retain": False}
            txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))
        adopted = DeploymentState(status=DeploymentStatus.RUNNING, adopted=True)
        txn.set_deployment_state("adopted", adopted)
    assert drain(config, deadline_s=10) == ["scratch", "script"]


def test_what_was_being_removed_before_is_waited_for(config):
    for txn in config.txn():
        txn.set_deployment_state("volume", GOING)
        txn.raw.delete("/deploy/volume")
    with pytest.raises(ControlError, match="volume: not gone after 0 s"):
        drain(config, deadline_s=0)


def test_without_a_deployer_it_does_not_end_well(config):
    for txn in config.txn():
        txn.set_deployment_state("script", pending("it is starting"))
    with pytest.raises(ControlError, match=r"script: not gone after 0 s; does a deployer run\?"):
        drain(config, deadline_s=0)
