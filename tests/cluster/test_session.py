"""An operator's session in a cluster: from helm install to an image, and to helm uninstall."""

import json
import sys

import numpy as np
import pytest
from astropy.io import fits
from installation import (
    DEADLINE_S,
    REASON_S,
    SMALL,
    Installation,
    run,
    scheduling_block,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LOG_LINES = [
    "Claimed processing block {}",
    "Waiting for resources to be available",
    "Resources are available",
    "Creating buffer reservations",
    "Deploying Dask EE",
    "Running simulation pipeline",
    "Running ICAL pipeline",
    "Running spectral imaging pipeline",
    "Finished processing",
    "Removing Dask EE deployment",
]
REQUEST = scheduling_block("mvp01", SMALL)
REALTIME, BATCH = (block["id"] for block in REQUEST["processing_blocks"])


def test_from_helm_install_to_an_image_and_to_helm_uninstall(tmp_path):
    system = Installation.new()
    try:
        system.install()
        _session(system, tmp_path / "fetched")
        assert_same_images_here(tmp_path)
        system.uninstall()
        buffers = [f"buff-{BATCH}-{kind}" for kind in ("img", "vis")]
        claims = [f"persistentvolumeclaim/{each}" for each in buffers]
        system.assert_only([*claims, *(f"secret/sh.helm.release.v1.{each}.v1" for each in buffers)])
    finally:
        system.delete_namespaces()


def _session(system: Installation, folder) -> None:
    said = system.itango(
        "d = DeviceProxy('mid_sdp/elt/subarray_1')",
        "d.On()",
        f"d.AssignResources({json.dumps(REQUEST)!r})",
        "print('obsState', d.obsState.name)",
    )
    assert "obsState IDLE" in said
    assert (
        system.wait(REALTIME, lambda state: state.status == "RUNNING", REASON_S).status == "RUNNING"
    )
    assert system.wait(BATCH, lambda state: state.status == "WAITING", REASON_S).status == "WAITING"
    system.itango("DeviceProxy('mid_sdp/elt/subarray_1').ReleaseResources()")

    system.wait_for_stage(BATCH, "ical")
    pods = [each["metadata"]["name"] for each in system.objects("pods")]
    for prefix, count in (("workflow", 1), ("dask-scheduler", 1), ("dask-worker", 2)):
        assert len([name for name in pods if name.startswith(f"proc-{BATCH}-{prefix}")]) == count
    assert f"proc-{BATCH}-dask-scheduler" in {
        each["metadata"]["name"] for each in system.objects("services")
    }
    claims = {each["metadata"]["name"]: each["status"]["phase"] for each in system.objects("pvc")}
    assert claims == {f"buff-{BATCH}-img": "Bound", f"buff-{BATCH}-vis": "Bound"}

    assert system.wait_for_end(BATCH) == ("FINISHED", "")
    system.assert_nothing_left(BATCH)
    log = system.kubectl("logs", f"job/proc-{BATCH}-workflow")
    lines = [line.format(BATCH) for line in LOG_LINES]
    assert [said for said in lines if said in log] == lines
    run(
        *(sys.executable, "-m", "batch_imaging", "fetch"),
        *(f"buff-{BATCH}-img", str(folder), "-n", system.processing),
        deadline_s=DEADLINE_S,
    )
    assert (folder / "ska_pipeline_ical_restored.fits").exists()
    assert len(list(folder.glob("logs/worker-*.log"))) >= 2
    summary = json.loads((folder / "report" / "summary.json").read_text())
    assert summary["outcome"] == "finished"


def assert_same_images_here(folder) -> None:
    """Run the same parameters on this machine and compare the restored images."""
    (folder / "params.json").write_text(json.dumps(SMALL))
    run(
        *(sys.executable, "-m", "batch_imaging", "run", str(folder / "params.json")),
        *("--output", str(folder)),
        deadline_s=DEADLINE_S,
    )
    name = "ska_pipeline_ical_restored.fits"
    here = fits.getdata(next(folder.glob(f"buff-*/{name}")))
    peak = np.abs(here).max()
    np.testing.assert_allclose(fits.getdata(folder / "fetched" / name), here, atol=1e-4 * peak)
