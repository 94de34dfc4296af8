"""Buffers that a block asks for, and those that are there already."""

from dataclasses import replace

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    ProcessingBlock,
    ProcessingBlockState,
    Status,
)
from batch_imaging.errors import ControlError, ResourceError, SettingError
from batch_imaging.execution.plan import make_plan
from batch_imaging.parameters import load_parameters
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import BufferRequest, request_buffers, reserve_buffers
from batch_imaging.workflow.imaging_script import worker_limit_bytes

GIB = 2**30
PB_ID = "pb-test-20200523-00000"


@pytest.fixture(scope="module")
def plan():
    small = make_plan(load_parameters({}), available_bytes=16 * GIB, cores=2)
    return replace(small, measurement_set_bytes=4 * GIB, image_bytes=8 * GIB)


def requests_of(plan, **members):
    return request_buffers(load_parameters(members).with_buffers(PB_ID), plan)


def test_sizes_follow_the_plan(plan, caplog):
    vis, img = requests_of(plan)
    assert (vis.name, vis.size_bytes) == (f"buff-{PB_ID}-vis", 5 * GIB)
    assert (img.name, img.size_bytes) == (f"buff-{PB_ID}-img", 11 * GIB)
    assert vis.storage_class is None
    assert not caplog.records


def test_sizes_that_are_asked_for_win(plan, caplog):
    vis, img = requests_of(plan, buffer_vis_size="50Gi", buffer_img_size="9Gi", buffer_class="nvme")
    assert (vis.size_bytes, img.size_bytes) == (50 * GIB, 9 * GIB)
    assert vis.storage_class == img.storage_class == "nvme"
    (warning,) = caplog.messages
    assert "its size is to be 9Gi, and about 8Gi will be written" in warning


def test_a_size_below_the_data_is_refused(plan):
    with pytest.raises(ResourceError, match=r"is to be 3Gi, and about 4Gi .*buffer_vis_size"):
        requests_of(plan, buffer_vis_size="3Gi")


def test_one_buffer_may_be_both(plan):
    both = {"buffer_vis": "both", "buffer_img": "both"}
    (request,) = requests_of(plan, **both)
    assert request.data_bytes == plan.disk_bytes
    (request,) = requests_of(plan, **both, buffer_vis_size="20Gi", buffer_img_size="30Gi")
    assert request.size_bytes == 30 * GIB


@pytest.fixture
def claimed():
    config = Config(MemoryBackend(), "")
    block = ProcessingBlock.model_validate(
        {
            "id": PB_ID,
            "sbi_id": "sbi-test",
            "workflow": {"type": "batch", "id": "batch_imaging", "version": "1.0"},
        }
    )
    for txn in config.txn():
        txn.create_processing_block(block)
        txn.create_processing_block_state(PB_ID, ProcessingBlockState(status=Status.STARTING))
    with config:
        yield ClaimedBlock.claim(config, PB_ID)


def deploy(claimed, name, chart="buffer", **members):
    for txn in claimed.config.txn():
        args = {"chart": chart} | members
        txn.create_deployment(Deployment(id=name, type="helm", args=args))
    run(claimed, name)


def run(claimed, name):
    for txn in claimed.config.txn():
        state = DeploymentState(status=DeploymentStatus.RUNNING, path=f"/somewhere/{name}")
        txn.set_deployment_state(name, state)


def args_of(claimed, name):
    found = None
    for txn in claimed.config.txn():
        found = txn.get_deployment(name)
    return found.args


@pytest.mark.parametrize("retain", [True, False])
def test_a_new_buffer_has_size_class_and_owner(claimed, monkeypatch, retain):
    monkeypatch.setattr(
        "batch_imaging.workflow.deployments._wait_until_running",
        lambda config, name, deadline_s: DeploymentState(
            status=DeploymentStatus.RUNNING, path="/x"
        ),
    )
    requests = [BufferRequest("one", 1, 2 * GIB, "nvme"), BufferRequest("two", 1, 1500)]
    assert reserve_buffers(claimed, requests, retain).keys() == {"one", "two"}
    mark = {} if retain else {"retain": False}
    owner = {"pb_id": PB_ID, "sbi_id": "sbi-test"}
    values = {"size": "2Gi", "class": "nvme"} | owner
    assert args_of(claimed, "one") == {"chart": "buffer", "values": values} | mark
    assert args_of(claimed, "two")["values"] == {"size": "1500"} | owner


def test_a_buffer_that_exists_keeps_size_and_class(claimed, caplog):
    values = {"size": "2Gi", "class": "slow"}
    deploy(claimed, "there", values=values)
    request = BufferRequest("there", 2 * GIB, 10 * GIB, "nvme")
    (folder,) = reserve_buffers(claimed, [request], retain=False).values()
    assert str(folder) == "/somewhere/there"
    assert args_of(claimed, "there") == {"chart": "buffer", "values": values}
    assert "this buffer exists with 2Gi" in caplog.text


def test_a_block_that_retains_has_a_shared_buffer_stay(claimed):
    deploy(claimed, "there", values={"size": "2Gi"}, retain=False)
    reserve_buffers(claimed, [BufferRequest("there", GIB, GIB)], retain=False)
    assert args_of(claimed, "there")["retain"] is False
    reserve_buffers(claimed, [BufferRequest("there", GIB, GIB)], retain=True)
    assert "retain" not in args_of(claimed, "there")


def test_what_cannot_be_used_is_refused(claimed):
    deploy(claimed, "small", values={"size": "2Gi"})
    with pytest.raises(ResourceError, match="this buffer exists with 2Gi, and about 3Gi"):
        reserve_buffers(claimed, [BufferRequest("small", 3 * GIB, 4 * GIB)], retain=True)
    deploy(claimed, "other", chart="dask-ee")
    with pytest.raises(ControlError, match="of the chart dask-ee, not a buffer"):
        reserve_buffers(claimed, [BufferRequest("other", GIB, GIB)], retain=True)


def test_memory_of_a_worker_is_a_setting(monkeypatch):
    monkeypatch.delenv("BATCH_IMAGING_WORKER_MEMORY", raising=False)
    assert worker_limit_bytes() is None
    monkeypatch.setenv("BATCH_IMAGING_WORKER_MEMORY", "4Gi")
    assert worker_limit_bytes() == 4 * GIB
    monkeypatch.setenv("BATCH_IMAGING_WORKER_MEMORY", "much")
    with pytest.raises(SettingError, match="BATCH_IMAGING_WORKER_MEMORY = much: is not a size"):
        worker_limit_bytes()
