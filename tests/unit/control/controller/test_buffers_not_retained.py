"""Buffers that go when all blocks that use them have ended."""

import pytest

from batch_imaging.control.config.entities import Deployment, DeploymentState, DeploymentStatus


@pytest.fixture
def make_buffer(room):
    """A function that deploys a buffer for a block."""

    def make(name, pb_id, **marks):
        args = {"chart": "buffer", "values": {"pb_id": pb_id}} | marks
        for txn in room.config.txn():
            txn.create_deployment(Deployment(id=name, type="helm", args=args))

    return make


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "CANCELLED"])
def test_it_goes_when_its_block_has_ended_however(room, make_buffer, status):
    room.wait_with("pb-a", buff_a=10)
    make_buffer("buff-a", "pb-a", retain=False)
    make_buffer("buff-kept", "pb-a")
    room.settle()
    room.set("pb-a", status)
    room.settle()
    assert room.deployment("buff-a"), "the script still cleans up"
    room.disown("pb-a")
    room.settle()
    assert room.deployment("buff-a") is None
    assert room.deployment("buff-kept")


def test_it_stays_while_another_block_uses_it(room, make_buffer):
    room.wait_with("pb-a", shared=10)
    make_buffer("shared", "pb-a", retain=False)
    room.wait_with("pb-b", shared=10)
    room.finish("pb-a")
    room.settle()
    assert room.deployment("shared")
    room.finish("pb-b")
    room.settle()
    assert room.deployment("shared") is None


def test_it_stays_if_its_volume_was_there_before(room, make_buffer):
    room.wait_with("pb-a", buff_a=10)
    make_buffer("buff-a", "pb-a", retain=False)
    for txn in room.config.txn():
        state = DeploymentState(status=DeploymentStatus.RUNNING, adopted=True)
        txn.set_deployment_state("buff-a", state)
    room.finish("pb-a")
    room.settle()
    assert room.deployment("buff-a")


def test_it_goes_with_a_block_that_is_deleted(room, make_buffer):
    room.wait_with("pb-a", buff_a=10)
    make_buffer("buff-a", "pb-a", retain=False)
    room.delete("/pb/pb-a")
    room.settle()
    assert room.deployment("buff-a") is None
