"""Every part is killed at every stage of a run: nothing is lost, nothing is left behind."""

import json
from collections.abc import Iterator

import psutil
import pytest
from sessions import (
    StandAlone,
    scheduling_block,
    status_of,
    wait_until,
)

from batch_imaging.control.config import View
from batch_imaging.control.config.entities import Status, engine_deployment_id

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stand_alone(tmp_path_factory) -> Iterator[StandAlone]:
    system = StandAlone(tmp_path_factory.mktemp("system"))
    system.up()
    yield system
    system.down()


def is_past(stage: str, pb_id: str):
    """Return a condition: the block has come as far as a stage."""
    stages = ["STARTING", "WAITING", "RUNNING", "engine", "simulation", "ical"]

    def condition(view: View) -> bool:
        state = view.get_processing_block_state(pb_id)
        if state is None:
            return False
        reached = {str(state.status)}
        if state.stage:
            reached.add(state.stage.partition(":")[0])
        ahead = set(stages[stages.index(stage) :]) | {"spectral imaging", "report"}
        return bool(reached & ahead) or state.status.ended

    return condition


def assign(stand_alone: StandAlone, name: str) -> str:
    """Assign resources and return the id of the batch block."""
    request = scheduling_block(name)
    stand_alone.device().AssignResources(json.dumps(request))
    return request["processing_blocks"][1]["id"]


def release(stand_alone: StandAlone, pb_id: str) -> None:
    """End the real-time block that a batch block waits for, once it runs."""
    realtime = pb_id[:-1] + "0"
    with stand_alone.config() as config:
        wait_until(config, lambda view: status_of(view, realtime) == Status.RUNNING, realtime)
        wait_until(config, lambda view: status_of(view, pb_id) == Status.WAITING, pb_id)
    stand_alone.device().ReleaseResources()


@pytest.mark.parametrize("service", ["controller", "deployer", "subarray-1", "etcd"])
def test_a_run_survives_the_death_of_a_service_at_every_stage(stand_alone, service):
    pb_id = assign(stand_alone, f"kill{service.replace('-', '')}")
    with stand_alone.config() as config:
        wait_until(config, is_past("STARTING", pb_id), "STARTING")
    stand_alone.kill(service)
    stand_alone.up()
    release(stand_alone, pb_id)
    for stage in ("RUNNING", "engine", "simulation", "ical"):
        with stand_alone.config() as config:
            wait_until(config, is_past(stage, pb_id), stage)
        stand_alone.kill(service)
        stand_alone.up()
    with stand_alone.config() as config:
        wait_until(config, lambda view: (status_of(view, pb_id) or Status.WAITING).ended, "end")
        wait_until(
            config,
            lambda view: engine_deployment_id(pb_id) not in view.list_deployments(),
            "removal of the engine",
        )
        with config.follow() as follower:
            view = follower.view
            assert view.get_processing_block_state(pb_id).status == Status.FINISHED
            image = view.get_deployment_state(f"buff-{pb_id}-img").path
    assert stand_alone.device().obsState.name == "EMPTY"
    assert (stand_alone.folder / "buffers" / f"buff-{pb_id}-img").samefile(image)
    assert list((stand_alone.folder / "buffers").glob(f"buff-{pb_id}-img/report/index.html"))


@pytest.mark.parametrize("stage", ["WAITING", "RUNNING", "engine", "simulation", "ical"])
def test_a_killed_script_is_found_out_and_its_engine_removed(stand_alone, stage):
    pb_id = assign(stand_alone, f"script{stage.lower()}")
    if stage != "WAITING":
        release(stand_alone, pb_id)
    with stand_alone.config() as config:
        wait_until(config, is_past(stage, pb_id), stage)
        owner = wait_until(config, lambda view: view.get_processing_block_owner(pb_id), "owner")
        psutil.Process(owner.pid).kill()
        wait_until(config, lambda view: status_of(view, pb_id) == Status.FAILED, "FAILED")
        wait_until(
            config,
            lambda view: engine_deployment_id(pb_id) not in view.list_deployments(),
            "removal of the engine",
        )
        with config.follow() as follower:
            assert follower.view.get_processing_block_state(pb_id).reason
    if stage == "WAITING":
        stand_alone.device().ReleaseResources()
