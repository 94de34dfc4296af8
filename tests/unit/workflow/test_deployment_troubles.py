"""What a script makes of the states of its engine and its buffers."""

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    ProcessingBlock,
    ProcessingBlockState,
    Resources,
    Status,
    WorkflowName,
)
from batch_imaging.control.leader import HELM_DEPLOYER, leader_path
from batch_imaging.errors import ControlError, EngineError
from batch_imaging.workflow.buffers import choose_buffers, delete_buffer
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import _is_prototype, _trouble
from batch_imaging.workflow.interruption import Interruptions

ENGINE, BUFFER = "proc-pb-a-dask", "buff-a"
RUNNING, FAILED = DeploymentStatus.RUNNING, DeploymentStatus.FAILED


@pytest.fixture
def config():
    block = ProcessingBlock(
        id="pb-a", sbi_id=None, workflow=WorkflowName(type="batch", id="a", version="1")
    )
    with Config(MemoryBackend()) as config:
        for txn in config.txn():
            txn.create_processing_block(block)
            state = ProcessingBlockState(
                status=Status.RUNNING, resources=Resources(buffers={BUFFER: 1})
            )
            txn.create_processing_block_state("pb-a", state)
            for deploy_id, chart in ((ENGINE, "dask-ee"), (BUFFER, "buffer")):
                args = {"chart": chart}
                txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))
        yield config


def say(config, deploy_id, status, reason=None):
    for txn in config.txn():
        txn.set_deployment_state(deploy_id, DeploymentState(status=status, reason=reason))


def test_a_buffer_that_fails_when_it_is_first_used_ends_the_block(config):
    interruptions = Interruptions(ClaimedBlock.claim(config, "pb-a"))
    say(config, BUFFER, FAILED, "no room")
    with config.follow() as follower:
        assert interruptions._find_cause(follower.view) is None, "it is not used yet"
    say(config, ENGINE, RUNNING)
    with config.follow() as follower:
        cause = interruptions._find_cause(follower.view)
    assert isinstance(cause, EngineError)
    assert str(cause) == "buff-a: no room"


def test_the_wait_for_workers_tells_and_ends_with_the_troubles_of_buffers(config):
    say(config, ENGINE, RUNNING, "pod w: Unschedulable")
    say(config, BUFFER, RUNNING, "claim buff-a: waits")
    assert _trouble(config, [ENGINE, BUFFER]) == "pod w: Unschedulable; claim buff-a: waits"
    say(config, BUFFER, FAILED, "no room")
    with pytest.raises(EngineError, match="buff-a: no room"):
        _trouble(config, [ENGINE, BUFFER])


@pytest.mark.parametrize("sign", ["none", "leader", "state"])
def test_a_deployer_that_leads_or_says_something_is_no_prototype(config, monkeypatch, sign):
    monkeypatch.setenv("SDP_HELM_NAMESPACE", "sdp")
    if sign == "state":
        say(config, BUFFER, RUNNING)
    for txn in config.txn():
        if sign == "leader":
            txn.raw.create(leader_path(HELM_DEPLOYER), {})
    for txn in config.txn():
        assert _is_prototype(txn) is (sign == "none")


def test_a_buffer_that_has_come_into_use_meanwhile_is_not_deleted(config):
    for txn in config.txn():
        ended = ProcessingBlockState(status=Status.FINISHED, resources=Resources(buffers={}))
        txn.update_processing_block_state("pb-a", ended)
    with config.follow() as follower:
        (buffer,) = choose_buffers(follower.view, [BUFFER])
    assert not buffer.in_use_by
    for txn in config.txn():
        used = ProcessingBlockState(status=Status.RUNNING, resources=Resources(buffers={BUFFER: 1}))
        txn.update_processing_block_state("pb-a", used)
    with pytest.raises(ControlError, match="pb-a has not ended and uses it"):
        delete_buffer(config, buffer)
