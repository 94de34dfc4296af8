"""An operator's session in the real itango program, and what comes of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sessions import SMALL, StandAlone, batch_imaging, scheduling_block, status_of, wait_until

from batch_imaging.control.config.entities import Deployment, Status
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.simulate import run_simulation

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCRIPTS = Path(__file__).resolve().parents[3] / "tango_scripts"
LOG_LINES = [
    "INFO:batch_imaging:Claimed processing block pb-session-20200523-00001",
    "INFO:batch_imaging:Waiting for resources to be available",
    "INFO:batch_imaging:Resources are available",
    "INFO:batch_imaging:Creating buffer reservations",
    "INFO:batch_imaging:Deploying Dask EE",
    "INFO:batch_imaging:Running simulation pipeline",
    "INFO:batch_imaging:Running ICAL pipeline",
    "INFO:batch_imaging:Running spectral imaging pipeline",
    "INFO:batch_imaging:Finished processing",
    "INFO:batch_imaging:Removing Dask EE deployment",
]


@pytest.fixture(scope="module")
def stand_alone(tmp_path_factory) -> Iterator[StandAlone]:
    system = StandAlone(tmp_path_factory.mktemp("session"))
    system.up()
    yield system
    system.down()


def itango(stand_alone: StandAlone, *arguments: str, folder: Path) -> str:
    """Run the itango program in a home of its own, and return its output."""
    environment = os.environ | stand_alone.system.exports
    environment |= {"HOME": str(folder), "IPYTHONDIR": str(folder), "TERM": "dumb"}
    done = subprocess.run(
        [Path(sys.executable).with_name("itango"), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


def test_an_operators_session(stand_alone, tmp_path):
    request = scheduling_block("session")
    realtime, batch = (block["id"] for block in request["processing_blocks"])
    typed = tmp_path / "session.py"
    typed.write_text(
        "d = DeviceProxy('mid_sdp/elt/subarray_1')\n"
        f"config_sbi = '''{json.dumps(request)}'''\n"
        "d.AssignResources(config_sbi)\n"
        "print('after AssignResources:', d.obsState.name)\n"
    )
    assert "after AssignResources: IDLE" in itango(stand_alone, str(typed), folder=tmp_path)
    with stand_alone.config() as config:
        wait_until(config, lambda view: status_of(view, realtime) == Status.RUNNING, realtime)
        wait_until(config, lambda view: status_of(view, batch) == Status.WAITING, batch)
    itango(stand_alone, str(SCRIPTS / "release_resources.py"), folder=tmp_path)
    with stand_alone.config() as config:
        wait_until(config, lambda view: (status_of(view, batch) or Status.WAITING).ended, "end")
        with config.follow() as follower:
            view = follower.view
            assert status_of(view, realtime) == Status.FINISHED
            assert status_of(view, batch) == Status.FINISHED
            assert view.get_scheduling_block(request["id"]).status == "FINISHED"
            assert f"proc-{batch}-dask" not in view.list_deployments()
    log = batch_imaging("logs", batch, "--folder", str(stand_alone.folder)).splitlines()
    assert [line for line in log if line in LOG_LINES] == LOG_LINES
    image = stand_alone.folder / "buffers" / f"buff-{batch}-img"
    assert (image / "ska_pipeline_ical_restored.fits").exists()
    summary = json.loads((image / "report" / "summary.json").read_text())
    assert summary["outcome"] == "finished"


def test_a_second_block_reuses_the_buffers_of_the_first(stand_alone):
    names = {"buffer_vis": "buff-shared", "buffer_img": "buff-shared"}
    created = []
    for name in ("first", "second"):
        request = scheduling_block(name, SMALL | names)
        realtime, batch = (block["id"] for block in request["processing_blocks"])
        stand_alone.device().AssignResources(json.dumps(request))
        with stand_alone.config() as config:
            wait_until(config, lambda view, pb=realtime: status_of(view, pb) == "RUNNING", realtime)
            stand_alone.device().ReleaseResources()
            wait_until(
                config, lambda view, pb=batch: (status_of(view, pb) or Status.WAITING).ended, batch
            )
            with config.follow() as follower:
                assert status_of(follower.view, batch) == Status.FINISHED
                created.append(follower.view.get_deployment("buff-shared"))
    assert created[0] == created[1]
    report = stand_alone.folder / "buffers/buff-shared/provenance.json"
    assert json.loads(report.read_text())["pb_id"] == "pb-second-20200523-00001"


def test_sets_of_a_buffer_are_imaged(stand_alone):
    buffers = stand_alone.folder / "buffers"
    with stand_alone.config() as config:
        for txn in config.txn():
            txn.create_deployment(
                Deployment(id="buff-given", type="helm", args={"chart": "buffer", "values": {}})
            )
        wait_until(config, lambda view: view.get_deployment_state("buff-given"), "the buffer")
    given = load_parameters(SMALL | {"nfreqwin": 2})
    run_simulation(given, buffers / "buff-given", SerialExecutor(), Progress(show_bar=False))
    left = sorted(path.name for path in (buffers / "buff-given").iterdir())
    parameters = {
        "n_workers": 1,
        "imaging": {"npixel": 128},
        "buffer_img": "buff-line",
        "buffer_img_size": "100Mi",
        "input": {"buffer": "buff-given"},
        "image": {"clean": False, "cellsize": 0.002, "moments": 5.0},
    }
    state, stages = run_block(stand_alone, "imaging", parameters)
    assert state.status == Status.FINISHED, state.reason
    assert stages & {"imaging planes", "moments", "report"}  # as a worker has said
    for name in ("image.fits", "moment0.fits", "report.html", "provenance.json"):
        assert (buffers / "buff-line" / name).is_file()
    assert sorted(path.name for path in (buffers / "buff-given").iterdir()) == left
    missing = parameters | {"input": {"buffer": "buff-no"}}
    state, _ = run_block(stand_alone, "missing", missing)
    assert state.status == Status.FAILED
    assert state.reason.startswith("buff-no: there is no such buffer, which input.buffer names")


def run_block(stand_alone, name, parameters):
    """Assign and release resources for a batch block; return its last state and its stages."""
    request = scheduling_block(name, parameters)
    realtime, batch = (block["id"] for block in request["processing_blocks"])
    stages = set()

    def has_ended(view):
        state = view.get_processing_block_state(batch)
        stages.add(state and state.stage)
        return state and state.status.ended and state

    stand_alone.device().AssignResources(json.dumps(request))
    with stand_alone.config() as config:
        wait_until(config, lambda view: status_of(view, realtime) == Status.RUNNING, realtime)
        stand_alone.device().ReleaseResources()
        return wait_until(config, has_ended, batch), stages
